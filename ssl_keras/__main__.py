"""`python -m ssl_keras COMMAND`, equivalent to `ssl-keras COMMAND`."""

import sys

from ssl_keras.cli import main

if __name__ == "__main__":
    sys.exit(main())
