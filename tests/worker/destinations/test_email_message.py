"""The e-mail message."""

from __future__ import annotations

from dataclasses import replace
from email.headerregistry import Address
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worker.destinations.conftest import SMS
from worker.destinations.email import Email, compose
from worker.destinations.smtp.url import SmtpServer
from worker.messages import text as messages
from worker.messages.text import Notification, Texts

SENDER = Address("Codecatch", addr_spec="codecatch@example.org")
PEOPLE = [Address(addr_spec="qa@example.org"), Address(addr_spec="ops@example.org")]
ANYTHING = st.text(st.characters(exclude_categories=[]))


def sent(*notifications: Notification) -> bytes:
    """The message as it is sent."""
    return compose(notifications, Texts(), sender=SENDER, recipients=PEOPLE).as_bytes()


def arrived(*notifications: Notification) -> EmailMessage:
    """The message as another program reads it."""
    return BytesParser(EmailMessage, policy=default).parsebytes(sent(*notifications))


def part(message: EmailMessage, kind: str) -> str:
    """The plain or HTML part."""
    body = message.get_body((kind,))
    assert body is not None
    return str(body.get_content()).replace("\r\n", "\n")


def test_headers() -> None:
    """All headers that mail programs and filters use are present."""
    message = arrived(SMS)

    assert message["Subject"] == "[codecatch] code 483921 · telegram · order ord-771"
    assert message["From"] == "Codecatch <codecatch@example.org>"
    assert message["To"] == "qa@example.org, ops@example.org"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Date"].datetime is not None
    assert message["Date"].datetime.tzinfo is not None
    assert message["Message-ID"] == f"<{SMS.delivery_id}@codecatch.example.org>"


def test_message_id_is_that_of_the_deliveries() -> None:
    """Every attempt for the same deliveries has one Message-ID, and any others another."""
    other = replace(SMS, delivery_id="01JD0DELIVERY0000000000002")
    ids = [arrived(*each)["Message-ID"] for each in ([SMS], [other], [SMS, other], [other, SMS])]
    repeated = replace(SMS, marks=("repeated",))

    assert len(set(ids)) == 4
    assert arrived(repeated)["Message-ID"] == ids[0]
    assert arrived(repeated, other)["Message-ID"] == ids[2]


def test_several_in_one_mail() -> None:
    """Both parts have every code, in order."""
    codes = [f"90{number:04}" for number in range(40)]
    message = arrived(*(replace(SMS, code=code, text=f"it is {code}") for code in codes))

    for kind in ("plain", "html"):
        words = part(message, kind)
        places = [words.index(code) for code in codes]
        assert places == sorted(places)
    assert "40" in message["Subject"]


def test_parts() -> None:
    """Both parts have the code, the text with its lines, the fields and the ids."""
    message = arrived(replace(SMS, detail="Something odd.", marks=("not verified",)))

    text = part(message, "plain")
    assert text.startswith("483921\n\nSomething odd.\n\nYour code is 483921.\nDo not share it.\n")
    assert "Service: telegram\nNumber: +447700900123\nOrder: ord-771\n" in text
    assert text.endswith(f"not verified · event {SMS.event_id} · delivery {SMS.delivery_id}\n")
    html = part(message, "html")
    for words in ("483921</bdi>", "Something odd.", "Do not share it.", "telegram", SMS.event_id):
        assert words in html


def test_html_is_escaped() -> None:
    """Markup in any untrusted field is escaped in the HTML part."""
    tag = '<img src=x onerror="alert(1)">'
    hostile = replace(
        *(SMS,),
        **dict.fromkeys(("code", "text", "detail", "service", "country"), tag),
        order_id=tag,
        phone_number=tag,
        marks=(tag,),
    )
    html = part(arrived(hostile), "html")

    assert "<img" not in html
    assert html.count("&lt;img") >= 8


@settings(deadline=None)  # a busy machine is no fault
@given(service=ANYTHING, order_id=ANYTHING, mark=ANYTHING, text=ANYTHING)
def test_no_header_can_be_injected(service: str, order_id: str, mark: str, text: str) -> None:
    """Whatever the fields hold, there are the same eight headers, and the subject is whole."""
    hostile = replace(SMS, service=service, order_id=order_id, marks=(mark,), text=text)
    message = arrived(hostile)

    assert sorted(message.keys()) == [
        *("Auto-Submitted", "Content-Type", "Date", "From"),
        *("MIME-Version", "Message-ID", "Subject", "To"),
    ]
    assert message["Subject"] == f"[codecatch] {messages.title(hostile)}"
    assert message["To"] == "qa@example.org, ops@example.org"


@pytest.mark.parametrize(
    "service",
    [
        "a · b",
        "ünï cödé " * 6,
        "\N{FIRE}" * 60,
        "=?utf-8?q?fake?=",
        "=?utf-8?q?x=0D=0ABcc:_y=E2=80=AE?=",
        "a =?x?= · b",
        "tail ·",
        "x" * 60,
    ],
)
def test_subject_survives_encoding(service: str) -> None:
    """A subject in any alphabet arrives as written, with nothing decoded."""
    other = replace(SMS, service=service)
    assert arrived(other)["Subject"] == f"[codecatch] {messages.title(other)}"


@settings(deadline=None)  # a busy machine is no fault
@given(text=ANYTHING)
def test_bytes_suit_any_server(text: str) -> None:
    """The message is ASCII in lines of fewer than 998 bytes, each ended by CR LF."""
    whole = sent(replace(SMS, text=text * 50), SMS)

    assert whole.isascii()
    assert whole.endswith(b"\r\n")
    assert b"\n" not in whole.replace(b"\r\n", b"")
    assert b"\r" not in whole.replace(b"\r\n", b"")
    assert max(map(len, whole.split(b"\r\n"))) < 998


@pytest.mark.parametrize(
    ("sender", "recipients"),
    [
        ("", ["qa@example.org"]),
        ("nobody", ["qa@example.org"]),
        ("a@example.org\r\nBcc: b@example.org", ["qa@example.org"]),
        ("codecatch@example.org", []),
        ("codecatch@example.org", ["qa@example.org", "qa@"]),
        ("codecatch@example.org", ["qä@example.org"]),
        ("codecatch@example.org", ["qa@example.org>\r\nDATA"]),
        ("codecatch@example.org", ["qa@example.org, ops@example.org"]),
        ("codecatch@example.org", [".qa@example.org"]),
        ("codecatch@example.org", ["qa@example..org"]),
    ],
)
def test_addresses_that_cannot_be_used(sender: str, recipients: list[str]) -> None:
    """A malformed address, or one that could inject commands, is refused."""
    with pytest.raises(ValueError, match=r"sender|recipient") as caught:
        Email("mail", server=SmtpServer("127.0.0.1", 25), sender=sender, recipients=recipients)
    assert "example" not in str(caught.value)


def test_sender_may_have_a_name() -> None:
    """A display name may hold any visible characters."""
    destination = Email(
        "mail",
        server=SmtpServer("127.0.0.1", 25),
        sender="Wächter <codecatch@example.org>",
        recipients=["QA <qa@example.org>"],
    )
    assert destination.name == "mail"
