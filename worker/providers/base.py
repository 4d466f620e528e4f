"""The base class of provider APIs and the description of their calls.

A provider is a subclass of :class:`ProviderApi` in its own package. It reads the provider's error
format (:meth:`ProviderApi.read_error`), and has one method for each call of the API, marked with
:func:`call`. Every failure is raised as a :class:`worker.providers.errors.ProviderError`.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar
from urllib.parse import quote

from worker.http.client import HostRefused, HttpClient, NotSent, OutcomeUnknown, Response
from worker.providers.errors import (
    InvalidRequest,
    ProviderError,
    ProviderOutcomeUnknown,
    ProviderUnreachable,
    UnexpectedAnswer,
    UnknownProviderError,
)
from worker.providers.fields import MissingFieldError
from worker.providers.results import Rows, read_list

T = TypeVar("T")
Method = TypeVar("Method", bound=Callable[..., object])

_MAX_DETAIL_LENGTH = 300
# Letters only, no digits: the code is logged, and phone numbers and keys must not be.
_CODE = re.compile(r"[A-Za-z][A-Za-z_.\-]{0,59}")
_LONGEST_PAUSE = 900.0


@dataclass(frozen=True, slots=True)
class Call:
    """The properties of an API call.

    Attributes:
        name: the name in the provider's documents, and of the method.
        budget: the budget class whose rate limit counts the call; None: unlimited.
        spends: it changes what the account owns or owes. The command asks for a confirmation, and
            nothing retries the call without checking its outcome.
        lookup: the call that shows the outcome of this one; every call that spends has one.
        state: the order state (:mod:`worker.orders.state_machine`) after success, if it sets one.
        swaps: success assigns another number to the order.
        long_poll: the provider responds only when a message has arrived or the wait is over.
    """

    name: str
    budget: str | None
    spends: bool = False
    lookup: str | None = None
    state: str | None = None
    swaps: bool = False
    long_poll: bool = False


def call(
    *,
    budget: str | None,
    spends: bool = False,
    lookup: str | None = None,
    state: str | None = None,
    swaps: bool = False,
    long_poll: bool = False,
) -> Callable[[Method], Method]:
    """Mark a method as an API call with these properties (see :class:`Call`)."""

    def mark(method: Method) -> Method:
        method.__dict__["call"] = Call(
            method.__name__,
            budget,
            spends,
            lookup=lookup,
            state=state,
            swaps=swaps,
            long_poll=long_poll,
        )
        return method

    return mark


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error response: the error class (None if undocumented), its code and its description."""

    kind: type[ProviderError] | None
    code: str | None = None
    detail: str | None = None


class ProviderApi(abc.ABC):
    """One provider's API with one key; thread-safe.

    Attributes:
        name: the provider's name in settings, tables and commands.
        default_url: the base URL, unless another is configured.
        can_confirm: the API has a call that completes and charges an order.
        limits: calls per minute that the provider allows, by budget class.
        calls: the properties of each call, by its name.
    """

    name: ClassVar[str]
    default_url: ClassVar[str]
    can_confirm: ClassVar[bool]
    limits: ClassVar[Mapping[str, int]]
    calls: ClassVar[Mapping[str, Call]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        marked = (getattr(member, "call", None) for member in vars(cls).values())
        cls.calls = {mark.name: mark for mark in marked if isinstance(mark, Call)}

    def __init__(self, http: HttpClient, *, base_url: str, api_key: str) -> None:
        if not re.fullmatch(r"[!-~]+", api_key):
            raise ValueError("the API key must be printable ASCII without spaces")
        self._http = http
        self._base_url = base_url.rstrip("/")
        self._api_key = api_key

    @abc.abstractmethod
    def read_error(self, response: Response) -> Refusal | None:
        """Return the error that the response reports; None for a success."""

    def _request(
        self,
        name: str,
        read: Callable[[object], T],
        method: str,
        *path: str,
        params: Mapping[str, str | int | None] | None = None,
        body: Mapping[str, object] | None = None,
        timeout: float | None = None,
        base_url: str | None = None,
        key_header: str | None = None,
    ) -> T:
        """Make the call ``name``; return the result of ``read`` for its JSON (None: no body).

        Parameters and body members that are None are left out. ``base_url`` and ``key_header`` are
        for a part of the API with another URL that takes the key in that header.

        Raises:
            ProviderError: the call failed, or the response lacks a required field.
        """
        about = f"{self.name} {name}"
        response = self._send(
            about,
            method,
            "/".join([base_url or self._base_url, *(_segment(about, part) for part in path)]),
            key_header=key_header,
            params=_without_none(params),
            body=_without_none(body),
            timeout=timeout,
        )
        refusal = self.read_error(response)
        if refusal is not None:
            raise self._error(about, response, refusal)
        try:
            return read(response.json() if response.body.strip() else None)
        except MissingFieldError as missing:
            reason = str(missing)
        except ValueError:
            reason = "not JSON"
        raise UnexpectedAnswer(f"{about}: {reason}", status=response.status)

    def _list(self, name: str, field: str, read: Callable[[object], T], *path: str) -> Rows[T]:
        """GET a list, whose rows ``read`` reads; :meth:`_request` with :func:`read_list`."""
        return self._request(name, lambda got: read_list(got, field, read), "GET", *path)

    def _send(
        self,
        about: str,
        method: str,
        url: str,
        *,
        key_header: str | None,
        params: Mapping[str, str | int] | None,
        body: Mapping[str, object] | None,
        timeout: float | None,
    ) -> Response:
        key = {key_header: self._api_key} if key_header else {}
        bearer = {} if key_header else {"Authorization": f"Bearer {self._api_key}"}
        headers = {**key, **bearer, "Accept": "application/json"}
        try:
            return self._http.request(
                method, url, headers=headers, params=params, json=body, timeout=timeout
            )
        except (NotSent, HostRefused) as error:
            raise ProviderUnreachable(f"{about}: {error}") from None
        except OutcomeUnknown as error:
            raise ProviderOutcomeUnknown(f"{about}: {error}") from None

    def _error(self, about: str, response: Response, refusal: Refusal) -> ProviderError:
        kind = refusal.kind or UnknownProviderError
        code = refusal.code if _CODE.fullmatch(refusal.code or "") else None
        detail = (refusal.detail or "").replace(self._api_key, "[key]")
        return kind(
            " ".join(filter(None, (f"{about}: {response.status}", code))),
            status=response.status,
            code=code,
            detail="".join(filter(str.isprintable, detail))[:_MAX_DETAIL_LENGTH].strip() or None,
            retry_after=response.retry_after(at_most=_LONGEST_PAUSE),
        )


def _segment(about: str, part: str) -> str:
    """Return one encoded path segment; reject what would change the path."""
    try:
        segment = quote(part, safe="")
    except UnicodeEncodeError:
        segment = ""
    if segment.strip(".") == "":
        raise InvalidRequest(f"{about}: the id cannot be part of a URL; nothing was sent")
    return segment


def _without_none(members: Mapping[str, T | None] | None) -> dict[str, T] | None:
    if members is None:
        return None
    return {name: value for name, value in members.items() if value is not None}
