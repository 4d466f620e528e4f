"""``codecatch rejected``."""

from __future__ import annotations

import pytest
from sqlalchemy import insert
from ulid import ULID

from receiver import clock
from receiver.rejections import REJECTED
from tests.support.stores import Store
from tests.worker.cli.conftest import Run


@pytest.fixture(autouse=True)
def _refused(store: Store) -> None:
    for provider, reason in (("virtualsms", "no signature header"), ("daisysim", "no token")):
        row = str(ULID())
        origin = store.vault.seal(
            "203.0.113.9", table="rejected_requests", column="origin", row=row
        )
        with store.database.transaction() as session:
            session.connection().execute(
                insert(REJECTED).values(
                    id=row, at=clock.now(), provider=provider, status=401, reason=reason,
                    origin=origin,
                )
            )  # fmt: skip


def test_list_says_why(run: Run) -> None:
    """Each refusal has its status and its reason in words; whose it was must be asked for."""
    rows = run("rejected", "list", "--json").json
    assert {row["reason"] for row in rows} == {"no token", "no signature header"}
    assert {(row["status"], row["origin"]) for row in rows} == {(401, "••••••••")}
    revealed = run("rejected", "list", "--reveal").out
    assert "203.0.113.9" in revealed


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (("--provider", "daisysim"), 1),
        (("--since", "5m"), 2),
        (("--until", "5m"), 0),
        (("--limit", "1"), 1),
    ],
)
def test_filters(run: Run, words: tuple[str, ...], count: int) -> None:
    """Provider and time narrow the list."""
    assert len(run("rejected", "list", "--json", *words).json) == count
