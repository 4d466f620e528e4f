"""A destination's pace, as arithmetic."""

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
    """Whenever messages are wanted, any stretch of time holds a burst and its share, no more."""
    sent: list[datetime] = []
    spent, now = None, NOON
    for pause in pauses:
        now += timedelta(seconds=pause)
        for _ in range(pace.room(spent, now) or 0):
            spent = pace.spend(spent, now)
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
def test_the_next_turn_is_the_first_moment_with_room(pace: TokenBucket, count: int) -> None:
    """Whoever comes back then may send; whoever comes a moment before may not."""
    spent = None
    now = NOON
    for _ in range(count):
        now = pace.next_turn(spent, now)
        assert pace.room(spent, now)
        spent = pace.spend(spent, now)
    turn = pace.next_turn(spent, now)
    if turn > now:
        assert pace.room(spent, turn - timedelta(microseconds=1)) == 0
    # All that time, the pace was used to the full.
    assert pace.per_second is not None
    evenly = max(count + 1 - pace.burst, 0) / pace.per_second
    assert abs((turn - NOON).total_seconds() - evenly) < 1e-6 * (count + 1)


def test_without_a_limit_there_is_always_room() -> None:
    """And nothing is counted."""
    pace = TokenBucket(None, 1)
    assert pace.room(NOON + SECOND, NOON) is None
    assert pace.next_turn(NOON + SECOND, NOON) == NOON
    assert pace.spend(None, NOON) is None


def test_a_clock_that_was_set_back_does_not_silence_a_destination() -> None:
    """What was spent under the other clock counts as a full burst, and is over as soon."""
    pace = TokenBucket(1.0, 3)
    ahead = NOON + timedelta(hours=1)
    assert pace.room(ahead, NOON) == 0
    assert pace.next_turn(ahead, NOON) == NOON + SECOND
