"""Apprise services with this project's restrictions.

A URL names one service. Its options for retries, redirects and time-outs are overridden here:
pace and retries are decided elsewhere, and a redirect may lead to any host. A service whose host
is in the URL must be on an allowed host; one with a fixed address is always allowed.
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

# Services that are not allowed, and why.
_REFUSED = {
    "mailto": "use a destination of the kind email",
    "mailtos": "use a destination of the kind email",
    "syslog": "codes must not be logged",
    "rsyslog": "codes must not be logged",
    "dbus": "it shows codes on the desktop of this machine",
    "fcm": "it reads a file or an address that the URL names",
    "vapid": "it reads a file that the URL names",
    "nostr": "it connects to relays that codecatch cannot check",
    "acs": "it connects to an address that codecatch cannot check",
}
# Arguments that make a service read a file or connect to a second host.
_REFUSED_ARGUMENTS = ("template", "keyfile", "file_url", "attach")

# Services that render markup in plain text, and notify people whose names follow an @.
_RENDER_MARKUP = frozenset(
    {"discord", "fluxer", "guilded", "mmost", "mmosts", "revolt", "ryver", "zulip"}
)
_MARKUP = re.compile(r"([\\`*_~|\[\]<>#])")


class UnusableUrl(Exception):
    """The URL names no service that can be used; the text does not show the URL."""


def open_service(url: str, http: HttpClient) -> NotifyBase:
    """Make the service that ``url`` names, without any I/O.

    Raises:
        UnusableUrl: it names no known service, or one that is not allowed.
    """
    asset = _asset()
    from apprise import Apprise  # noqa: PLC0415 - many modules, loaded only if this kind is used

    service: Any = Apprise.instantiate(url, asset=asset)
    if service is None:
        raise UnusableUrl(
            "names no service that Apprise knows, or lacks a part that the service needs"
        )
    service.redirects = False
    service.retry = 0
    service.optional = False
    service.interpret_emojis = False
    service.discovery = False  # of a Matrix server, through another host
    service.request_rate_per_sec = 0.0  # the pace is decided by worker.delivery
    service.overflow_mode = "split"
    service.socket_connect_timeout = _CONNECT_SECONDS
    service.socket_read_timeout = _READ_SECONDS
    _check(service, http)
    return service  # type: ignore[no-any-return]


def escape_markup(service: NotifyBase, text: str) -> str:
    """Escape ``text`` so that the service shows it literally."""
    if service.schema not in _RENDER_MARKUP:
        return text  # shown literally, or escaped by Apprise
    return _MARKUP.sub(r"\\\1", text).replace("@", "@\u200b")


def _check(service: Any, http: HttpClient) -> None:
    schemas = _names(service.protocol) | _names(service.secure_protocol)
    for schema in sorted(schemas & _REFUSED.keys()):
        raise UnusableUrl(f"names a service that is not allowed: {_REFUSED[schema]}")
    for argument in _REFUSED_ARGUMENTS:
        if getattr(service, argument, None):
            raise UnusableUrl(f"has the argument {argument}=, which is not allowed; remove it")
    if len(service) > 1:
        raise UnusableUrl(
            "names several targets; make a destination for each, because a failure of one would"
            " repeat the message to all"
        )
    if "host" not in service.template_tokens:
        return
    scheme = "https" if service.schema in _names(service.secure_protocol) else "http"
    host = f"[{service.host}]" if ":" in service.host else service.host
    port = f":{service.port}" if service.port else ""
    try:
        http.admit(f"{scheme}://{host}{port}/")
    except HostRefused:
        pass
    else:
        return
    raise UnusableUrl("names a host that is not allowed; add the host to DESTINATION_ALLOWED_HOSTS")


def _names(value: str | Iterable[str] | None) -> set[str]:
    if value is None:
        return set()
    return {value} if isinstance(value, str) else set(value)


@cache
def _asset() -> AppriseAsset:
    """Apprise's settings for this process; its log may hold secrets and is discarded."""
    for name in ("apprise", "urllib3", "requests", "requests_oauthlib", "oauthlib"):
        logger = logging.getLogger(name)
        logger.propagate = False
        logger.addHandler(logging.NullHandler())
    # Connection errors are logged at this level only; each call captures its own lines.
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
