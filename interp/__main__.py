"""`python -m interp`, the same as the command `interp`."""

from interp.cli import main

main()
