"""``codecatch upstream``: simulate both providers, for use without an account."""

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
from worker.simulator.server import Simulator
from worker.simulator.signed_webhooks import DAISYSIM, SECRET_VARIABLES, VIRTUALSMS
from worker.simulator.webhooks import Target

_MAX_NUMBER = 1_000_000


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("upstream", help="Simulate both providers, for use without an account.")(upstream)


def _number(value: float) -> float:
    if math.isnan(value):  # NaN passes the check of min and max
        raise typer.BadParameter("must be a number")
    return value


def _fraction(name: str, what: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        name, callback=_number, min=0, max=1, metavar="0..1", help=what
    )
    return option


def _seconds(name: str, what: str, at_least: float = 0) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        name, callback=_number, min=at_least, max=_MAX_NUMBER, metavar="SECONDS", help=what
    )
    return option


def _dialect(value: str) -> str:
    known = signed_webhooks.EVENTS[VIRTUALSMS]
    if value not in known:
        raise typer.BadParameter(f"must be one of: {', '.join(known)}")
    return value


def _money(value: str) -> Decimal:
    try:
        amount = Decimal(value)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or not 0 <= amount <= _MAX_NUMBER:
        raise typer.BadParameter("must be an amount such as 12.50")
    return amount


def upstream(
    *,
    port: Annotated[
        int,
        typer.Option("--port", min=0, max=65535, help="Port on 127.0.0.1; 0 picks a free port."),
    ] = 8900,
    webhook_url: _receiver.WebhookUrl = None,
    dialect: Annotated[
        str,
        typer.Option(
            "--dialect",
            parser=_dialect,
            metavar="NAME",
            help="Payload format of VirtualSMS: v2, v1 or flat.",
        ),
    ] = "v2",
    seed: Annotated[
        int | None, typer.Option("--seed", help="Seed that repeats a run; random by default.")
    ] = None,
    sms_after: Annotated[
        float, _seconds("--sms-after", "Time until an order's message arrives.")
    ] = 5.0,
    lifetime: Annotated[float, _seconds("--lifetime", "Lifetime of an order.", 1)] = 1200.0,
    balance: Annotated[
        Decimal,
        typer.Option(
            "--balance", parser=_money, metavar="AMOUNT", help="Opening balance of each account."
        ),
    ] = Decimal(100),
    drop: Annotated[float, _fraction("--drop", "Fraction of webhooks never sent.")] = 0.0,
    double: Annotated[float, _fraction("--double", "Fraction of webhooks sent twice.")] = 0.0,
    delay: Annotated[
        float, _fraction("--delay", "Fraction of webhooks sent late and out of order.")
    ] = 0.0,
    delay_up_to: Annotated[
        float, _seconds("--delay-up-to", "Maximum delay of a late webhook.")
    ] = 2.0,
    retry_factor: Annotated[
        float, _fraction("--retry-factor", "Factor for VirtualSMS's pauses between attempts.")
    ] = 1.0,
    clock_skew: Annotated[
        float, _seconds("--clock-skew", "How far the providers' clocks are ahead.", -_MAX_NUMBER)
    ] = 0.0,
    latency: Annotated[float, _seconds("--latency", "Duration of an API call.")] = 0.0,
    api_429: Annotated[
        float, _fraction("--api-429", "Fraction of API calls answered with 429.")
    ] = 0.0,
    api_503: Annotated[
        float, _fraction("--api-503", "Fraction of API calls answered with 503.")
    ] = 0.0,
    api_500: Annotated[
        float, _fraction("--api-500", "Fraction of API calls answered with 500, executed or not.")
    ] = 0.0,
    api_cut: Annotated[
        float, _fraction("--api-cut", "Fraction of API calls executed but not answered.")
    ] = 0.0,
    early_hold: Annotated[
        bool, typer.Option("--early-hold", help="VirtualSMS: no swap or cancel before 120 s.")
    ] = False,
) -> None:
    """Simulate both providers until stopped; prints their activity."""
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
    target, generated = _target(_receiver.address(webhook_url), dialect)
    simulated = Simulator(knobs, target, port=port, echo=lambda line: write(plain(line)))
    logs.configure(log_settings, part="upstream")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with simulated as running:
        write(f"Both providers are simulated on {running.url}, with seed {knobs.seed}.")
        write(f"Their webhooks go to {target.url}. To use them, set these variables for codecatch:")
        for name, value in {**running.environment, **generated}.items():
            write(f"  export {name}={value}")
        write("codecatch upstream is ready")
        stopping.wait()


def _target(receiver: str, dialect: str) -> tuple[Target, dict[str, str]]:
    """The webhook target, and generated secrets for providers without a configured one.

    A receiver needs the generated secrets to verify the simulator's webhooks.
    """
    generated: dict[str, str] = {}
    chosen: dict[str, str] = {}
    for provider, variable in SECRET_VARIABLES.items():
        known = signed_webhooks.known_secret(provider)
        if known is None:
            known = generated[variable] = f"simulated_{secrets.token_urlsafe(24)}"
        chosen[provider] = known
    return Target(receiver, chosen[VIRTUALSMS], chosen[DAISYSIM], dialect), generated
