"""`python -m eigenbank` is the command `eigenbank`."""

from eigenbank.cli.main import main

main()
