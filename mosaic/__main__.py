"""`python -m mosaic`, the same as the `mosaic` command."""

import sys

from mosaic.cli import main

sys.exit(main())
