"""``python -m worker.cli``: the command, run by the supervisor with its own interpreter."""

from worker.cli import main

main()
