"""`python -m fedjax_rec` is the command `fedjax-rec`."""

import sys

from .experiment.main import main

if __name__ == "__main__":
    sys.exit(main())
