"""``codecatch upstream``: both providers on this machine, to try everything without an account."""

from __future__ import annotations

import math
import secrets
import signal
import threading
from decimal import Decimal, InvalidOperation
from typing import Annotated

import typer

from receiver import logs
from receiver.settings import LogSettings, load
from worker.cli import _receiver
from worker.cli._output import write
from worker.messages.text import plain
from worker.runtime.installation import adopt
from worker.simulator import signed_webhooks
from worker.simulator.knobs import Knobs
from worker.simulator.server import Upstream
from worker.simulator.signed_webhooks import DAISYSIM, SECRET_VARIABLES, VIRTUALSMS
from worker.simulator.webhooks import Target

_LONGEST = 1_000_000


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("upstream", help="Simulate both providers, to try everything without an account.")(
        upstream
    )


def _number(value: float) -> float:
    if math.isnan(value):  # it is within any bounds
        raise typer.BadParameter("wants a number")
    return value


def _fraction(name: str, what: str) -> typer.models.OptionInfo:
    wanted: typer.models.OptionInfo = typer.Option(
        name, callback=_number, min=0, max=1, metavar="0..1", help=what
    )
    return wanted


def _seconds(name: str, what: str, at_least: float = 0) -> typer.models.OptionInfo:
    wanted: typer.models.OptionInfo = typer.Option(
        name, callback=_number, min=at_least, max=_LONGEST, metavar="SECONDS", help=what
    )
    return wanted


def _dialect(value: str) -> str:
    known = signed_webhooks.EVENTS[VIRTUALSMS]
    if value not in known:
        raise typer.BadParameter(f"wants one of: {', '.join(known)}")
    return value


def _money(value: str) -> Decimal:
    try:
        amount = Decimal(value)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or not 0 <= amount <= _LONGEST:
        raise typer.BadParameter("wants an amount such as 12.50")
    return amount


def upstream(
    *,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Of 127.0.0.1; 0: any.")
    ] = 8900,
    webhook_url: _receiver.WebhookUrl = None,
    dialect: Annotated[
        str,
        typer.Option(
            "--dialect", parser=_dialect, metavar="NAME", help="VirtualSMS's: v2, v1 or flat."
        ),
    ] = "v2",
    seed: Annotated[
        int | None, typer.Option("--seed", help="Repeats a run's decisions; random.")
    ] = None,
    sms_after: Annotated[float, _seconds("--sms-after", "Until an order's message comes.")] = 5.0,
    lifetime: Annotated[float, _seconds("--lifetime", "How long an order waits.", 1)] = 1200.0,
    balance: Annotated[
        Decimal, typer.Option("--balance", parser=_money, metavar="AMOUNT", help="Of each account.")
    ] = Decimal(100),
    drop: Annotated[float, _fraction("--drop", "Webhooks that are never sent.")] = 0.0,
    double: Annotated[float, _fraction("--double", "Webhooks that are sent twice.")] = 0.0,
    delay: Annotated[float, _fraction("--delay", "Webhooks that come late, out of order.")] = 0.0,
    delay_up_to: Annotated[float, _seconds("--delay-up-to", "How late at most.")] = 2.0,
    retry_factor: Annotated[
        float, _fraction("--retry-factor", "Shortens VirtualSMS's pauses between attempts.")
    ] = 1.0,
    clock_skew: Annotated[
        float, _seconds("--clock-skew", "The providers' clocks are ahead by this.", -_LONGEST)
    ] = 0.0,
    latency: Annotated[float, _seconds("--latency", "How long an API call takes.")] = 0.0,
    api_429: Annotated[float, _fraction("--api-429", "API calls refused as too many.")] = 0.0,
    api_503: Annotated[float, _fraction("--api-503", "API calls refused as unavailable.")] = 0.0,
    api_500: Annotated[float, _fraction("--api-500", "API calls that break, done or not.")] = 0.0,
    api_cut: Annotated[float, _fraction("--api-cut", "API calls done, but not answered.")] = 0.0,
    early_hold: Annotated[
        bool, typer.Option("--early-hold", help="VirtualSMS: no swap or cancel before 120 s.")
    ] = False,
) -> None:
    """Be both providers until told to stop; standard output says what they do."""
    log_settings = load(LogSettings)
    adopt()
    knobs = Knobs(
        seed=secrets.randbelow(1_000_000) if seed is None else seed,
        balance=balance,
        order_lifetime=lifetime,
        sms_after=sms_after,
        early_hold=early_hold,
        latency=latency,
        api_429=api_429,
        api_503=api_503,
        api_500=api_500,
        api_cut=api_cut,
        webhooks_dropped=drop,
        webhooks_doubled=double,
        webhooks_delayed=delay,
        webhook_delay=delay_up_to,
        retry_factor=retry_factor,
        clock_skew=clock_skew,
    )
    target, invented = _target(_receiver.address(webhook_url), dialect)
    simulated = Upstream(knobs, target, port=port, say=lambda line: write(plain(line)))
    logs.configure(log_settings, part="upstream")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with simulated as running:
        write(f"Both providers are simulated on {running.url}, with seed {knobs.seed}.")
        write(f"Their webhooks go to {target.url}. For every codecatch that is to ask them:")
        for name, value in {**running.environment, **invented}.items():
            write(f"  export {name}={value}")
        write("codecatch upstream is ready")
        stopping.wait()


def _target(receiver: str, dialect: str) -> tuple[Target, dict[str, str]]:
    """Where webhooks go, and the secrets that were made up because nothing is configured yet.

    A receiver that is told these knows the simulation by them.
    """
    invented: dict[str, str] = {}
    spoken: dict[str, str] = {}
    for provider, variable in SECRET_VARIABLES.items():
        known = signed_webhooks.known_secret(provider)
        if known is None:
            known = invented[variable] = f"simulated_{secrets.token_urlsafe(24)}"
        spoken[provider] = known
    return Target(receiver, spoken[VIRTUALSMS], spoken[DAISYSIM], dialect), invented
