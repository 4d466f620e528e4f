"""``codecatch routes``: test the routing of an example event."""

from __future__ import annotations

from typing import Annotated

import typer

from receiver.providers.phone_numbers import normal_number
from worker.cli import _filters, _output
from worker.cli._output import Output, write_error
from worker.configuration import file as configuration_file
from worker.configuration.routing import Subject
from worker.runtime.installation import adopt


def register(app: typer.Typer) -> None:
    """Add the commands."""
    nouns = typer.Typer(help="Test the routing of events.", no_args_is_help=True)
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
    type_: Annotated[str, _example("Event type.", "type")] = "sms.received",
    provider: Annotated[str, _example("Provider.", "provider")] = "virtualsms",
    service: Annotated[str | None, _example("Service of the order.", "service")] = None,
    country: Annotated[str | None, _example("Country of the number.", "country")] = None,
    phone: Annotated[str | None, _example("Phone number.", "phone")] = None,
    state: Annotated[str | None, _example("State of the order.", "state")] = None,
    as_json: _output.AsJson = False,
) -> None:
    """Show the destinations of an example event; nothing is sent."""
    adopt()
    configuration = configuration_file.read()
    subject = Subject(
        type=type_,
        provider=provider,
        service=service,
        country=country,
        phone_number=phone and normal_number(phone, country),
        order_state=state,
    )
    routing = configuration.routing
    Output(as_json).record(
        {
            "destinations": routing.of(subject),
            "by": [
                {
                    "route": route.key,
                    "match": route.match.description,
                    "to": list(route.to),
                    "stop": route.stop,
                }
                for route in routing.matching(subject)
            ],
            "file": None if configuration.file is None else str(configuration.file),
        }
    )
    if routing.routes is None:
        write_error("no routes are configured; codes and low balances go to every destination")
