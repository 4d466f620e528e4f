"""Which rows share a message."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.delivery.selection import Candidate, next_batch

ROWS = st.lists(
    st.builds(
        Candidate,
        id=st.integers(0, 99_999).map("{:05}".format),
        stale=st.booleans(),
        abandoned=st.booleans(),
        vanished=st.integers(0, 2),
        unsure=st.booleans(),
        message=st.sampled_from([None, "M1", "M2"]),
        recipient=st.sampled_from([None, None, "R1"]),
        split_from=st.sampled_from([None, None, "M0"]),
    ),
    max_size=60,
    unique_by=lambda each: each.id,
)


@settings(deadline=None)  # a busy machine is no fault
@given(ROWS, st.integers(1, 40))
def test_every_row_is_in_exactly_one_message(rows: list[Candidate], most: int) -> None:
    """For any mix of rows, batches take each row once and keep to the limit."""
    waiting = sorted(rows, key=lambda each: (each.stale, each.id))
    known = {each.id: each for each in waiting}
    sent: list[str] = []
    while waiting:
        message = next_batch(waiting, most)
        assert message[0] == waiting[0].id
        assert 1 <= len(message) <= most
        assert message == sorted(message)
        assert len({known[id_].stale for id_ in message}) == 1
        assert len({known[id_].recipient for id_ in message}) == 1
        repeated = {known[id_].message for id_ in message if known[id_].maybe_sent}
        assert len(repeated) <= 1
        assert len({known[id_].message for id_ in message if known[id_].split_from}) <= 1
        if any(known[id_].abandoned and known[id_].vanished for id_ in message):
            assert len(message) == 1
        sent += message
        waiting = [each for each in waiting if each.id not in message]
    assert sorted(sent) == sorted(known)
