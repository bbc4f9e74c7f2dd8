"""`python -m eigenbank` is the command `eigenbank`."""

from eigenbank.cli.start import main

main()
