"""The URL of a running receiver, for commands that send webhooks to it."""

from __future__ import annotations

from typing import Annotated

import typer

from receiver.settings import WebSettings, load
from worker.configuration.settings import is_http_url


def _base_url(value: str) -> str:
    if not is_http_url(value) or "?" in value or "#" in value:
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
