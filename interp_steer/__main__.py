"""`python -m interp_steer` is `interp-steer`."""

import sys

from interp_steer.cli import main

sys.exit(main())
