"""A server that runs both simulated providers on one local port."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from typing import Final, Self

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from receiver import clock
from receiver.errors import ConfigurationError
from worker.simulator import daisysim_api, subscription_api, virtualsms_api
from worker.simulator.call_log import CallLog
from worker.simulator.daisysim import DaisySIM
from worker.simulator.errors import ApiError
from worker.simulator.gate import CUT, Gate
from worker.simulator.knobs import Knobs
from worker.simulator.limits import Limits
from worker.simulator.reports import discard_event
from worker.simulator.subscription import Subscription
from worker.simulator.timeline import Timeline
from worker.simulator.virtualsms import VirtualSMS
from worker.simulator.webhooks import Target, WebhookSender

VIRTUALSMS_KEY: Final = "sk_live_simulated"
DAISYSIM_KEY: Final = "simulated"

_HOST = "127.0.0.1"
_GRACE_SECONDS = 2
# Longer than any of our clients keeps an idle connection, so that no request meets a closed one.
_KEEP_ALIVE_SECONDS = 60


class Simulator:
    """The simulation, which runs while the ``with`` block lasts.

    Args:
        knobs: its settings; they may change while it runs.
        target: the receiver of its webhooks; None: it sends none.
        echo: receives one line for each API call and webhook, to print; it contains no secret.
        port: the port on 127.0.0.1; 0: any free port.
        real: the clock that its own is based on.

    Attributes:
        virtualsms, daisysim: the accounts; their methods do what customers and their SMS do.
        subscription: VirtualSMS's record of its webhook deliveries.
        calls: the API calls so far.

    Raises:
        ConfigurationError: the port cannot be used.
    """

    def __init__(
        self,
        knobs: Knobs | None = None,
        target: Target | None = None,
        *,
        echo: Callable[[str], object] = lambda _: None,
        port: int = 0,
        real: Callable[[], datetime] = clock.now,
    ) -> None:
        self._socket = _listen(port)
        self.knobs = knobs or Knobs()
        self.calls = CallLog(echo)
        self._timeline = Timeline(real, ahead=self.knobs.clock_skew)
        self.subscription = Subscription(self._timeline.now())
        self._webhooks = (
            None
            if target is None
            else WebhookSender(self.knobs, self._timeline, self.subscription, target, echo)
        )
        report = discard_event if self._webhooks is None else self._webhooks.send_virtualsms
        self.virtualsms = VirtualSMS(self.knobs, self._timeline, report)
        report = discard_event if self._webhooks is None else self._webhooks.send_daisysim
        self.daisysim = DaisySIM(self.knobs, self._timeline, report)
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._application(),
                loop="uvloop",
                http=_Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_GRACE_SECONDS,
            )
        )
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="simulator", daemon=True
        )
        self._cleanup = ExitStack()

    @property
    def url(self) -> str:
        """The base address, without a path."""
        return f"http://{_HOST}:{self._socket.getsockname()[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that direct codecatch's API calls to this simulation."""
        return {
            "VIRTUALSMS_API_URL": f"{self.url}{virtualsms_api.PATH}",
            "VIRTUALSMS_API_KEY": VIRTUALSMS_KEY,
            "DAISYSIM_API_URL": f"{self.url}{daisysim_api.PATH}",
            "DAISYSIM_API_KEY": DAISYSIM_KEY,
        }

    def now(self) -> datetime:
        """The time on the providers' clock."""
        return self._timeline.now()

    def advance(self, seconds: float) -> None:
        """Advance the providers' clock; every action due by then has run on return."""
        self._timeline.advance(seconds)

    def __enter__(self) -> Self:
        self._cleanup.enter_context(self._socket)
        if self._webhooks is not None:
            self._cleanup.callback(self._webhooks.close)
        self._cleanup.enter_context(self._timeline)
        self._cleanup.callback(self._stop_serving)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def _stop_serving(self) -> None:
        self.virtualsms.close()
        self._server.should_exit = True
        self._thread.join()

    def _application(self) -> Starlette:
        gate = partial(Gate, knobs=self.knobs, timeline=self._timeline, log=self.calls)
        calls = Limits(virtualsms_api.LIMITS, self.knobs)
        orders = gate(virtualsms_api.conventions(VIRTUALSMS_KEY), limits=calls)
        subscriptions = gate(subscription_api.conventions(VIRTUALSMS_KEY), limits=calls)
        numbers = gate(
            daisysim_api.conventions(DAISYSIM_KEY, self.daisysim),
            limits=Limits(daisysim_api.LIMITS, self.knobs),
        )
        app = Starlette(
            routes=[
                *virtualsms_api.routes(orders, self.virtualsms, self.knobs),
                *subscription_api.routes(
                    subscriptions, self.subscription, self._webhooks, self._timeline
                ),
                *daisysim_api.routes(numbers, self.daisysim),
            ],
            exception_handlers={HTTPException: _http_error},
        )
        app.router.redirect_slashes = False
        return app


class _Protocol(HttpToolsProtocol):
    """Lets the application close a connection without an answer, like a network failure."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"][CUT] = self.transport.close


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((_HOST, port))
    except OSError as error:
        raise ConfigurationError(
            f"--port: cannot listen on port {port} ({error.strerror}); choose another port"
        ) from None


async def _http_error(request: Request, error: Exception) -> Response:
    """The answer for an unknown path or method, in the format of the provider it is closest to."""
    wrong_method = isinstance(error, HTTPException) and error.status_code == 405
    path = request.url.path
    if path.startswith(daisysim_api.PATH):
        code = "METHOD_NOT_ALLOWED" if wrong_method else "NOT_FOUND"
        return daisysim_api.error_response(ApiError(code, "No such endpoint"), path)
    code = "method-not-allowed" if wrong_method else "not-found"
    return virtualsms_api.error_response(ApiError(code, "there is no such endpoint"), path)
