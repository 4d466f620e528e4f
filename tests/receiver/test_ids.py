"""Ids: ULIDs in order, and none twice."""

from __future__ import annotations

import time

import pytest
from ulid import ULID

from receiver.ids import new_ids


@pytest.mark.parametrize("count", [0, 1, 1_000, 3_000])
def test_ids_are_ulids_in_ascending_order(count: int) -> None:
    """As many as were asked for, each of this moment, however many are made together."""
    before = int(time.time() * 1_000)
    made = new_ids(count)
    after = int(time.time() * 1_000)
    assert len(set(made)) == len(made) == count
    assert all(before <= ULID.from_str(each).milliseconds <= after for each in made)
    assert made[:1_000] == sorted(made[:1_000])


def test_ids_that_are_made_apart_differ() -> None:
    """Two batches of one millisecond share no id."""
    made = [each for _ in range(2_000) for each in new_ids(2)]
    assert len(set(made)) == len(made)
