"""The URL of a running receiver, for commands that send webhooks to it."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

import typer

from receiver.settings import WebSettings, load


def _base_url(value: str) -> str:
    try:
        url = urlsplit(value)
        usable = url.scheme in {"http", "https"} and url.hostname and (url.port or 1)
    except ValueError:
        usable = None
    if not usable or "@" in value or "?" in value or "#" in value:
        raise typer.BadParameter("must be the receiver's URL: http://HOST:PORT or https://HOST")
    return value.rstrip("/")


def option(name: str) -> typer.models.OptionInfo:
    """An option that takes the receiver's URL."""
    url_option: typer.models.OptionInfo = typer.Option(
        name,
        parser=_base_url,
        metavar="URL",
        help="The receiver's URL; by default http://127.0.0.1:PORT.",
    )
    return url_option


Url = Annotated[str | None, option("--url")]
WebhookUrl = Annotated[str | None, option("--webhook-url")]


def address(given: str | None) -> str:
    """The receiver's URL: as given, or ``PORT`` on this machine."""
    return given or f"http://127.0.0.1:{load(WebSettings).port}"
