"""Both providers on one port of this machine, to be asked over HTTP and driven by hand."""

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
from worker.simulator.gate import CUT, Gate
from worker.simulator.knobs import Knobs
from worker.simulator.limits import Limits
from worker.simulator.refusals import Refused
from worker.simulator.reports import tell_nobody
from worker.simulator.subscription import Subscription
from worker.simulator.timeline import Timeline
from worker.simulator.virtualsms import VirtualSMS
from worker.simulator.webhooks import Target, Webhooks

VIRTUALSMS_KEY: Final = "sk_live_simulated"
DAISYSIM_KEY: Final = "simulated"

_HOST = "127.0.0.1"
_GRACE_SECONDS = 2
# Longer than any client here keeps an idle connection, so that none is closed under a request.
_KEEP_ALIVE_SECONDS = 60


class Upstream:
    """The simulation, from ``with`` to its end.

    Args:
        knobs: what it is like; may be turned while it runs.
        target: where its webhooks go; None: nowhere.
        say: told in a line what happens, for a person who watches; nothing in it is secret.
        port: where it listens on 127.0.0.1; 0: on any free port.
        real: the clock underneath its own.

    Attributes:
        virtualsms, daisysim: the accounts, for whatever a provider's customers and their messages
            would do.
        subscription: VirtualSMS's record of how its webhooks fare.
        calls: the API calls so far.

    Raises:
        ConfigurationError: the port cannot be used.
    """

    def __init__(
        self,
        knobs: Knobs | None = None,
        target: Target | None = None,
        *,
        say: Callable[[str], object] = lambda _: None,
        port: int = 0,
        real: Callable[[], datetime] = clock.now,
    ) -> None:
        self._socket = _listen(port)
        self.knobs = knobs or Knobs()
        self.calls = CallLog(say)
        self._timeline = Timeline(real, ahead=self.knobs.clock_skew)
        self.subscription = Subscription(self._timeline.now())
        self._webhooks = (
            None
            if target is None
            else Webhooks(self.knobs, self._timeline, self.subscription, target, say)
        )
        tell = tell_nobody if self._webhooks is None else self._webhooks.virtualsms
        self.virtualsms = VirtualSMS(self.knobs, self._timeline, tell)
        tell = tell_nobody if self._webhooks is None else self._webhooks.daisysim
        self.daisysim = DaisySIM(self.knobs, self._timeline, tell)
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
            target=self._server.run, args=([self._socket],), name="upstream", daemon=True
        )
        self._ends = ExitStack()

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"http://{_HOST}:{self._socket.getsockname()[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that point codecatch's outbound calls here."""
        return {
            "VIRTUALSMS_API_URL": f"{self.url}{virtualsms_api.PATH}",
            "VIRTUALSMS_API_KEY": VIRTUALSMS_KEY,
            "DAISYSIM_API_URL": f"{self.url}{daisysim_api.PATH}",
            "DAISYSIM_API_KEY": DAISYSIM_KEY,
        }

    def now(self) -> datetime:
        """The providers' time."""
        return self._timeline.now()

    def advance(self, seconds: float) -> None:
        """Let time pass for the providers; what becomes due on the way has happened on return."""
        self._timeline.advance(seconds)

    def __enter__(self) -> Self:
        self._ends.enter_context(self._socket)
        if self._webhooks is not None:
            self._ends.callback(self._webhooks.close)
        self._ends.enter_context(self._timeline)
        self._ends.callback(self._stop_serving)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def _stop_serving(self) -> None:
        self.virtualsms.close()
        self._server.should_exit = True
        self._thread.join()

    def _application(self) -> Starlette:
        gate = partial(Gate, knobs=self.knobs, timeline=self._timeline, log=self.calls)
        calls = Limits(virtualsms_api.LIMITS, self.knobs)
        orders = gate(virtualsms_api.spelling(VIRTUALSMS_KEY), limits=calls)
        subscriptions = gate(subscription_api.spelling(VIRTUALSMS_KEY), limits=calls)
        numbers = gate(
            daisysim_api.spelling(DAISYSIM_KEY, self.daisysim),
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
            exception_handlers={HTTPException: _no_such_call},
        )
        app.router.redirect_slashes = False
        return app


class _Protocol(HttpToolsProtocol):
    """Lets the application close a connection without an answer, as a broken network does."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"][CUT] = self.transport.close


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((_HOST, port))
    except OSError as error:
        raise ConfigurationError(
            f"--port: cannot listen on port {port} ({error.strerror}): choose another"
        ) from None


async def _no_such_call(request: Request, error: Exception) -> Response:
    """A path or a method that neither provider has, in the words of the nearer one."""
    wrong_method = isinstance(error, HTTPException) and error.status_code == 405
    path = request.url.path
    if path.startswith(daisysim_api.PATH):
        code = "METHOD_NOT_ALLOWED" if wrong_method else "NOT_FOUND"
        return daisysim_api.refuse(Refused(code, "No such endpoint"), path)
    code = "method-not-allowed" if wrong_method else "not-found"
    return virtualsms_api.refuse(Refused(code, "there is no such call"), path)
