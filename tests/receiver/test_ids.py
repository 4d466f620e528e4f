"""Ids: ULIDs, sorted and unique."""

from __future__ import annotations

import time

import pytest
from ulid import ULID

from receiver.ids import new_ids


@pytest.mark.parametrize("count", [0, 1, 1_000, 3_000])
def test_ids_are_ulids_in_ascending_order(count: int) -> None:
    """Any number of ids is unique and has the current time."""
    before = int(time.time() * 1_000)
    made = new_ids(count)
    after = int(time.time() * 1_000)
    assert len(set(made)) == len(made) == count
    assert all(before <= ULID.from_str(each).milliseconds <= after for each in made)
    assert made[:1_000] == sorted(made[:1_000])


def test_ids_of_separate_calls_differ() -> None:
    """Batches of the same millisecond share no id."""
    made = [each for _ in range(2_000) for each in new_ids(2)]
    assert len(set(made)) == len(made)
