"""`python -m tenfold` is the command `tenfold`; torchrun needs it."""

from tenfold.cli import main

main()
