"""Polls a condition instead of sleeping for a guessed time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(check: Callable[[], T], *, within: float = 10.0, every: float = 0.02) -> T:
    """Call `check` repeatedly for `within` seconds, and return its first truthy value.

    An exception of `check` counts as "not yet". After that time, AssertionError says what the last
    call returned or raised.
    """
    deadline = time.monotonic() + within
    calls = 0
    while True:
        calls += 1
        failure: Exception | None = None
        try:
            value = check()
        except Exception as error:  # noqa: BLE001 -- any failure may be temporary; the last is reported
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
