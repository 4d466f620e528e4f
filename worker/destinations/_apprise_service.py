"""The services that Apprise knows, held to this project's rules.

A URL names one service. What it says about repeating, redirects and time-outs is overruled here,
because pacing and repeating are decided elsewhere and a redirect may lead anywhere. A service
that is wherever its URL says may only be on a host that may be reached; one with a fixed address
needs no naming.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from worker.http.client import HostRefused, HttpClient

if TYPE_CHECKING:
    from apprise import AppriseAsset, NotifyBase

_CONNECT_SECONDS = 5.0
_READ_SECONDS = 15.0

# What Apprise would do besides, and why it may not.
_REFUSED = {
    "mailto": "e-mail has a kind of its own: email",
    "mailtos": "e-mail has a kind of its own: email",
    "syslog": "codes do not belong into a log",
    "rsyslog": "codes do not belong into a log",
    "dbus": "it shows codes on the desktop of this machine",
    "fcm": "it reads a file or an address that the URL names",
    "vapid": "it reads a file that the URL names",
    "nostr": "it talks to relays that nothing here can check",
    "acs": "it talks to an address that nothing here can check",
}
# Arguments that make a service read a file, or reach a second host, that they name.
_REFUSED_ARGUMENTS = ("template", "keyfile", "file_url", "attach")

# They show markup in what they are sent as plain text, and call people by an @.
_SHOW_MARKUP = frozenset(
    {"discord", "fluxer", "guilded", "mmost", "mmosts", "revolt", "ryver", "zulip"}
)
_MARKUP = re.compile(r"([\\`*_~|\[\]<>#])")


class Unusable(Exception):
    """The URL names no service that can be used; the words hold nothing of it."""


def open_service(url: str, http: HttpClient) -> NotifyBase:
    """The one service that ``url`` names; nothing is contacted.

    Raises:
        Unusable: there is none, or it must not be used.
    """
    asset = _asset()
    from apprise import Apprise  # noqa: PLC0415 - many modules, for those who use this kind

    service: Any = Apprise.instantiate(url, asset=asset)
    if service is None:
        raise Unusable("names no service that Apprise knows, or not all that it needs")
    service.redirects = False
    service.retry = 0
    service.optional = False
    service.interpret_emojis = False
    service.discovery = False  # of a Matrix server by what another host says
    service.request_rate_per_sec = 0.0  # a pause between messages is for the budget to make
    service.overflow_mode = "split"
    service.socket_connect_timeout = _CONNECT_SECONDS
    service.socket_read_timeout = _READ_SECONDS
    _check(service, http)
    return service  # type: ignore[no-any-return]


def inert(service: NotifyBase, text: str) -> str:
    """``text`` as the service must be given it to show it as it is."""
    if service.schema not in _SHOW_MARKUP:
        return text  # shown as it is, or escaped by Apprise for what it is not
    return _MARKUP.sub(r"\\\1", text).replace("@", "@\u200b")


def _check(service: Any, http: HttpClient) -> None:
    schemas = _words(service.protocol) | _words(service.secure_protocol)
    for schema in sorted(schemas & _REFUSED.keys()):
        raise Unusable(f"names a service that is not used here: {_REFUSED[schema]}")
    for argument in _REFUSED_ARGUMENTS:
        if getattr(service, argument, None):
            raise Unusable(f"has {argument}=, and what that names is not read")
    if len(service) > 1:
        raise Unusable(
            "names several targets; make a destination for each, or a failure of one would"
            " repeat the message to all"
        )
    if "host" not in service.template_tokens:
        return
    scheme = "https" if service.schema in _words(service.secure_protocol) else "http"
    host = f"[{service.host}]" if ":" in service.host else service.host
    port = f":{service.port}" if service.port else ""
    try:
        http.admit(f"{scheme}://{host}{port}/")
    except HostRefused:
        pass
    else:
        return
    raise Unusable("leads to a host that is not allowed; name it in DESTINATION_ALLOWED_HOSTS")


def _words(value: str | Iterable[str] | None) -> set[str]:
    if value is None:
        return set()
    return {value} if isinstance(value, str) else set(value)


@cache
def _asset() -> AppriseAsset:
    """How Apprise behaves in this process; its log, which may hold anything, goes nowhere."""
    for name in ("apprise", "urllib3", "requests", "requests_oauthlib", "oauthlib"):
        logger = logging.getLogger(name)
        logger.propagate = False
        logger.addHandler(logging.NullHandler())
    # What it says of a connection it says only here; each call keeps its own lines.
    logging.getLogger("apprise").setLevel(logging.DEBUG)
    from apprise import AppriseAsset  # noqa: PLC0415 - it logs while it is imported

    return AppriseAsset(
        app_id="codecatch",
        app_desc="codecatch",
        app_url="",
        async_mode=False,
        http_redirects=False,
        image_url_mask="",
        image_url_logo="",
        pgp_autogen=False,
        pem_autogen=False,
        service_timeout=0,
        storage_mode="memory",
        secure_logging=True,
    )
