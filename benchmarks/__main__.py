"""`python -m benchmarks`: every suite, or those that are asked for."""

import sys

from benchmarks._runner import main

if __name__ == "__main__":
    sys.exit(main())
