"""What the typed answers of all providers have in common, and how lists are read.

An optional field that an answer lacks is None. ``raw`` keeps the object as it came; it stays out
of ``repr``, as do codes, texts, phone numbers and addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from worker.providers.fields import Fields, MissingFieldError
from worker.providers.reported_order import ReportedOrder

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """An object of an answer."""

    raw: Mapping[str, object] = field(default_factory=dict, repr=False, compare=False)

    def about_order(self, _asked: Mapping[str, object], /) -> ReportedOrder | None:
        """What it says about an order, to a call with the arguments ``_asked``; None: nothing."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Result, Generic[T]):
    """Some of a longer list; ``page`` and ``total`` are None where the answer does not say."""

    items: tuple[T, ...]
    page: int | None = None
    total: int | None = None


def read_list(payload: object, name: str, read: Callable[[object], T]) -> tuple[T, ...]:
    """The objects of a list, bare or under ``name`` or a common name for it.

    Raises:
        MissingFieldError: there is no list.
    """
    if isinstance(payload, list):
        return tuple(map(read, payload))
    item = Fields(payload)
    names = (name, "data", "items", "results")
    found = item.items(*names)
    if found is None:
        found = item.record("data").items(*names)
    if found is None:
        raise MissingFieldError(f"no list of {name}")
    return tuple(map(read, found))


def read_page(payload: object, name: str, read: Callable[[object], T]) -> Page[T]:
    """Like :func:`read_list`, with where in the longer list it stands."""
    items = read_list(payload, name, read)
    item = Fields(payload)
    outer = Fields({**item.record("data").raw, **item.raw})
    place = Fields({**outer.raw, **outer.record("pagination", "meta").raw})
    return Page(
        items=items,
        page=place.integer("page", "current_page"),
        total=place.integer("total", "total_items"),
        raw=item.raw,
    )
