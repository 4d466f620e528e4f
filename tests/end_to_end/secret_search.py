"""A search for secrets in everything that an installation writes or sends."""

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


def encodings(secret: str) -> set[bytes]:
    """The byte sequences by which a secret may appear: plain, hex, base64 and percent-encoded."""
    raw = secret.encode()
    found = {raw, raw.hex().encode(), raw.hex().upper().encode(), quote(secret, safe="").encode()}
    for before in range(3):  # base64 depends on the offset in a group of three bytes
        encoded = base64.b64encode(bytes(before) + raw)
        whole = encoded[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]
        found |= {whole, whole.replace(b"+", b"-").replace(b"/", b"_")}
    return found


def find_secrets(secrets: Mapping[str, str], outputs: Mapping[str, bytes]) -> list[str]:
    """The secrets found, as ``NAME in PLACE``."""
    encoded = {name: encodings(secret) for name, secret in secrets.items()}
    return [
        f"{name} in {where}"
        for name, forms in encoded.items()
        for where, content in outputs.items()
        if any(form in content for form in forms)
    ]


def files(folder: Path) -> dict[str, bytes]:
    """The content of every file below a directory, without zeros, which fill a database's log."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): path.read_bytes().replace(bytes(512), b"") for path in found}


def broker_keys(broker_url: str) -> dict[str, bytes]:
    """The broker's current keys, with their values."""
    with redis.Redis.from_url(broker_url, socket_timeout=10) as client:
        dumps = [key + (client.dump(key) or b"") for key in client.scan_iter()]
    return {"broker's keys": b"".join(dumps)}


def process_titles(pid: int) -> dict[str, bytes]:
    """The command lines and names of a process and its descendants, which any user can read."""
    process = psutil.Process(pid)
    found = {}
    for each in (process, *process.children(recursive=True)):
        with suppress(FileNotFoundError):
            for name in ("cmdline", "comm"):
                found[f"{name} of {each.pid}"] = Path(f"/proc/{each.pid}/{name}").read_bytes()
    return found


class BrokerMonitor:
    """Records every command that a broker receives while the block lasts."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._recorded = bytearray()
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
            while chunk := self._socket.recv(65536):
                self._recorded += chunk

    def recorded(self) -> dict[str, bytes]:
        """The commands so far, and the current keys with their values."""
        return {"broker's traffic": bytes(self._recorded), **broker_keys(self._url)}
