"""What every provider's API is: a name, a key, calls that say what they cost, one way to ask.

A provider is a subclass of :class:`ProviderApi` in a module of its own; it says where its errors
are written (:meth:`ProviderApi.read_error`) and has a method, marked by :func:`call`, for each of
the API's calls. Everything that can go wrong leaves as a
:class:`worker.providers.errors.ProviderError`.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import ClassVar, TypeVar
from urllib.parse import quote

from receiver.clock import now
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

T = TypeVar("T")
Method = TypeVar("Method", bound=Callable[..., object])

_LONGEST_DETAIL = 300
# A word, and no number: the code goes into logs, where a phone number or a key must not.
_CODE = re.compile(r"[A-Za-z][A-Za-z_.\-]{0,59}")
_LONGEST_RETRY_AFTER = 86_400.0


@dataclass(frozen=True, slots=True)
class Call:
    """What is to be known of a call before it is made.

    Attributes:
        name: as the provider's documents name it; the method's name as well.
        budget: the class of calls whose limit it is counted against, if there is one.
        spends: it changes what the account owns or owes, so a person is asked first, and it is
            never repeated without looking at what became of it.
        look: the call that shows what became of it; every one that spends has one.
        state: the state (:mod:`worker.orders.state_machine`) that its success brings an order to.
        swaps: its success gives an order another number.
        waits: it lasts until a message has come, or ends without one.
    """

    name: str
    budget: str | None
    spends: bool = False
    look: str | None = None
    state: str | None = None
    swaps: bool = False
    waits: bool = False


def call(
    *,
    budget: str | None,
    spends: bool = False,
    look: str | None = None,
    state: str | None = None,
    swaps: bool = False,
    waits: bool = False,
) -> Callable[[Method], Method]:
    """Mark a method as one of the API's calls."""

    def mark(method: Method) -> Method:
        method.__dict__["call"] = Call(
            method.__name__, budget, spends, look=look, state=state, swaps=swaps, waits=waits
        )
        return method

    return mark


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a provider's error answer says: which error, by what code, in which words."""

    kind: type[ProviderError] | None
    code: str | None = None
    detail: str | None = None


class ProviderApi(abc.ABC):
    """One provider's API under one key; safe to share between threads.

    Attributes:
        name: the provider's name, in settings, tables and on the command line.
        default_url: where the API is, unless configured otherwise.
        can_confirm: this version of the API has a call that finishes and charges an order.
        limits: how many calls of each budget's class the provider takes in a minute.
        calls: what is to be known of each call, by its name.
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
            raise ValueError("an API key is printable ASCII without spaces")
        self._http = http
        self._base_url = base_url.rstrip("/")
        self._api_key = api_key

    @abc.abstractmethod
    def read_error(self, response: Response) -> Refusal | None:
        """What went wrong, as the answer says it; None for a success."""

    def _ask(
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
        """Make the call ``name`` and give what ``read`` makes of its JSON (None: no body).

        Params and members of the body that are None are left out. ``base_url`` and
        ``key_header`` are for a part of the API that stands elsewhere and wants the bare key.
        """
        about = f"{self.name} {name}"
        response = self._send(
            about,
            method,
            "/".join([base_url or self._base_url, *(_segment(about, part) for part in path)]),
            key_header=key_header,
            params=_given(params),
            body=_given(body),
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
        words = (refusal.detail or "").replace(self._api_key, "[key]")
        return kind(
            " ".join(filter(None, (f"{about}: {response.status}", code))),
            status=response.status,
            code=code,
            detail="".join(filter(str.isprintable, words))[:_LONGEST_DETAIL].strip() or None,
            retry_after=retry_after(response.headers.get("retry-after"), now()),
        )


def retry_after(value: str | None, at: datetime) -> float | None:
    """Seconds to stay away, from a Retry-After header in either form; a day at the most."""
    text = (value or "").strip()
    if re.fullmatch(r"[0-9]{1,18}", text):
        seconds = float(text)
    else:
        try:
            until = parsedate_to_datetime(text)
        except ValueError:
            return None
        if until.tzinfo is None:
            until = until.replace(tzinfo=UTC)
        seconds = (until - at).total_seconds()
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER)


def _segment(about: str, part: str) -> str:
    """One path segment, encoded; what would change the path is never sent."""
    try:
        segment = quote(part, safe="")
    except UnicodeEncodeError:
        segment = ""
    if segment.strip(".") == "":
        raise InvalidRequest(f"{about}: an id that cannot be part of a URL; nothing was sent")
    return segment


def _given(members: Mapping[str, T | None] | None) -> dict[str, T] | None:
    if members is None:
        return None
    return {name: value for name, value in members.items() if value is not None}
