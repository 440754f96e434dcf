"""``python -m streams.cli``: the command line without the console script."""

from streams.cli import main

main()
