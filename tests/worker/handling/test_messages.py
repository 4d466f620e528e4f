"""Messages without a sure code, and messages that send a code again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from receiver.inbox.store import InboxEvent
from receiver.providers.base import comparable_code
from tests.support import webhooks
from tests.support.webhooks import Webhook
from tests.worker.support import (
    CHECK_PATH,
    CONFIRM_PATH,
    World,
    all_rows,
    code_of,
    deliver,
    handle,
    on_sqlite,
    only_row,
    settle,
)
from worker.orders import codes
from worker.runtime.runtime import Runtime
from worker.schema.models import Code, Confirmation, Delivery, Order
from worker.schema.states import DISCARDED, READY, UNRECOGNISED

UNCLEAR = "Your number is 4411 or 7722, ask our staff"
TEXTS = Path(__file__).parents[2] / "samples" / "texts"
FIRST = "2026-11-30T08:00:00Z"


def _message(
    text: str | None, code: str | None = None, at: str | None = FIRST, order: str = webhooks.ORDER
) -> Webhook:
    about = {"id": order, "phone_number": webhooks.UK_PHONE, "service": "telegram"}
    message = {"text": text, "code": code, "received_at": at}
    return _virtualsms({"order": about, "message": message})


def _virtualsms(data: dict[str, Any]) -> Webhook:
    envelope = {"id": webhooks.envelope_id(), "type": "order.sms_received", "data": data}
    return webhooks.signed(webhooks.encode(envelope))


def batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of at most ``size`` items."""
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part


def _states(runtime: Runtime) -> list[str]:
    return [code.state for code in all_rows(runtime, Code)]


@pytest.mark.parametrize("text", [UNCLEAR, "Welcome to Telegram!"])
def test_a_message_without_a_sure_code_is_kept_and_never_confirmed(world: World, text: str) -> None:
    """Its text is stored sealed; no code is invented, and nothing is charged."""
    runtime = world.connect(virtualsms=True)
    handle(runtime, _message(text))

    assert _states(runtime) == [UNRECOGNISED]
    assert code_of(runtime, webhooks.ORDER) == [""]
    assert codes.open_field(runtime.vault, only_row(runtime, Code), "text") == text
    assert all_rows(runtime, Confirmation) == []
    assert only_row(runtime, InboxEvent).state == "handled"


@pytest.mark.parametrize("reveal", ["full", "masked", "none"])
def test_only_who_may_see_all_of_a_code_gets_its_unclear_text(
    world: World, tmp_path: Path, reveal: str
) -> None:
    """The text may hold the code, so it follows the code's rule."""
    path = tmp_path / "codecatch.toml"
    path.write_text(
        '[[destinations]]\nname = "qa"\nkind = "slack"\nurl_env = "SLACK_WEBHOOK_URL"\n'
        f'reveal = "{reveal}"\n[[routes]]\nto = ["qa"]\n'
    )
    runtime = world.connect(virtualsms=True, slack=True, CODECATCH_CONFIG=str(path))
    handle(runtime, _message(UNCLEAR))

    planned = all_rows(runtime, Delivery)
    assert len(planned) == (1 if reveal == "full" else 0)
    deliver(runtime, *planned)
    sent = str(world.sent_to())
    assert (UNCLEAR in sent) is (reveal == "full")
    assert ("no code recognised" in sent.lower()) is (reveal == "full")


def test_a_code_read_from_the_text_is_confirmed_and_says_so(world: World) -> None:
    """Someone who is told sees that codecatch read the code, and the provider did not name it."""
    runtime = world.connect(virtualsms=True, slack=True)
    world.api.on("POST", CONFIRM_PATH, json={"status": "confirmed"})
    handle(runtime, _message("Telegram code: 48392"))

    assert code_of(runtime, webhooks.ORDER) == ["48392"]
    assert only_row(runtime, Code).extracted is True
    assert only_row(runtime, Confirmation).action == "confirm"
    deliver(runtime, only_row(runtime, Delivery))
    (sent,) = world.sent_to()
    assert "48392" in str(sent)
    assert "extracted" in str(sent)


@on_sqlite
def test_no_code_below_sure_is_ever_confirmed(world: World) -> None:
    """Of all sample texts, only an order whose text surely tells its code is charged."""
    runtime = world.connect(virtualsms=True, VIRTUALSMS_RATE_LIMIT="100000")
    world.api.on("POST", CONFIRM_PATH, json={"status": "confirmed"})
    texts = {
        f"ord_{file.stem}_{number}": sample
        for file in sorted(TEXTS.glob("*.json"))
        for number, sample in enumerate(json.loads(file.read_text()))
    }
    assert len(texts) > 500
    for part in batched(texts.items(), 64):
        handle(runtime, *(_message(sample["text"], order=order) for order, sample in part))
    settle(runtime, *all_rows(runtime, Confirmation))

    charged = {request.path.split("/")[-2] for request in world.api.requests("POST")}
    assert len(charged) > 400
    for order, sample in texts.items():
        assert (order in charged) <= bool(sample["codes"]), sample["text"]
    for code in all_rows(runtime, Code):
        assert (code.order_id in charged) == (code.state == READY)
        if code.state == READY:
            told = code_of(runtime, code.order_id)[0]
            right = {comparable_code(each) for each in texts[code.order_id]["codes"]}
            assert comparable_code(told) in right, texts[code.order_id]["text"]


def test_a_code_that_a_person_set_replaces_the_unclear_message(world: World) -> None:
    """It is delivered and confirmed like a code that the provider named."""
    runtime = world.connect(virtualsms=True, slack=True)
    handle(runtime, _message(UNCLEAR))
    with runtime.database.transaction() as session:
        message = session.get_one(Code, only_row(runtime, Code).id)
        new = codes.set_code(
            session, runtime.vault, message, "7722", now=runtime.database.now(session)
        )
        assert new is not None

    assert sorted(_states(runtime)) == sorted([DISCARDED, READY])
    assert code_of(runtime, webhooks.ORDER) == ["", "7722"]


@pytest.mark.parametrize(
    ("second", "stored"),
    [
        ("2026-11-30T08:00:40Z", 2),  # sent again, later
        ("2026-11-30T08:00:05Z", 1),  # the same message
        (FIRST, 1),
        (None, 1),  # no time: it cannot be told apart
        ("2026-11-30 08:03:00", 1),  # no zone: uncertain
        ("2026-11-30T07:50:00Z", 1),  # older than the stored one
    ],
)
def test_a_code_sent_again_is_told_again_and_confirmed_once(
    world: World, second: str | None, stored: int
) -> None:
    """Services send the same code again on request; the order is confirmed once."""
    runtime = world.connect(virtualsms=True, slack=True)
    handle(runtime, _message("Telegram code: 48392", "48392", FIRST))
    for _ in range(2):  # the second report of it is a repetition in every case
        handle(runtime, _message("Telegram code: 48392", "48392", second))

    assert code_of(runtime, webhooks.ORDER) == ["48392"] * stored
    assert len(all_rows(runtime, Delivery)) == stored
    assert len(all_rows(runtime, Confirmation)) == 1


def test_the_provider_completes_a_code_that_came_as_a_number(world: World) -> None:
    """42 may be 0042: the provider is asked, and what it says is delivered."""
    runtime = world.connect(daisysim=True, slack=True)
    world.api.on("GET", CHECK_PATH, json={"data": {"status": "Completed", "code": "0042"}})
    payload = webhooks.daisysim().json() | {"code": 42, "text": None, "sms": None, "message": None}
    handle(runtime, webhooks.daisysim().with_body(webhooks.encode(payload)))

    settle(runtime, only_row(runtime, Confirmation))

    assert code_of(runtime, webhooks.ACTIVATION) == ["0042"]
    assert _states(runtime) == [READY]
    assert len(all_rows(runtime, Delivery)) == 1


def test_a_time_that_cannot_be_right_makes_no_code_late(world: World) -> None:
    """A phone's clock may be years off; the code is still told at once."""
    runtime = world.connect(virtualsms=True, slack=True)
    handle(runtime, _message("Telegram code: 48392", "48392", "2019-01-01T00:00:00Z"))

    (delivery,) = all_rows(runtime, Delivery)
    deliver(runtime, delivery)
    assert len(world.sent_to()) == 1


def test_an_unreadable_event_makes_its_order_watched(world: World) -> None:
    """What the webhook could not tell is asked of the provider, soon."""
    runtime = world.connect(virtualsms=True)
    code = {"value": ["4", "8"]}
    handle(runtime, _virtualsms({"order": {"id": webhooks.ORDER}, "message": {"code": code}}))

    assert only_row(runtime, InboxEvent).state == "failed"
    assert only_row(runtime, Order).order_id == webhooks.ORDER
