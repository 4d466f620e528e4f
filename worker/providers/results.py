"""The base class of typed API results, and the parsing of lists and pages.

An optional field that a response lacks is None. ``raw`` is the JSON object as received; ``repr``
leaves it out, together with codes, texts, phone numbers and addresses.
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
    """An object in a response."""

    raw: Mapping[str, object] = field(default_factory=dict, repr=False, compare=False)

    def as_reported_order(self, _arguments: Mapping[str, object], /) -> ReportedOrder | None:
        """Return what the result of a call with these arguments says about an order, or None."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Result, Generic[T]):
    """One page of a list; ``page`` and ``total`` are None if the response does not have them."""

    items: tuple[T, ...]
    page: int | None = None
    total: int | None = None


def read_list(payload: object, name: str, read: Callable[[object], T]) -> tuple[T, ...]:
    """Parse a list: the payload itself, or its field ``name`` or another common name.

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
    """Like :func:`read_list`, with the number of the page and the total."""
    items = read_list(payload, name, read)
    item = Fields(payload)
    outer = Fields({**item.record("data").raw, **item.raw})
    position = Fields({**outer.raw, **outer.record("pagination", "meta").raw})
    return Page(
        items=items,
        page=position.integer("page", "current_page"),
        total=position.integer("total", "total_items"),
        raw=item.raw,
    )
