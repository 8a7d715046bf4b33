"""`python -m adntn` is the command `adntn`."""

import sys

from adntn.cli import main

if __name__ == "__main__":
    sys.exit(main())
