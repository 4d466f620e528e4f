"""Looking for a secret in everything that an installation leaves behind."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import quote, urlsplit

import psutil
import redis


def forms(secret: str) -> set[bytes]:
    """The ways in which a secret may stand among other bytes."""
    raw = secret.encode()
    found = {raw, raw.hex().encode(), raw.hex().upper().encode(), quote(secret, safe="").encode()}
    for before in range(3):  # where in a group of three bytes it begins
        encoded = base64.b64encode(bytes(before) + raw)
        whole = encoded[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]
        found |= {whole, whole.replace(b"+", b"-").replace(b"/", b"_")}
    return found


def hits(secrets: Mapping[str, str], sinks: Mapping[str, bytes]) -> list[str]:
    """Which secret stands where, by name."""
    return [
        f"{name} in {where}"
        for name, secret in secrets.items()
        for where, content in sinks.items()
        if any(form in content for form in forms(secret))
    ]


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a directory: the database with its log, the spool, what was printed."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def keys(broker_url: str) -> dict[str, bytes]:
    """What a broker holds at the moment."""
    with redis.Redis.from_url(broker_url, socket_timeout=10) as client:
        kept = [key + (client.dump(key) or b"") for key in client.scan_iter()]
    return {"broker's keys": b"".join(kept)}


def titles(pid: int) -> dict[str, bytes]:
    """What anybody on the machine may read of a process and those under it."""
    process = psutil.Process(pid)
    found = {}
    for each in (process, *process.children(recursive=True)):
        with suppress(FileNotFoundError):
            for name in ("cmdline", "comm"):
                found[f"{name} of {each.pid}"] = Path(f"/proc/{each.pid}/{name}").read_bytes()
    return found


class Wiretap:
    """Hears everything that goes through a broker while the block lasts."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._heard = bytearray()
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname or "", parts.port or 0), 5)
        self._socket.settimeout(None)
        self._socket.sendall(f"AUTH {parts.password}\r\nMONITOR\r\n".encode())
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        with suppress(OSError):
            while piece := self._socket.recv(65536):
                self._heard += piece

    def heard(self) -> dict[str, bytes]:
        """The commands so far, and the keys with their values."""
        return {"broker's traffic": bytes(self._heard), **keys(self._url)}
