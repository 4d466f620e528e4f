"""A worker in the test process, with a real database and broker, and fake external servers."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis
from sqlalchemy import update
from sqlmodel import SQLModel, col, select

from receiver import clock, queue
from receiver.database.followup import FollowUp
from receiver.errors import MalformedPayload
from receiver.inbox import store as inbox
from receiver.inbox.store import InboxEvent, IncomingEvent
from receiver.providers.registry import registry
from receiver.providers.strict_json import parse_object
from tests.support import webhooks
from tests.support.http_server import HttpServer, Reply
from tests.support.smtp_server import SmtpServer
from tests.support.stores import ENCRYPTION_KEYS, Store
from tests.support.waiting import eventually
from tests.support.webhooks import Webhook
from tests.worker.delivery.senders import deliver_ids
from worker.configuration.destination_policy import DestinationPolicy
from worker.configuration.routing import Match, Route, Routing
from worker.confirmation.confirm import settle as settle_ids
from worker.destinations.base import Destination
from worker.destinations.slack import Slack
from worker.handling.handle import handle as handle_ids
from worker.outbox import clock_jumps, leases
from worker.runtime.runtime import Runtime, connect
from worker.schema.models import Budget, Code, Confirmation, Delivery, Order, table_of
from worker.schema.states import OPERATORS

Model = TypeVar("Model", bound=SQLModel)
T = TypeVar("T")
Row = InboxEvent | Confirmation | Delivery

VIRTUALSMS_KEY = "sk_live_made-up-for-tests"
DAISYSIM_KEY = "dk_live_made-up-for-tests"
SLACK_PATH = "/services/T0/B0/made-up-secret"
OTHER_PATH = "/services/T1/B1/made-up-secret"
CONFIRM_PATH = "/virtualsms/orders/*/confirm"
ORDER_PATH = "/virtualsms/orders/*"
CHECK_PATH = "/daisysim/check/*"
# For tests that need only one kind of database.
on_sqlite = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


@dataclass
class World:
    """The environment of one worker: its store, its broker and fake external servers."""

    store: Store
    broker_url: str
    monkeypatch: pytest.MonkeyPatch
    make_http_server: Callable[[], HttpServer]
    make_smtp_server: Callable[..., SmtpServer]
    stack: ExitStack = field(default_factory=ExitStack)

    @cached_property
    def api(self) -> HttpServer:
        """The providers' APIs; they answer 404 unless a test configures a response."""
        return self.make_http_server()

    @cached_property
    def slack(self) -> HttpServer:
        """Slack; it accepts every message unless a test configures another response."""
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
        """Set the environment, including ``variables``, and create a runtime from it."""
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
        return self.keep(connect())

    def keep(self, runtime: Runtime) -> Runtime:
        """Close ``runtime`` and its connections to the broker at the end of the test."""
        self.stack.callback(runtime.waker.app.close)
        self.stack.callback(runtime.close)
        return runtime

    def wakes(self, task: str) -> list[list[str]]:
        """The ids in each queued message for ``task``, oldest first."""
        return [ids for name, ids in self.messages() if name == task]

    def messages(self) -> list[tuple[str, list[str]]]:
        """Task and ids of every message in the broker's queues."""
        return [(raw["headers"]["task"], _ids(raw)) for raw in self._raw_messages()]

    def on_the_broker(self) -> str:
        """All queued messages with decoded bodies, as text to search in."""
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
        """The messages that Slack received, as JSON."""
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
    """The event of an authentic webhook, before it is stored."""
    name = "virtualsms" if webhook.path == webhooks.VIRTUALSMS_PATH else "daisysim"
    provider = registry()[name]
    event = IncomingEvent(provider=name, body=webhook.body, arrived_at=clock.now())
    with suppress(MalformedPayload):
        payload = parse_object(webhook.body)
        event.key = provider.event_key(payload)
        event.may_recur = event.key is None and provider.may_recur(payload)
        event.test = provider.is_test(payload)
    return event


def receive(runtime: Runtime, *received: Webhook) -> list[str]:
    """Store webhooks as the receiver does; returns the ids of their rows."""
    with runtime.database.transaction() as session:
        stored = inbox.store_many(session, runtime.vault, [incoming(each) for each in received])
    return [each.id for each in stored]


def handle(runtime: Runtime, *received: Webhook) -> list[str]:
    """Store webhooks and handle them in one batch; returns the ids of their rows."""
    ids = receive(runtime, *received)
    handle_ids(runtime, ids)
    return ids


def planned(runtime: Runtime, *received: Webhook) -> Confirmation:
    """Handle webhooks; returns the one confirmation that this plans."""
    handle(runtime, *received)
    return only_row(runtime, Confirmation)


def settle(runtime: Runtime, *rows: Confirmation) -> None:
    """Make these confirmations due, and run them."""
    for row in rows:
        if row.attempt:
            make_due(runtime, row)
        settle_ids(runtime, [row.id])


def plan_codes(runtime: Runtime, count: int = 1) -> list[Delivery]:
    """Plan the deliveries of ``count`` more orders, whose codes are 700000, 700001 and so on."""
    known = {row.id for row in all_rows(runtime, Delivery)}
    numbers = range(len(known), len(known) + count)
    handle(runtime, *(webhooks.virtualsms_v1(order=f"ord_{n}", code=f"7{n:05}") for n in numbers))
    return [row for row in all_rows(runtime, Delivery) if row.id not in known]


def deliver(runtime: Runtime, *rows: Delivery) -> None:
    """Make these deliveries due, and deliver them."""
    for row in rows:
        fresh = reload(runtime, row)
        if fresh.attempt and fresh.wake_at is not None:
            make_due(runtime, row)
        deliver_ids(runtime, [row.id])


def now(runtime: Runtime | Store) -> datetime:
    """The database's time, which leases use."""
    with runtime.database.reading() as session:
        return runtime.database.now(session)


def all_rows(runtime: Runtime | Store, model: type[Model]) -> list[Model]:
    """Every row of a table, oldest first."""
    key = table_of(model).primary_key.columns.values()[0]
    with runtime.database.reading() as session:
        return list(session.exec(select(model).order_by(key)))


def only_row(runtime: Runtime | Store, model: type[Model]) -> Model:
    """The one row of a table."""
    (row,) = all_rows(runtime, model)
    return row


def fetch(runtime: Runtime | Store, model: type[Model], key: str) -> Model:
    """One row, as it is now."""
    with runtime.database.reading() as session:
        return session.get_one(model, key)


def reload(runtime: Runtime | Store, row: Model) -> Model:
    """The row as it is now."""
    return fetch(runtime, type(row), row.id)  # type: ignore[attr-defined]


def change(runtime: Runtime | Store, row: SQLModel, **values: object) -> None:
    """Update columns of a row directly in the database."""
    table = table_of(type(row))
    with runtime.database.transaction() as session:
        session.connection().execute(
            update(table).where(table.c.id == row.id).values(**values)  # type: ignore[attr-defined]
        )


def make_due(runtime: Runtime | Store, row: FollowUp) -> None:
    """Make the row's next attempt due."""
    past = now(runtime) - SECOND
    change(runtime, row, next_attempt_at=past, wake_at=past)


def sweep_now(runtime: Runtime | Store) -> None:
    """Note the time, as every sweep does: only a steady clock lets anything be given up."""
    with runtime.database.transaction() as session:
        clock_jumps.note(session, runtime.database.now(session))


def expire_lease(runtime: Runtime | Store, row: FollowUp) -> None:
    """Make the row's lease expire."""
    past = now(runtime) - SECOND
    change(runtime, row, lease_until=past, wake_at=past)


def lose_leases(runtime: Runtime | Store, row: Row, times: int = 1) -> None:
    """Claim the row and let its lease expire, ``times`` times, as workers that crash do."""
    for _ in range(times):
        with runtime.database.transaction() as session:
            at, table = runtime.database.now(session), table_of(type(row))
            state: dict[str, Any] = {} if isinstance(row, InboxEvent) else {"state": "sending"}
            assert leases.claim(session, table, [row.id], now=at, lease=9 * SECOND, **state)
        expire_lease(runtime, row)


def change_budget(
    runtime: Runtime | Store, key: str = "virtualsms:calls", **values: object
) -> None:
    """Write to a call budget."""
    with runtime.database.transaction() as session:
        budget = session.get_one(Budget, key)
        for name, value in values.items():
            setattr(budget, name, value)


def states(runtime: Runtime, rows: Sequence[Row]) -> list[str]:
    """The current states of rows."""
    return [reload(runtime, row).state for row in rows]


def deliveries(runtime: Runtime, type_: str = "sms.received") -> list[Delivery]:
    """The planned deliveries of a type."""
    return [row for row in all_rows(runtime, Delivery) if row.type == type_]


def notices(runtime: Runtime) -> list[Delivery]:
    """The planned notices to the operators."""
    return deliveries(runtime, OPERATORS)


def says(status: str, code: str | None = None, phone: str | None = webhooks.US_PHONE) -> Reply:
    """DaisySIM's answer about one activation."""
    data = {"status": status, "phone_number": phone, "code": code}
    return Reply(json={"success": True, "data": data})


def error_reply(
    provider: str, status: int, code: str, words: str = "", retry_after: str | None = None
) -> Reply:
    """An error in the provider's format."""
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    body: dict[str, object] = {"success": False, "error": words, "code": code}
    if provider == "virtualsms":
        kind = f"https://virtualsms.io/errors/{code}"
        body = {"type": kind, "title": code, "detail": words, "status": status}
    return Reply(status=status, json=body, headers=headers)


def in_files(runtime: Runtime | Store, sealed: bytes) -> bool:
    """Whether the files of SQLite contain the start of a value, which fits on one page."""
    path = Path(runtime.database.engine.url.database or "")
    return any(sealed[:40] in each.read_bytes() for each in path.parent.glob(f"{path.name}*"))


def code_of(runtime: Runtime, order: str) -> list[str]:
    """The decrypted codes of an order, oldest first."""
    with runtime.database.reading() as session:
        rows = session.exec(select(Code).where(col(Code.order_id) == order).order_by(Code.id)).all()
    opened = (
        runtime.vault.open_text(row.code, table="codes", column="code", row=row.id) for row in rows
    )
    return [code for code in opened if code is not None]


def number_of(store: Runtime | Store, order: Order) -> str | None:
    """The order's phone number, opened."""
    return store.vault.open_text(
        order.phone_number, table="orders", column="phone_number", row=order.id
    )


def with_destinations(runtime: Runtime, *destinations: Destination) -> Runtime:
    """The same runtime with these destinations only."""
    named = {destination.name: destination for destination in destinations}
    policies = {name: DestinationPolicy(name=name, kind=each.kind) for name, each in named.items()}
    policy = replace(runtime.policy, routing=Routing(named))
    integrations = replace(
        runtime.integrations, destinations=named, policies=policies, policy=policy
    )
    return replace(runtime, integrations=integrations)


def with_policy(runtime: Runtime, *names: str, **choices: Any) -> Runtime:
    """The same runtime with other policies for these destinations, or for all."""
    policies = {
        name: replace(each, **choices) if not names or name in names else each
        for name, each in runtime.integrations.policies.items()
    }
    return replace(runtime, integrations=replace(runtime.integrations, policies=policies))


def routed_to(runtime: Runtime, *names: str, types: Sequence[str] = ()) -> Runtime:
    """The same runtime, with these destinations only; ``types`` replace the default types."""
    routes = (Route(Match.of({"type": types}), to=names),) if types else None
    policy = replace(runtime.policy, routing=Routing(names, routes))
    return replace(runtime, integrations=replace(runtime.integrations, policy=policy))


def slack_at(runtime: Runtime, name: str, server: HttpServer, path: str = SLACK_PATH) -> Slack:
    """A Slack destination that sends to a server."""
    return Slack(name, url=f"{server.url}{path}", http=runtime.integrations.destination_http)


def at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Run every call in its own thread at the same moment; returns their results."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], T]) -> T:
        barrier.wait(10)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        running = [pool.submit(run, call) for call in calls]
    return [each.result() for each in running]


def woken(world: World, task: str, ids: Sequence[str]) -> list[list[str]]:
    """Wait until all of ``ids`` are queued for ``task``; returns the messages."""
    expected = set(ids)
    eventually(lambda: expected <= {each for batch in world.wakes(task) for each in batch})
    return world.wakes(task)
