"""What each answer of a mail server means for the delivery."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from tests.worker.destinations.conftest import CUT, SMS, RealSmtp, ScriptedSmtp, email, failure

PEOPLE = ("qa@example.org", "ops@example.org", "dev@example.org")


@pytest.mark.parametrize("step", ["GREETING", "EHLO", "MAIL", "RCPT", "DATA", "BODY"])
@pytest.mark.parametrize(("code", "permanent"), [(451, False), (554, True)])
def test_refusal_at_every_step(
    scripted_smtp: ScriptedSmtp, step: str, code: int, permanent: bool
) -> None:
    """4xx may pass and 5xx will not, at whatever step, and the words are never the server's."""
    scripted_smtp.answers[step] = f"{code} 483921 for qa@example.org"
    if step == "EHLO":
        scripted_smtp.answers["HELO"] = scripted_smtp.answers[step]
    error = failure(email(scripted_smtp.port))

    assert (error.permanent, error.unknown) == (permanent, False)
    assert str(code) in error.reason
    assert "483921" not in error.reason


@pytest.mark.parametrize("step", ["GREETING", "EHLO", "MAIL", "RCPT", "DATA"])
def test_connection_lost_before_the_message(scripted_smtp: ScriptedSmtp, step: str) -> None:
    """A connection that drops before the message is out leaves no doubt: it was not taken."""
    scripted_smtp.answers[step] = CUT
    error = failure(email(scripted_smtp.port))

    assert (error.permanent, error.unknown) == (False, False)


@pytest.mark.parametrize("answer", [CUT, "gibberish", "150 strange"])
def test_answer_lost_after_the_message(scripted_smtp: ScriptedSmtp, answer: str) -> None:
    """Once the message is out, only an answer that can be read ends the doubt."""
    scripted_smtp.answers["BODY"] = answer
    error = failure(email(scripted_smtp.port))

    assert (error.permanent, error.unknown) == (False, True)
    assert len(scripted_smtp.bodies) == 1


@pytest.mark.parametrize(
    ("codes", "for_now", "for_good"),
    [((250, 451, 550), 1, 1), ((250, 250, 550), 0, 1), ((452, 251, 452), 2, 0)],
)
def test_one_recipient_is_enough(
    scripted_smtp: ScriptedSmtp, codes: Sequence[int], for_now: int, for_good: int
) -> None:
    """With one recipient accepted the delivery is done, and the log has numbers, no addresses."""
    for person, code in zip(PEOPLE, codes, strict=True):
        scripted_smtp.answers[f"RCPT TO:<{person}>"] = f"{code} {person}"
    with capture_logs() as logs:
        email(scripted_smtp.port, people=PEOPLE).send([SMS])

    assert len(scripted_smtp.bodies) == 1
    assert logs == [
        {
            "event": "email.recipients_refused",
            "log_level": "warning",
            "destination": "mail",
            "delivery_id": SMS.delivery_id,
            "accepted": 3 - for_now - for_good,
            "refused_for_now": for_now,
            "refused_for_good": for_good,
        }
    ]


@pytest.mark.parametrize(
    ("codes", "permanent"),
    [((550, 553, 550), True), ((550, 451, 550), False), ((450, 450, 450), False)],
)
def test_no_recipient_accepted(
    scripted_smtp: ScriptedSmtp, codes: Sequence[int], permanent: bool
) -> None:
    """With nobody accepted it is final only if every refusal was."""
    for person, code in zip(PEOPLE, codes, strict=True):
        scripted_smtp.answers[f"RCPT TO:<{person}>"] = f"{code} {person}"

    assert failure(email(scripted_smtp.port, people=PEOPLE)).permanent is permanent
    assert scripted_smtp.bodies == []


def test_success_logs_nothing(scripted_smtp: ScriptedSmtp) -> None:
    """A delivery that everybody gets leaves no line."""
    with capture_logs() as logs:
        email(scripted_smtp.port).send([SMS])
    assert logs == []


def test_lines_of_dots_survive(
    start_smtp: Callable[..., RealSmtp], scripted_smtp: ScriptedSmtp
) -> None:
    """A line that is a dot does not end the message early."""
    real = start_smtp()
    dotted = replace(SMS, text=".\n..\n.MAIL FROM:<x@example.org>\nend")
    email(real.port).send([dotted])
    email(scripted_smtp.port).send([dotted])

    assert b"\r\n.\r\n..\r\n.MAIL FROM:<x@example.org>\r\nend\r\n" in real.contents[0]
    assert b"\r\n..\r\n...\r\n..MAIL" in scripted_smtp.bodies[0]
