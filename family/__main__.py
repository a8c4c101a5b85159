"""`python -P -m family` is `build-family`."""

import sys

from family.cli import main

if __name__ == "__main__":
    sys.exit(main())
