"""How long to wait between attempts."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from worker.outbox import backoff


@given(st.integers(min_value=1, max_value=10_000))
def test_every_wait_is_within_its_bounds(attempt: int) -> None:
    """Never immediate, and never longer than six hours or than the attempt's ceiling."""
    ceiling = min(timedelta(hours=6), timedelta(seconds=2 * 2 ** min(attempt, 30)))

    assert timedelta(seconds=0.5) <= backoff.after(attempt) <= ceiling


def test_waits_grow_and_differ() -> None:
    """Later attempts wait longer on average, and rows that failed together are spread."""
    early = [backoff.after(1).total_seconds() for _ in range(200)]
    late = [backoff.after(8).total_seconds() for _ in range(200)]

    assert sum(late) > 20 * sum(early)
    assert len(set(late)) > 150
