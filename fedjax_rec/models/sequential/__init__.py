"""The next item of a sequence."""
