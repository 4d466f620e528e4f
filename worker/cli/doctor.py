"""``codecatch doctor``: what is configured, reachable and missing, in a person's words."""

from __future__ import annotations

import sys

import typer

from worker.cli import _checks, _output
from worker.cli._checks import BROKEN, FINE, NOTICE, ReportedOrder
from worker.messages.text import plain
from worker.runtime.installation import adopt

_COLOURS = {FINE: "green", NOTICE: "yellow", BROKEN: "red"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor", help="Say what is configured, reachable and missing.")(doctor)


def doctor(as_json: _output.AsJson = False) -> None:
    """Examine this installation; exit code 1 if something essential is broken."""
    adopt()
    reported_orders = _checks.examine()
    usable = all(reported.level != BROKEN for reported in reported_orders)
    if as_json:
        checks = [
            {"name": found.name, "level": found.level, "says": found.says}
            for found in reported_orders
        ]
        _output.Output(json=True).record({"usable": usable, "checks": checks})
    else:
        width = max(len(found.name) for found in reported_orders)
        for found in reported_orders:
            _show(found, width)
        _output.write("usable" if usable else "not usable: see what is broken above")
    if not usable:
        raise typer.Exit(1)


def _show(found: ReportedOrder, width: int) -> None:
    level = f"{found.level:<6}"
    if sys.stdout.isatty():
        level = typer.style(level, fg=_COLOURS[found.level])
    _output.write(f"{level}  {found.name:<{width}}  {plain(found.says)}")
