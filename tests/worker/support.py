"""A worker as an installation has it, in this process: real database, broker and far sides."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, TypeVar

import pytest
import redis
from sqlalchemy import update
from sqlmodel import SQLModel, col, select

from receiver import clock, queue
from receiver.database.followup import FollowUp
from receiver.inbox import store as inbox
from receiver.inbox.store import IncomingEvent
from receiver.providers.registry import registry
from tests.support import webhooks
from tests.support.http_server import HttpServer
from tests.support.smtp_server import SmtpServer
from tests.support.stores import ENCRYPTION_KEYS, Store
from tests.support.waiting import eventually
from tests.support.webhooks import Webhook
from tests.worker.delivery.senders import deliver_ids
from worker.configuration.destination_policy import DestinationPolicy
from worker.configuration.routing import Match, Route, Routing
from worker.confirmation import confirm as confirmation
from worker.destinations.base import Destination
from worker.destinations.slack import Slack
from worker.handling import handle as handling
from worker.runtime import runtime
from worker.runtime.runtime import Runtime
from worker.schema.models import Code, Confirmation, Delivery, table_of

Model = TypeVar("Model", bound=SQLModel)
T = TypeVar("T")

VIRTUALSMS_KEY = "sk_live_made-up-for-tests"
DAISYSIM_KEY = "dk_live_made-up-for-tests"
SLACK_PATH = "/services/T0/B0/made-up-secret"
OTHER_PATH = "/services/T1/B1/made-up-secret"
CONFIRM_PATH = "/virtualsms/orders/*/confirm"
ORDER_PATH = "/virtualsms/orders/*"
CHECK_PATH = "/daisysim/check/*"
# Tests that look at one database only.
on_sqlite = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


@dataclass
class World:
    """What surrounds one worker: its store and broker, and servers in place of the far sides."""

    store: Store
    broker_url: str
    monkeypatch: pytest.MonkeyPatch
    make_http_server: Callable[[], HttpServer]
    make_smtp_server: Callable[..., SmtpServer]
    stack: ExitStack = field(default_factory=ExitStack)

    @cached_property
    def api(self) -> HttpServer:
        """The providers' APIs; they answer 404 to everything until told otherwise."""
        return self.make_http_server()

    @cached_property
    def slack(self) -> HttpServer:
        """Slack, which says ok until told otherwise."""
        server = self.make_http_server()
        server.on("POST", SLACK_PATH, body=b"ok")
        server.on("POST", OTHER_PATH, body=b"ok")
        return server

    @cached_property
    def smtp(self) -> SmtpServer:
        """A mail server."""
        return self.make_smtp_server()

    def connect(
        self,
        *,
        virtualsms: bool = False,
        daisysim: bool = False,
        slack: bool = False,
        mail: bool = False,
        **variables: str,
    ) -> Runtime:
        """A worker's runtime, from the environment; ``variables`` are set besides."""
        environment = {
            "DATABASE_URL": self.store.url,
            "ENCRYPTION_KEYS": ENCRYPTION_KEYS,
            "REDIS_URL": self.broker_url,
            "DESTINATION_ALLOWED_HOSTS": "127.0.0.1",
        }
        if virtualsms:
            environment["VIRTUALSMS_API_KEY"] = VIRTUALSMS_KEY
            environment["VIRTUALSMS_API_URL"] = f"{self.api.url}/virtualsms"
        if daisysim:
            environment["DAISYSIM_API_KEY"] = DAISYSIM_KEY
            environment["DAISYSIM_API_URL"] = f"{self.api.url}/daisysim"
        if slack:
            environment["SLACK_WEBHOOK_URL"] = f"{self.slack.url}{SLACK_PATH}"
        if mail:
            environment["SMTP_URL"] = self.smtp.url
            environment["EMAIL_FROM"] = "codecatch@example.com"
            environment["EMAIL_TO"] = "qa@example.com"
        for name, value in {**environment, **variables}.items():
            self.monkeypatch.setenv(name, value)
        return self.keep(runtime.connect())

    def keep(self, made: Runtime) -> Runtime:
        """Close ``made`` when the test is over, and the broker's connections with it."""
        self.stack.callback(made.waker.app.close)
        self.stack.callback(made.close)
        return made

    def wakes(self, task: str) -> list[list[str]]:
        """The ids in each message that waits for ``task``, oldest first."""
        return [ids for name, ids in self.messages() if name == task]

    def messages(self) -> list[tuple[str, list[str]]]:
        """Task and ids of every message that waits on the broker."""
        return [(raw["headers"]["task"], _ids(raw)) for raw in self._raw_messages()]

    def on_the_broker(self) -> str:
        """Everything the broker holds, as text to search in, the messages' bodies opened."""
        return json.dumps(
            [
                {**raw, "body": base64.b64decode(raw["body"]).decode()}
                for raw in self._raw_messages()
            ]
        )

    def _raw_messages(self) -> list[dict[str, Any]]:
        with redis.Redis.from_url(self.broker_url) as client:
            return [
                json.loads(message)
                for name in queue.QUEUE_OF.values()
                for message in reversed(_list(client, f"codecatch:{name}"))
            ]

    def sent_to(self, path: str = SLACK_PATH) -> list[Any]:
        """The messages that Slack was sent, as JSON."""
        return [request.json() for request in self.slack.requests("POST", path)]


def _list(client: redis.Redis, key: str) -> list[Any]:
    found = client.lrange(key, 0, -1)
    assert isinstance(found, list)
    return found


def _ids(raw: dict[str, Any]) -> list[str]:
    args, kwargs, _ = json.loads(base64.b64decode(raw["body"]))
    assert kwargs == {}
    (ids,) = args
    assert isinstance(ids, list)
    return ids


def incoming(webhook: Webhook) -> IncomingEvent:
    """A webhook that passed for authentic."""
    name = "virtualsms" if webhook.path == webhooks.VIRTUALSMS_PATH else "daisysim"
    provider = registry()[name]
    payload = webhook.json()
    return IncomingEvent(
        provider=name,
        body=webhook.body,
        arrived_at=clock.now(),
        key=provider.event_key(payload),
        test=provider.is_test(payload),
    )


def receive(made: Runtime, *received: Webhook) -> list[str]:
    """Store webhooks as the receiver does; the ids of their rows."""
    with made.database.transaction() as session:
        stored = inbox.store_many(session, made.vault, [incoming(each) for each in received])
    return [each.id for each in stored]


def handle(made: Runtime, *received: Webhook) -> list[str]:
    """Store webhooks and handle them in one batch; the ids of their rows."""
    ids = receive(made, *received)
    handling.handle(made, ids)
    return ids


def planned(made: Runtime, *received: Webhook) -> Confirmation:
    """The one confirmation that handling these webhooks plans."""
    handle(made, *received)
    return only(made, Confirmation)


def settle(made: Runtime, *rows: Confirmation) -> None:
    """Make these confirmations due, and settle them."""
    for row in rows:
        if row.attempt:
            make_due(made, row)
        confirmation.settle(made, [row.id])


def deliver(made: Runtime, *rows: Delivery) -> None:
    """Make these deliveries due, and deliver them."""
    for row in rows:
        fresh = again(made, row)
        if fresh.attempt and fresh.wake_at is not None:
            make_due(made, row)
        deliver_ids(made, [row.id])


def now(made: Runtime | Store) -> datetime:
    """The time by which leases are measured."""
    with made.database.reading() as session:
        return made.database.now(session)


def everything(made: Runtime | Store, model: type[Model]) -> list[Model]:
    """Every row of a table, oldest first."""
    key = table_of(model).primary_key.columns.values()[0]
    with made.database.reading() as session:
        return list(session.exec(select(model).order_by(key)))


def only(made: Runtime | Store, model: type[Model]) -> Model:
    """The one row of a table."""
    (row,) = everything(made, model)
    return row


def fetch(made: Runtime | Store, model: type[Model], key: str) -> Model:
    """One row, as it is now."""
    with made.database.reading() as session:
        return session.get_one(model, key)


def again(made: Runtime | Store, row: Model) -> Model:
    """The row as it is now."""
    return fetch(made, type(row), row.id)  # type: ignore[attr-defined]


def change(made: Runtime | Store, row: SQLModel, **values: object) -> None:
    """Write to a row behind everybody's back."""
    table = table_of(type(row))
    with made.database.transaction() as session:
        session.connection().execute(
            update(table).where(table.c.id == row.id).values(**values)  # type: ignore[attr-defined]
        )


def make_due(made: Runtime | Store, row: FollowUp) -> None:
    """Let the time pass until the row's next attempt."""
    past = now(made) - SECOND
    change(made, row, next_attempt_at=past, wake_at=past)


def lapse(made: Runtime | Store, row: FollowUp) -> None:
    """Let the time pass until the lease of the row's holder is over."""
    past = now(made) - SECOND
    change(made, row, lease_until=past, wake_at=past)


def code_of(made: Runtime, order: str) -> list[str]:
    """The plain codes of an order, oldest first."""
    with made.database.reading() as session:
        rows = session.exec(select(Code).where(col(Code.order_id) == order).order_by(Code.id)).all()
    opened = (
        made.vault.open_text(row.code, table="codes", column="code", row=row.id) for row in rows
    )
    return [code for code in opened if code is not None]


def with_destinations(made: Runtime, *destinations: Destination) -> Runtime:
    """The same runtime with these destinations instead."""
    named = {destination.name: destination for destination in destinations}
    policies = {name: DestinationPolicy(name=name, kind=each.kind) for name, each in named.items()}
    policy = replace(made.policy, routing=Routing(named))
    integrations = replace(made.integrations, destinations=named, policies=policies, policy=policy)
    return replace(made, integrations=integrations)


def with_policy(made: Runtime, *names: str, **choices: Any) -> Runtime:
    """The same runtime, these destinations of which (or all) are told in this way."""
    policies = {
        name: replace(each, **choices) if not names or name in names else each
        for name, each in made.integrations.policies.items()
    }
    return replace(made, integrations=replace(made.integrations, policies=policies))


def telling(made: Runtime, *names: str, types: Sequence[str] = ()) -> Runtime:
    """The same runtime, which tells only these destinations, of ``types`` instead of the usual."""
    routes = (Route(Match.of({"type": types}), to=names),) if types else None
    policy = replace(made.policy, routing=Routing(names, routes))
    return replace(made, integrations=replace(made.integrations, policy=policy))


def slack_at(made: Runtime, name: str, server: HttpServer, path: str = SLACK_PATH) -> Slack:
    """A Slack destination behind a server."""
    return Slack(name, url=f"{server.url}{path}", http=made.integrations.telling)


def at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Make every call in a thread of its own, all in the same moment; what each returned."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], T]) -> T:
        barrier.wait(10)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        running = [pool.submit(run, call) for call in calls]
    return [each.result() for each in running]


def woken(world: World, task: str, ids: Sequence[str]) -> list[list[str]]:
    """The messages for ``task``, once all of ``ids`` have come."""
    wanted = set(ids)
    eventually(lambda: wanted <= {each for batch in world.wakes(task) for each in batch})
    return world.wakes(task)
