"""`PYTHONPATH=tests python -m hub`, which is what `make hub` runs."""

from hub.server import main

main()
