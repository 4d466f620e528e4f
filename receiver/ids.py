"""Ids: ULIDs as text, in time's order, made by the application before the insert."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from itertools import islice, product
from typing import Final

from ulid import ULID
from ulid.base32 import ENCODE

_TIME_BYTES, _RANDOM_BYTES = 6, 10
# The last two letters number the ids that are made together: to make each afresh costs more
# than to seal an event. What remains of chance is 70 bits.
_LAST: Final = ["".join(pair) for pair in product(ENCODE, repeat=2)]


def new_ids(count: int) -> list[str]:
    """So many ids that nobody else has, in ascending order."""
    return list(islice(endless_ids(), count))


def endless_ids() -> Iterator[str]:
    """Ids that nobody else has, in ascending order, of about the time at which they are made."""
    while True:
        milliseconds = (time.time_ns() // 1_000_000).to_bytes(_TIME_BYTES, "big")
        start = str(ULID.from_bytes(milliseconds + os.urandom(_RANDOM_BYTES)))[: -len(_LAST[0])]
        yield from (start + last for last in _LAST)
