"""`python -m probe`: the same as the command `probe`."""

from probe.cli import main

main()
