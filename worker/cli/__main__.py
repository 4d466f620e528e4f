"""``python -m worker.cli``: the command, for a supervisor that knows its own interpreter."""

from worker.cli import main

main()
