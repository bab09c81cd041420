"""`python -m diffusers_soundctm` is the `soundctm` command."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
