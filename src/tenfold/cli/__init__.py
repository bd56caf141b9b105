"""Floor 5: the command line."""

from tenfold.core.interrupt import at_once

with at_once():
    from tenfold.cli.entry import main as main
