"""`python -m boda.cli`."""

from boda.cli import main

main()
