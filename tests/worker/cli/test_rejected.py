"""``codecatch rejected``."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import insert
from ulid import ULID

from receiver import clock
from receiver.inbox.rejections import REJECTED
from tests.support.stores import Store
from tests.worker.cli.conftest import Run


def _refuse(store: Store, provider: str, reason: str, status: int = 401) -> None:
    row = str(ULID())
    origin = store.vault.seal("203.0.113.9", table="rejected_requests", column="origin", row=row)
    with store.database.transaction() as session:
        session.connection().execute(
            insert(REJECTED).values(
                id=row,
                at=clock.now(),
                provider=provider,
                status=status,
                reason=reason,
                origin=origin,
            )
        )


@pytest.fixture(autouse=True)
def _refused(store: Store) -> None:
    for provider, reason in (("virtualsms", "no signature header"), ("daisysim", "no token")):
        _refuse(store, provider, reason)


def test_list(run: Run) -> None:
    """Each rejection has status and reason; its address is masked unless revealed."""
    rows = run("rejected", "list", "--json").json
    assert {row["reason"] for row in rows} == {"no token", "no signature header"}
    assert {(row["status"], row["origin"]) for row in rows} == {(401, "••••••••")}
    revealed = run("rejected", "list", "--reveal").out
    assert "203.0.113.9" in revealed


def test_filters(run: Run) -> None:
    """Provider and time narrow the list."""
    filters = (("--provider", "daisysim"), 1), (("--since", "5m"), 2), (("--limit", "1"), 1)
    for words, count in (*filters, (("--until", "5m"), 0)):
        assert len(run("rejected", "list", "--json", *words).json) == count, words


def test_doctor_reports_the_most_frequent_reason(run: Run, store: Store) -> None:
    """Each provider has the number of rejections, the main reason, and a command."""
    wrong = "the signature matches the secret without the prefix whsec_"
    for provider, reason in (("virtualsms", wrong), ("daisysim", "no token")):
        _refuse(store, provider, reason)
        _refuse(store, provider, reason)
    said = [check["says"] for check in _checks_of(run) if check["name"] == "rejected"]
    lately = "rejected in 24 hours"
    look = "list them: codecatch rejected list --provider"
    assert said == [
        f"3 requests for daisysim {lately}: no token; {look} daisysim",
        f"3 requests for virtualsms {lately}, most often (2): {wrong}; {look} virtualsms",
    ]


def _checks_of(run: Run) -> list[dict[str, str]]:
    checks: list[dict[str, str]] = json.loads(run("doctor", "--json").out)["checks"]
    return checks


def test_doctor_says_to_rotate_a_token_that_is_flooded(run: Run, store: Store) -> None:
    """Requests above the rate were authentic, so somebody else may have the token."""

    def said() -> list[str]:
        checks = json.loads(run("doctor", "--json").out)["checks"]
        return [each["says"] for each in checks if "DAISYSIM_RATE: " in each["says"]]

    _refuse(store, "daisysim", "the body is over 8192 bytes (DAISYSIM_LARGEST_BODY)", 413)
    assert said() == []
    for _ in range(3):
        _refuse(
            store, "daisysim", "more requests with one token than DAISYSIM_RATE allows", status=429
        )
    (says,) = said()
    assert says == (
        "3 requests for daisysim in 24 hours above DAISYSIM_RATE: somebody else may have the "
        "token; rotate it: add a new one to DAISYSIM_WEBHOOK_TOKENS, set it at the provider, then "
        "remove the old one"
    )
