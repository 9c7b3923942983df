"""`python -m featurestore.cli`, the same as `featurestore`."""

import sys

from featurestore.cli import main

if __name__ == "__main__":
    sys.exit(main())
