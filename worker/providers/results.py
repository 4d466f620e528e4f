"""The base class of typed API results, and the parsing of lists and pages.

An optional field that a response lacks is None. ``repr`` leaves out codes, texts, phone numbers and
addresses, and ``extra``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from worker.providers.fields import Fields, MissingFieldError, is_label
from worker.providers.reported_order import ReportedOrder

T = TypeVar("T")
R = TypeVar("R", bound="Result")

# Names that any provider may give a list, besides its own.
_LISTS = ("data", "items", "results", "rows", "records", "list")
# Names of an object that says where a page is in the whole list.
_POSITIONS = ("meta", "pagination", "paging", "page_info", "page", "links", "cursors", "cursor")
_CURSORS = (
    *("next_cursor", "cursor", "next_page_token", "next_token", "end_cursor"),
    *("next", "next_page", "next_page_url"),
)
# Names of objects that hold a list and its place.
_WRAPPERS = ("result", "response", "payload")
_MAX_DEPTH = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """An object in a response.

    Attributes:
        extra: the fields that no other attribute holds, as the provider sent them.
    """

    extra: Mapping[str, object] = field(default_factory=dict, repr=False, compare=False)

    def as_reported_order(self, _arguments: Mapping[str, object], /) -> ReportedOrder | None:
        """Return what the result of a call with these arguments says about an order, or None."""
        return None


class Rows(tuple[T, ...]):  # noqa: SLOT001 - a tuple can have no further slots
    """The rows of a list that could be read.

    Attributes:
        skipped: how many rows could not.
    """

    skipped: int

    def __new__(cls, rows: Iterable[T] = (), *, skipped: int = 0) -> Rows[T]:
        """Hold ``rows``."""
        made = super().__new__(cls, rows)
        made.skipped = skipped
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Result, Generic[T]):
    """One page of a list, and its place in the list as far as the response says it.

    Attributes:
        cursor: what stands for the next page: a cursor, a number or a URL.
    """

    items: Rows[T]
    page: int | None = None
    per_page: int | None = None
    total: int | None = None
    total_pages: int | None = None
    cursor: str | None = None
    has_more: bool | None = None


def reported_orders(rows: Rows[R]) -> Rows[ReportedOrder]:
    """Return what ``rows`` say about orders, without those whose id no database takes."""
    reported = [each.as_reported_order({}) for each in rows]
    usable = [each for each in reported if each is not None and is_label(each.order_id)]
    return Rows(usable, skipped=rows.skipped + len(rows) - len(usable))


def read_list(payload: object, name: str, read: Callable[[object], T], *others: str) -> Rows[T]:
    """Parse a list: the payload itself, or its field ``name``, one of ``others``, or a common name.

    An object with one of these names may be around it. Rows that ``read`` cannot read are skipped.

    Raises:
        MissingFieldError: there is no list, or it has rows and none of them can be read.
    """
    found, _ = _find_list(payload, (name, *others, *_LISTS))
    return _read_rows(found, name, read)


def read_page(payload: object, name: str, read: Callable[[object], T], *others: str) -> Page[T]:
    """Like :func:`read_list`, with the place of the page."""
    found, around = _find_list(payload, (name, *others, *_LISTS))
    place = Fields(_position(around))
    return Page(
        items=_read_rows(found, name, read),
        page=place.integer("page", "current_page", "page_number", "number"),
        per_page=place.integer("per_page", "page_size", "limit", "size"),
        total=place.integer("total", "total_items", "total_count", "total_records", "count"),
        total_pages=place.integer("total_pages", "last_page", "page_count", "pages"),
        cursor=place.text(*_CURSORS),
        has_more=place.flag("has_more", "has_next", "has_next_page", "more"),
        extra=place.rest(),
    )


def _read_rows(found: list[object] | None, name: str, read: Callable[[object], T]) -> Rows[T]:
    if found is None:
        raise MissingFieldError(f"no list of {name}")
    rows, reason = [], "no object"
    for row in found:
        if isinstance(row, Mapping):
            try:
                rows.append(read(row))
            except MissingFieldError as missing:
                reason = str(missing)
    if found and not rows:
        raise MissingFieldError(f"no row of {name} can be read: {reason}")
    return Rows(rows, skipped=len(found) - len(rows))


def _find_list(
    payload: object, names: tuple[str, ...]
) -> tuple[list[object] | None, list[Mapping[str, object]]]:
    """The list in ``payload``, and the objects around it from the outside in."""
    for find in (lambda item: item.items(*names), _only_list):
        found, around = _search(payload, (*names, *_WRAPPERS), find)
        if found is not None:
            return found, around
    return None, []


def _search(
    payload: object,
    names: tuple[str, ...],
    find: Callable[[Fields], list[object] | None],
    depth: int = _MAX_DEPTH,
) -> tuple[list[object] | None, list[Mapping[str, object]]]:
    if isinstance(payload, list):
        return payload, []
    item = Fields(payload)
    found = find(item)
    inner: list[Mapping[str, object]] = []
    for name in names if found is None and depth else ():
        if within := item.record(name).raw:
            found, inner = _search(within, names, find, depth - 1)
            if found is not None:
                break
    return found, [item.raw, *inner]


def _only_list(item: Fields) -> list[object] | None:
    """The list of objects in an object that has no other: its name does not matter."""
    lists = [
        value
        for value in item.raw.values()
        if isinstance(value, list) and value and isinstance(value[0], Mapping)
    ]
    return lists[0] if len(lists) == 1 else None


def _position(around: Sequence[Mapping[str, object]], depth: int = 2) -> dict[str, object]:
    """What the objects around a list say beside it."""
    place: dict[str, object] = {}
    for each in around:
        place |= {k: v for k, v in each.items() if not isinstance(v, Mapping | list)}
        for name in _POSITIONS if depth else ():
            if within := Fields(each).record(name).raw:
                place |= _position([within], depth - 1)
    return place
