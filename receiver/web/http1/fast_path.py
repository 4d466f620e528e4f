"""The short way of most webhooks: from the protocol to their endpoint and back, without a task.

A webhook that came whole needs no application that could wait for more of it. Everything else
goes through Starlette, to the same endpoints.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from starlette.applications import Starlette
from starlette.types import Scope

from receiver.web.access_log import write_line
from receiver.web.endpoints import WebhookEndpoint
from receiver.web.http1.request_cycle import Answer, RequestCycle
from receiver.web.problems import broke


class FastPath:
    """Serves whole POSTs to the endpoints of an application, which it finds by their paths."""

    def __init__(self, app: Starlette, endpoints: Mapping[str, WebhookEndpoint]) -> None:
        self._app = app
        self._endpoints = endpoints

    def leads_to(self, path: str) -> WebhookEndpoint | None:
        """The endpoint at ``path``, if there is one."""
        return self._endpoints.get(path)

    def serve(self, exchange: RequestCycle, endpoint: WebhookEndpoint) -> None:
        """Answer a request whose body is there, now or later."""
        began = time.monotonic()
        details: dict[str, object] = {}
        scope: Scope = exchange.scope  # type: ignore[assignment]
        scope["app"] = self._app
        scope["path_params"] = {}
        scope["state"]["log"] = details

        def reply(answer: Answer) -> None:
            exchange.reply(answer)
            write_line("POST", answer.status, began, details)

        try:
            endpoint.take(scope, reply, began)
        except Exception as error:  # noqa: BLE001 - our own bug, which ends no connection
            reply(Answer.of(broke(error)))
