"""``codecatch routes``: which way an event would go."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.cli import _filters, _output
from worker.cli._output import Output, complain
from worker.configuration import file as configuration_file
from worker.configuration.routing import Subject
from worker.runtime.installation import adopt


def register(app: typer.Typer) -> None:
    """Add the commands."""
    nouns = typer.Typer(help="Which way events go.", no_args_is_help=True)
    nouns.command("test", help="Show which destinations an example event reaches, and why.")(
        try_route
    )
    app.add_typer(nouns, name="routes")


def _example(help_: str, name: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        f"--{name}", parser=_filters.text, metavar=name.upper(), help=help_
    )
    return option


def try_route(
    *,
    type_: Annotated[str, _example("The event's type.", "type")] = "sms.received",
    provider: Annotated[str, _example("Of this provider.", "provider")] = "virtualsms",
    service: Annotated[str | None, _example("For this service.", "service")] = None,
    country: Annotated[str | None, _example("In this country.", "country")] = None,
    phone: Annotated[str | None, _example("On this number.", "phone")] = None,
    state: Annotated[str | None, _example("With its order in this state.", "state")] = None,
    as_json: _output.AsJson = False,
) -> None:
    """Show where such an event would go; nothing is sent."""
    adopt()
    chosen = configuration_file.read()
    subject = Subject(
        type=type_,
        provider=provider,
        service=service,
        country=country,
        phone_number=phone,
        order_state=state,
    )
    routing = chosen.routing
    Output(as_json).record(
        {
            "destinations": routing.of(subject),
            "by": [
                {
                    "line": route.line,
                    "match": route.match.words,
                    "to": list(route.to),
                    "stop": route.stop,
                }
                for route in routing.matching(subject)
            ],
            "file": None if chosen.file is None else str(chosen.file),
        }
    )
    if routing.routes is None:
        complain("there are no routes: codes and low balances go to every destination")
