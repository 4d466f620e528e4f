"""Waiting for something to become true, without guessing how long it takes."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(check: Callable[[], T], *, within: float = 10.0, every: float = 0.02) -> T:
    """Return the first truthy value of `check`, called again and again for `within` seconds.

    An exception of `check` counts as "not yet". When the time is over, AssertionError says what
    the last call returned or raised.
    """
    deadline = time.monotonic() + within
    calls = 0
    while True:
        calls += 1
        failure: Exception | None = None
        try:
            value = check()
        except Exception as error:  # noqa: BLE001 -- any failure may pass; the last one is told
            failure = error
            last = f"raised {type(error).__name__}: {error}"
        else:
            if value:
                return value
            last = f"returned {value!r}"
        if time.monotonic() >= deadline:
            name = getattr(check, "__qualname__", repr(check))
            message = f"{name} was not true within {within:g} s ({calls} calls); the last {last}"
            raise AssertionError(message) from failure
        time.sleep(every)
