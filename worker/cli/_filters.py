"""The options that lists share: each is written once, and refuses what cannot be meant."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Annotated

import typer

from receiver import clock
from receiver.providers.registry import registry
from worker.configuration import durations

_PHONE = re.compile(r"\+?[0-9]{4,20}")
_ROW_ID = re.compile(r"[0-9A-Za-z]{26}")
_MOST_ROWS = 100_000


def _moment(value: str) -> datetime:
    span = durations.parse(value)
    try:
        if span is not None:
            return clock.now() - span
        moment = datetime.fromisoformat(value.strip())
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter("wants ISO 8601 (2026-06-11T09:14:27Z) or 15m, 24h, 7d") from None


def text(value: str) -> str:
    """Anything that has a spelling in UTF-8; a command line may hold bytes that have none."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise typer.BadParameter("wants UTF-8") from None
    return value


def seconds(value: str) -> float:
    """A span of time."""
    try:
        span = float(value)
    except ValueError:
        span = math.nan
    if not 0 <= span < math.inf:
        raise typer.BadParameter("wants a number of seconds")
    return span


def _provider(value: str) -> str:
    if value not in registry():
        raise typer.BadParameter(f"wants one of: {', '.join(sorted(registry()))}")
    return value


def _phone(value: str) -> str:
    digits = re.sub(r"[\s().\-]", "", value)
    if not _PHONE.fullmatch(digits):
        raise typer.BadParameter("wants a phone number such as +447700900123")
    return digits


def _row_id(value: str) -> str:
    """An id in the spelling of the database; people may write its letters small."""
    known = text(value).strip()
    return known.upper() if _ROW_ID.fullmatch(known) else known


Provider = Annotated[
    str | None,
    typer.Option("--provider", parser=_provider, metavar="NAME", help="Only this provider."),
]
Service = Annotated[
    str | None,
    typer.Option("--service", parser=text, metavar="NAME", help="Only orders for this service."),
]
Phone = Annotated[
    str | None,
    typer.Option("--phone", parser=_phone, metavar="E164", help="Only this phone number."),
]
Order = Annotated[
    str | None, typer.Option("--order", parser=text, metavar="ORDER", help="Only this order.")
]
Since = Annotated[
    datetime | None,
    typer.Option(
        "--since",
        parser=_moment,
        metavar="TIME",
        help="Stored at this time or later: ISO 8601, or 15m, 24h, 7d ago.",
    ),
]
Until = Annotated[
    datetime | None,
    typer.Option("--until", parser=_moment, metavar="TIME", help="Stored before this time."),
]
Limit = Annotated[int, typer.Option("--limit", min=1, max=_MOST_ROWS, help="At most so many rows.")]
OrderArgument = Annotated[
    str, typer.Argument(parser=text, metavar="ORDER", help="The provider's id of the order.")
]
RowId = Annotated[
    str, typer.Argument(parser=_row_id, metavar="ID", help="An id as the list shows it.")
]
RowIds = Annotated[
    list[str], typer.Argument(parser=_row_id, metavar="ID...", help="Ids as the list shows them.")
]
OptionalRowIds = Annotated[
    list[str] | None,
    typer.Argument(parser=_row_id, metavar="[ID]...", help="Ids as the list shows them."),
]
