"""Floor 5: the command line."""

from tenfold.cli.entry import main as main
