"""``codecatch simulate``: send a provider's signed webhooks to a running receiver."""

from __future__ import annotations

import math
import time
from collections import Counter
from contextlib import closing
from typing import Annotated
from urllib.parse import urlsplit

import typer

from worker.cli import _filters, _receiver
from worker.cli._output import write
from worker.http.client import HttpClient, HttpError
from worker.messages.text import plain, shorten
from worker.runtime.installation import adopt
from worker.simulator import signed_webhooks
from worker.simulator.signed_webhooks import NoSuchEvent, Webhook

_MAX_COUNT = 1_000_000
_MAX_REASON_LENGTH = 200


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("simulate", help="Send a provider's signed webhook to a running receiver.")(
        simulate
    )


def _rate(value: str) -> float:
    try:
        rate = float(value)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise typer.BadParameter("must be a positive number of webhooks per second")
    return rate


def simulate(
    provider: Annotated[
        str, typer.Argument(metavar="PROVIDER", help=" or ".join(signed_webhooks.EVENTS))
    ],
    event: Annotated[
        str, typer.Argument(metavar="EVENT", help="sms.received, order.confirmed, balance.low, …")
    ],
    *,
    url: _receiver.Url = None,
    order: Annotated[
        str | None,
        typer.Option("--order", parser=_filters.text, help="Order id; random by default."),
    ] = None,
    code: Annotated[
        str | None,
        typer.Option("--code", parser=_filters.text, help="One-time code; random by default."),
    ] = None,
    dialect: Annotated[
        str | None, typer.Option("--dialect", help="Payload format of virtualsms: v2, v1 or flat.")
    ] = None,
    count: Annotated[
        int, typer.Option("--count", min=1, max=_MAX_COUNT, help="How many webhooks to send.")
    ] = 1,
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate", parser=_rate, metavar="N", help="Maximum number of webhooks per second."
        ),
    ] = None,
) -> None:
    """Send webhooks and print one line for each answer; exit code 1 if any is not 2xx."""
    try:
        signed_webhooks.choose(provider, event, dialect)
    except NoSuchEvent as error:
        raise typer.BadParameter(str(error)) from None
    adopt()
    secret = signed_webhooks.secret_of(provider)
    base = _receiver.address(url)
    host = urlsplit(base).netloc
    http = HttpClient(
        allowed_hosts=[host],
        plain_http_hosts=[host] if base.startswith("http:") else [],
        private_hosts=[host],
    )
    outcomes: Counter[str] = Counter()
    began = time.monotonic()
    with closing(http):
        for number in range(count):
            if rate is not None:
                time.sleep(max(began + number / rate - time.monotonic(), 0.0))
            facts = signed_webhooks.invent(provider, order=order, code=code)
            made = signed_webhooks.webhook(provider, event, dialect, facts, secret)
            outcome, detail = _send(http, base, made)
            about = "" if event.startswith("balance.") else f"  order {facts.order}"
            write(plain(f"{outcome} {detail}{about}"))
            outcomes[outcome] += 1
    if count > 1:
        seconds = time.monotonic() - began
        summary = ", ".join(f"{times} x {outcome}" for outcome, times in outcomes.most_common())
        write(f"{count} sent in {seconds:.1f} s: {summary}")
    if any(not outcome.startswith("2") for outcome in outcomes):
        raise typer.Exit(1)


def _send(http: HttpClient, base: str, made: Webhook) -> tuple[str, str]:
    """Send one webhook; returns status and word, and the event's id or the reason."""
    try:
        answer = http.request("POST", base + made.path, headers=made.headers, content=made.body)
    except HttpError as error:
        return "no answer", str(error)
    try:
        reply = answer.json()
    except ValueError:
        reply = None
    if not isinstance(reply, dict):
        reply = {}
    if 200 <= answer.status < 300:
        return f"{answer.status} {reply.get('status', '')}".strip(), str(reply.get("event", ""))
    reason = str(reply.get("detail") or reply.get("title") or "")
    return str(answer.status), shorten(reason, _MAX_REASON_LENGTH)
