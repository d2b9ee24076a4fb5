"""What `fedjax-rec bench` runs: speed and memory on this machine."""
