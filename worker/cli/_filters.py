"""Options and arguments that commands share, with their parsers."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta
from typing import Annotated

import typer

from receiver import clock
from receiver.providers.plain_text import plain_text
from receiver.providers.registry import registry
from receiver.providers.times import EARLIEST, clamped
from worker.configuration import durations

# A number may be a tel: URI; its parameters follow a semicolon.
_PHONE = re.compile(r"(?:(?:tel|callto):)?[^A-Za-z;]+(?:;[\w.=+;-]*)?", re.IGNORECASE)
_MIN_DIGITS, _MAX_DIGITS = 4, 20
_ROW_ID = re.compile(r"[0-9A-Za-z]{26}")
_MAX_ROWS = 100_000


def _before(now: datetime, span: timedelta) -> datetime:
    try:
        return clamped(now - span)
    except OverflowError:
        return EARLIEST


def _moment(value: str) -> datetime:
    span = durations.parse(value)
    try:
        if span is not None:
            return _before(clock.now(), span)
        return clamped(datetime.fromisoformat(value.strip()))
    except ValueError:
        raise typer.BadParameter(
            "must be ISO 8601 (2026-06-11T09:14:27Z) or an age (15m, 24h, 7d)"
        ) from None


def text(value: str) -> str:
    """Text that encodes to UTF-8; a command line can hold bytes that do not."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise typer.BadParameter("must be valid UTF-8") from None
    return value


def seconds(value: str) -> float:
    """A finite number of seconds, 0 or more."""
    try:
        duration = float(value)
    except ValueError:
        duration = math.nan
    if not 0 <= duration < math.inf:
        raise typer.BadParameter("must be a number of seconds")
    return duration


def _provider(value: str) -> str:
    if value not in registry():
        raise typer.BadParameter(f"must be one of: {', '.join(sorted(registry()))}")
    return value


def _phone(value: str) -> str:
    """A phone number in whatever spelling; it is compared in its normal form."""
    number = plain_text(text(value)).strip()
    digits = sum(map(str.isdigit, number.partition(";")[0]))
    if not _PHONE.fullmatch(number) or not _MIN_DIGITS <= digits <= _MAX_DIGITS:
        raise typer.BadParameter("must be a phone number such as +447700900123")
    return number


def _row_id(value: str) -> str:
    """A row id as stored; accepts lower-case letters."""
    row_id = text(value).strip()
    return row_id.upper() if _ROW_ID.fullmatch(row_id) else row_id


Provider = Annotated[
    str | None,
    typer.Option("--provider", parser=_provider, metavar="NAME", help="Only this provider."),
]
Service = Annotated[
    str | None,
    typer.Option(
        "--service",
        parser=text,
        metavar="NAME",
        help="Only orders for this service: a name or a glob such as whats*, in any case.",
    ),
]
Country = Annotated[
    str | None,
    typer.Option(
        "--country", parser=text, metavar="NAME", help="Only orders for this country, likewise."
    ),
]
Phone = Annotated[
    str | None,
    typer.Option(
        "--phone",
        parser=_phone,
        metavar="NUMBER",
        help="Only this phone number, in any spelling.",
    ),
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
        help="Stored at or after this time: ISO 8601, or an age such as 15m, 24h, 7d.",
    ),
]
Until = Annotated[
    datetime | None,
    typer.Option("--until", parser=_moment, metavar="TIME", help="Stored before this time."),
]
Limit = Annotated[
    int, typer.Option("--limit", min=1, max=_MAX_ROWS, help="Maximum number of rows.")
]
OrderArgument = Annotated[
    str, typer.Argument(parser=text, metavar="ORDER", help="The provider's id of the order.")
]
RowId = Annotated[str, typer.Argument(parser=_row_id, metavar="ID", help="An id as shown by list.")]
RowIds = Annotated[
    list[str], typer.Argument(parser=_row_id, metavar="ID...", help="Ids as shown by list.")
]
OptionalRowIds = Annotated[
    list[str] | None,
    typer.Argument(parser=_row_id, metavar="[ID]...", help="Ids as shown by list."),
]
