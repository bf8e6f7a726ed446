"""`python -m edgeqrl` is the command `edgeqrl`."""

from edgeqrl.cli.main import main

main()
