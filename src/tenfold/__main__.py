"""`python -m tenfold` is the command `tenfold`; torchrun needs it."""

import sys

from tenfold.cli import main

sys.exit(main())
