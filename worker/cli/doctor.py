"""``codecatch doctor``: checks the installation."""

from __future__ import annotations

import sys

import typer

from worker.cli import _checks, _output
from worker.cli._checks import BROKEN, FINE, NOTICE, Check
from worker.messages.text import plain
from worker.runtime.installation import adopt

_COLOURS = {FINE: "green", NOTICE: "yellow", BROKEN: "red"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor", help="Check the configuration, the connections and the workers.")(doctor)


def doctor(as_json: _output.AsJson = False) -> None:
    """Run all checks; exit code 1 if one of them is broken."""
    adopt()
    checks = _checks.examine()
    usable = all(check.level != BROKEN for check in checks)
    if as_json:
        rows = [
            {"name": check.name, "level": check.level, "says": check.message} for check in checks
        ]
        _output.Output(json=True).record({"usable": usable, "checks": rows})
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            _show(check, width)
        _output.write("usable" if usable else "not usable: fix the broken checks above")
    if not usable:
        raise typer.Exit(1)


def _show(check: Check, width: int) -> None:
    level = f"{check.level:<6}"
    if sys.stdout.isatty():
        level = typer.style(level, fg=_COLOURS[check.level])
    _output.write(f"{level}  {check.name:<{width}}  {plain(check.message)}")
