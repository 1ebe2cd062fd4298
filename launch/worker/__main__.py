"""`python -m launch.worker`: see launch/worker/worker.py."""

import sys

from launch.worker.worker import main

if __name__ == "__main__":
    sys.exit(main())
