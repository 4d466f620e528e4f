"""A broker's certificate is verified, unless its URL says otherwise."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme
from kombu.exceptions import OperationalError

from receiver import queue
from receiver.settings import BrokerSettings, load
from tests.support.relay import pass_on
from tests.worker.http.test_client import Peer, serving


@pytest.fixture
def broker(broker_url: str, tmp_path: Path) -> Iterator[str]:
    """A broker behind TLS: its URL; the authority of its certificate is in ``ca.pem``."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    parts = urlsplit(broker_url)

    def relay(peer: Peer) -> None:
        with socket.create_connection((str(parts.hostname), parts.port or 0)) as onward:
            back = threading.Thread(target=pass_on, args=(onward, peer.socket))
            back.start()
            pass_on(peer.socket, onward)
            back.join()

    with serving(relay, context) as server:
        yield f"rediss://localhost:{server.port}{parts.path}"


def connect() -> None:
    """Connect to the configured broker as every part does."""
    url = load(BrokerSettings).required_url
    with closing(queue.celery_app(url)) as app, app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=5)


def test_an_unknown_authority_is_refused(broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default; CA_FILE makes it known, and the name must be the certificate's."""
    monkeypatch.setenv("REDIS_URL", broker)
    with pytest.raises(OperationalError, match="certificate verify failed"):
        connect()


def test_a_known_authority_is_accepted(
    broker: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """CA_FILE makes it known; the name must be that of the certificate."""
    monkeypatch.setenv("CA_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("REDIS_URL", broker)
    connect()
    monkeypatch.setenv("REDIS_URL", broker.replace("localhost", "127.0.0.1"))
    with pytest.raises(OperationalError, match="certificate verify failed"):
        connect()


def test_the_url_may_say_that_nothing_is_verified(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as somebody wrote it there."""
    monkeypatch.setenv("REDIS_URL", f"{broker}?ssl_cert_reqs=none&ssl_check_hostname=false")
    connect()
