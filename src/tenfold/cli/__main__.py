"""`python -m tenfold.cli` is the command `tenfold`."""

import sys

from tenfold.cli.entry import main

sys.exit(main())
