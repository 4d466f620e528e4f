"""The outcome of each reply of a mail server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from tests.support.smtp_server import SmtpServer
from tests.worker.destinations.conftest import CUT, SMS, ScriptedSmtp, email, failure
from worker.destinations.base import DeliveryError

PEOPLE = ("qa@example.org", "ops@example.org", "dev@example.org")


@pytest.mark.parametrize("step", ["GREETING", "EHLO", "MAIL", "RCPT", "DATA", "BODY"])
@pytest.mark.parametrize(("code", "permanent"), [(451, False), (554, True)])
def test_refusal_at_every_step(
    scripted_smtp: ScriptedSmtp, step: str, code: int, permanent: bool
) -> None:
    """4xx is temporary and 5xx permanent at every step; the error never quotes the server."""
    scripted_smtp.answers[step] = f"{code} 483921 for qa@example.org"
    if step == "EHLO":
        scripted_smtp.answers["HELO"] = scripted_smtp.answers[step]
    error = failure(email(scripted_smtp.port))

    assert (error.permanent, error.unknown) == (permanent, False)
    assert str(code) in error.reason
    assert "483921" not in error.reason
    assert error.message_only is (permanent and step in {"DATA", "BODY"})


@pytest.mark.parametrize("answer", [CUT, "gibberish", "150 strange"])
def test_answer_lost_after_the_message(scripted_smtp: ScriptedSmtp, answer: str) -> None:
    """Once the message is out, without a valid reply its outcome is unknown."""
    scripted_smtp.answers["BODY"] = answer
    error = failure(email(scripted_smtp.port))

    assert (error.permanent, error.unknown) == (False, True)
    assert len(scripted_smtp.bodies) == 1


@pytest.mark.parametrize("codes", [(250, 451, 550), (250, 250, 550), (452, 251, 452)])
def test_each_recipient_has_an_answer(scripted_smtp: ScriptedSmtp, codes: Sequence[int]) -> None:
    """Accepted recipients have it; the others each have an error, permanent or not."""
    for person, code in zip(PEOPLE, codes, strict=True):
        scripted_smtp.answers[f"RCPT TO:<{person}>"] = f"{code} {person}"
    error = failure(email(scripted_smtp.port, people=PEOPLE))

    assert len(scripted_smtp.bodies) == 1
    assert {who: each.permanent for who, each in error.failed.items()} == {
        who: code >= 500 for who, code in zip(PEOPLE, codes, strict=True) if code > 251
    }
    assert not any("example.org" in each.reason for each in error.failed.values())


def test_only_restricts_the_recipients(scripted_smtp: ScriptedSmtp) -> None:
    """Other recipients do not get it again, and the mail is the same as theirs."""
    destination = email(scripted_smtp.port, people=PEOPLE)
    destination.send([SMS])
    destination.send([SMS], only=[PEOPLE[1]])

    assert destination.recipients == PEOPLE
    asked = [command for command in scripted_smtp.commands if command.upper().startswith("RCPT")]
    assert len(asked) == 4
    assert PEOPLE[1] in asked[-1]
    first, again = scripted_smtp.parsed()
    assert (first["Message-ID"], first["To"]) == (again["Message-ID"], again["To"])


def test_removed_recipient(scripted_smtp: ScriptedSmtp) -> None:
    """A recipient who is no longer configured gets nothing; the error is permanent."""
    with pytest.raises(DeliveryError) as caught:
        email(scripted_smtp.port, people=PEOPLE).send([SMS], only=["former@example.org"])

    assert caught.value.permanent
    assert scripted_smtp.commands == []


@pytest.mark.parametrize(
    ("codes", "permanent"),
    [((550, 553, 550), True), ((550, 451, 550), False), ((450, 450, 450), False)],
)
def test_no_recipient_accepted(
    scripted_smtp: ScriptedSmtp, codes: Sequence[int], permanent: bool
) -> None:
    """If all replies are alike there is one error, otherwise one for each recipient."""
    for person, code in zip(PEOPLE, codes, strict=True):
        scripted_smtp.answers[f"RCPT TO:<{person}>"] = f"{code} {person}"
    error = failure(email(scripted_smtp.port, people=PEOPLE))

    assert error.permanent is permanent
    assert [each.permanent for each in error.failed.values()] in ([], [True, False, True])
    assert bool(error.failed) is (len({code >= 500 for code in codes}) > 1)
    assert scripted_smtp.bodies == []


def test_success_logs_nothing(scripted_smtp: ScriptedSmtp) -> None:
    """A message that all recipients get logs nothing."""
    with capture_logs() as logs:
        email(scripted_smtp.port).send([SMS])
    assert logs == []


def test_lines_of_dots_survive(smtp_server: SmtpServer, scripted_smtp: ScriptedSmtp) -> None:
    """A line with a single dot does not end the message early."""
    dotted = replace(SMS, text=".\n..\n.MAIL FROM:<x@example.org>\nend")
    email(smtp_server.port).send([dotted])
    email(scripted_smtp.port).send([dotted])

    (mail,) = smtp_server.mails()
    assert b"\r\n.\r\n..\r\n.MAIL FROM:<x@example.org>\r\nend\r\n" in mail.content
    assert b"\r\n..\r\n...\r\n..MAIL" in scripted_smtp.bodies[0]


def test_plain_text_has_no_html(scripted_smtp: ScriptedSmtp) -> None:
    """A refused message is repeated without its HTML, with the same id."""
    destination = email(scripted_smtp.port, people=PEOPLE)
    destination.send([SMS])
    destination.send_plain([SMS], only=[PEOPLE[0]])

    whole, plain = scripted_smtp.parsed()
    assert whole.get_content_type() == "multipart/alternative"
    assert plain.get_content_type() == "text/plain"
    assert "483921" in plain.get_content()
    assert plain["Message-ID"] == whole["Message-ID"]
    assert sum(command.upper().startswith("RCPT") for command in scripted_smtp.commands) == 4
