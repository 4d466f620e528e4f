"""The token bucket's arithmetic."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.delivery.token_bucket import TokenBucket

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
PACES = st.builds(TokenBucket, st.floats(0.01, 100), st.integers(1, 50))
PAUSES = st.lists(st.floats(0, 5), min_size=1, max_size=120)


@settings(deadline=None)  # a busy machine is no fault
@given(PACES, PAUSES, st.data())
def test_no_window_holds_more_than_the_pace(
    pace: TokenBucket, pauses: list[float], data: st.DataObject
) -> None:
    """Any span of time holds at most a burst plus its share of the rate."""
    sent: list[datetime] = []
    spent_until, now = None, NOON
    for pause in pauses:
        now += timedelta(seconds=pause)
        for _ in range(pace.available(spent_until, now) or 0):
            spent_until = pace.spend(spent_until, now)
            sent.append(now)
    if not sent:
        return
    begin = data.draw(st.sampled_from(sent))
    end = data.draw(st.sampled_from([each for each in sent if each >= begin]))
    within = sum(begin <= each <= end for each in sent)
    assert pace.per_second is not None
    assert within <= pace.burst + pace.per_second * (end - begin).total_seconds() + 1e-6


@settings(deadline=None)  # a busy machine is no fault
@given(PACES, st.integers(1, 60))
def test_next_allowed_at_is_the_first_time_with_a_token(pace: TokenBucket, count: int) -> None:
    """A message may be sent then, and not a microsecond earlier."""
    spent_until = None
    now = NOON
    for _ in range(count):
        now = pace.next_allowed_at(spent_until, now)
        assert pace.available(spent_until, now)
        spent_until = pace.spend(spent_until, now)
    allowed_at = pace.next_allowed_at(spent_until, now)
    if allowed_at > now:
        assert pace.available(spent_until, allowed_at - timedelta(microseconds=1)) == 0
    # The pace was used to the full throughout.
    assert pace.per_second is not None
    evenly = max(count + 1 - pace.burst, 0) / pace.per_second
    assert abs((allowed_at - NOON).total_seconds() - evenly) < 1e-6 * (count + 1)


def test_without_a_limit_nothing_is_counted() -> None:
    """Any number may be sent at any time."""
    pace = TokenBucket(None, 1)
    assert pace.available(NOON + SECOND, NOON) is None
    assert pace.next_allowed_at(NOON + SECOND, NOON) == NOON
    assert pace.spend(None, NOON) is None


def test_a_clock_set_back_does_not_block_a_destination() -> None:
    """A time that is further ahead than a full burst was written under the other clock."""
    pace = TokenBucket(1.0, 3)
    ahead = NOON + timedelta(hours=1)
    assert pace.available(ahead, NOON) == 3
    assert pace.next_allowed_at(ahead, NOON) == NOON
    assert pace.spend(ahead, NOON) == NOON + SECOND
    assert pace.available(NOON + 3 * SECOND, NOON) == 0
