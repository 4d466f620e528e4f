"""The signed webhook, besides the contract: signatures, payload and response statuses."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from tests.worker.destinations.conftest import SMS, HttpStub
from worker.destinations.base import DeliveryError
from worker.destinations.webhook import Webhook, payload

OLD, NEW = ("whsec_" + base64.b64encode(letter * 32).decode() for letter in (b"o", b"n"))


def send(stub: HttpStub, *secrets: str, delivery_id: str = SMS.delivery_id) -> None:
    """Send the sample to the stub."""
    hook = Webhook("hook", url=stub.url, secrets=secrets or [NEW], http=stub.client())
    hook.send([replace(SMS, delivery_id=delivery_id)])


def failure(stub: HttpStub) -> DeliveryError:
    """Send the sample to the stub, which must refuse it."""
    with pytest.raises(DeliveryError) as caught:
        send(stub)
    return caught.value


def test_receiver_can_verify(slack_stub: HttpStub) -> None:
    """The library that receivers use accepts the signature, and rejects any change."""
    send(slack_stub)
    headers, body = slack_stub.requests[0].headers, slack_stub.requests[0].body

    assert Verifier(NEW).verify(body, headers)["data"]["code"] == "483921"
    for change in ({"webhook-id": "another"}, {"webhook-timestamp": "1700000000"}):
        with pytest.raises(WebhookVerificationError):
            Verifier(NEW).verify(body, headers | change)
    with pytest.raises(WebhookVerificationError):
        Verifier(NEW).verify(body.replace(b"483921", b"483922"), headers)
    with pytest.raises(WebhookVerificationError):
        Verifier(OLD).verify(body, headers)


def test_secret_can_be_rotated(slack_stub: HttpStub) -> None:
    """With two secrets, a receiver can verify with either."""
    send(slack_stub, OLD, NEW)

    for secret in (OLD, NEW):
        Verifier(secret).verify(slack_stub.requests[0].body, slack_stub.requests[0].headers)


def test_id_is_the_delivery(slack_stub: HttpStub) -> None:
    """Every attempt has the delivery's id, and no id can extend into the signed body."""
    send(slack_stub)
    send(slack_stub)
    send(slack_stub, delivery_id="a.1.{}\r\nx: y")

    ids = [request.headers["webhook-id"] for request in slack_stub.requests]
    assert ids == [SMS.delivery_id, SMS.delivery_id, "a-1-----x--y"]
    Verifier(NEW).verify(slack_stub.requests[2].body, slack_stub.requests[2].headers)


def test_body() -> None:
    """The body has the same keys for every type."""
    now = datetime(2025, 11, 22, 8, 0, tzinfo=UTC)
    code = payload(replace(SMS, marks=("late",)), now)

    assert code == {
        "type": "sms.received",
        "timestamp": "2025-11-22T07:51:02Z",
        "data": {
            "event_id": SMS.event_id,
            "delivery_id": SMS.delivery_id,
            "provider": "virtualsms",
            "order_id": "ord-771",
            "phone_number": "+447700900123",
            "service": "telegram",
            "country": "GB",
            "code": "483921",
            "text": "Your code is 483921.\nDo not share it.",
            "received_at": "2025-11-22T07:51:02Z",
            "marks": ["late"],
            "detail": None,
        },
    }
    bare = replace(SMS, type="balance.low", code=None, text=None, received_at=None, detail="3 USD")
    notice = payload(bare, now)
    assert notice["timestamp"] == "2025-11-22T08:00:00Z"
    assert notice["data"].keys() == code["data"].keys()
    assert (notice["data"]["code"], notice["data"]["detail"]) == (None, "3 USD")


@pytest.mark.parametrize("status", [200, 202, 204, 299])
def test_any_success_is_one(slack_stub: HttpStub, status: int) -> None:
    """Any 2xx status with any body is a success."""
    slack_stub.status, slack_stub.body = status, b""
    send(slack_stub)


@pytest.mark.parametrize("status", [301, 307, 400, 404, 410, 422, 500, 503])
def test_other_answers(slack_stub: HttpStub, status: int) -> None:
    """Only 410 and 422 are permanent, others are temporary, and redirects are not followed."""
    slack_stub.status = status
    slack_stub.headers = {"location": slack_stub.url}
    error = failure(slack_stub)

    assert (error.permanent, error.unknown, error.retry_after) == (
        status in {410, 422}, False, None,
    )  # fmt: skip
    assert error.message_only == (status == 422)
    assert error.foreign == (status < 400)
    assert str(status) in error.reason
    assert len(slack_stub.requests) == 1


@pytest.mark.parametrize("page", [b"<!doctype html><h1>Access denied</h1>", b"\r\n<TITLE>No"])
@pytest.mark.parametrize("status", [302, 400, 403, 404, 422])
def test_a_page_is_not_the_receivers_answer(slack_stub: HttpStub, status: int, page: bytes) -> None:
    """A proxy may have sent it: never final."""
    slack_stub.status, slack_stub.body = status, page
    error = failure(slack_stub)

    assert (error.permanent, error.foreign) == (False, True)


@pytest.mark.parametrize(
    ("status", "header", "seconds"),
    [
        (429, "5", 5.0),
        (429, None, 30.0),
        (502, "5", 5.0),
        (503, "99999", 3600.0),
        (504, "Fri, 31 Dec 1999 23:59:59 GMT", 0.0),
        (503, "soon", None),
        (500, "5", None),
    ],
)
def test_pause(slack_stub: HttpStub, status: int, header: str | None, seconds: object) -> None:
    """``Retry-After`` counts for the statuses for which the standard allows it."""
    slack_stub.status = status
    slack_stub.headers = {} if header is None else {"retry-after": header}
    error = failure(slack_stub)

    assert error.retry_after == seconds
    assert not error.permanent


def test_posts_share_a_connection(slack_stub: HttpStub) -> None:
    """Consecutive posts use one connection."""
    hook = Webhook("hook", url=slack_stub.url, secrets=[NEW], http=slack_stub.client())
    for _ in range(5):
        hook.send([SMS])

    assert len({request.connection for request in slack_stub.requests}) == 1
