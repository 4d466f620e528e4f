"""Tests of the test support: servers, processes and webhook builders."""

import base64
import hashlib
import hmac
import http.client
import json
import os
import re
import smtplib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from email.message import EmailMessage
from typing import Any

import psutil
import psycopg
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from tests.support import webhooks
from tests.support.http_server import HttpServer, Reply, Request
from tests.support.ports import free_port
from tests.support.postgres import PostgresServer
from tests.support.processes import ServerEndedError, ServerProcess, leashed
from tests.support.smtp_server import SmtpServer
from tests.support.valkey import ValkeyServer
from tests.support.waiting import eventually
from tests.support.webhooks import Webhook


class TestWaiting:
    """`eventually` returns the first truthy value, or fails with the last value."""

    def test_returns_the_first_truthy_value(self) -> None:
        """It calls the check until it returns a truthy value."""
        values = iter([0, "", "there"])
        assert eventually(lambda: next(values), every=0.001) == "there"

    def test_an_exception_counts_as_not_yet(self) -> None:
        """A check may raise before it succeeds."""
        values = iter(["no", "5"])
        assert eventually(lambda: int(next(values)), every=0.001) == 5

    def test_reports_the_last_value(self) -> None:
        """The error shows the last value of the check."""
        with pytest.raises(AssertionError, match=r"within 0\.01 s .* the last returned \[\]"):
            eventually(list, within=0.01, every=0.001)

    def test_reports_the_last_exception(self) -> None:
        """The error shows the last exception of the check, and has it as its cause."""

        def check() -> bool:
            raise KeyError("order")

        with pytest.raises(
            AssertionError, match=r"check was not true .* KeyError: 'order'"
        ) as info:
            eventually(check, within=0.01, every=0.001)
        assert isinstance(info.value.__cause__, KeyError)


def test_free_port_is_free_and_unique() -> None:
    """A free port can be bound, and no two calls return the same one."""
    ports = {free_port() for _ in range(50)}
    assert len(ports) == 50
    with socket.create_server(("127.0.0.1", ports.pop())):
        pass


class TestEnvironment:
    """codecatch's environment variables do not reach a test."""

    def test_variables_are_removed(self, pytestconfig: pytest.Config) -> None:
        """A variable in pytest's environment is absent in a test."""
        program = (
            "import os, sys, pytest\n"
            "os.environ['DATABASE_URL'] = os.environ['HOST'] = 'developer'\n"
            "sys.exit(pytest.main(sys.argv[1:]))"
        )
        test = f"{__file__}::TestEnvironment::test_is_clean"
        options = ["-p", "no:xdist", "-o", "addopts=", "-q", "--rootdir", pytestconfig.rootpath]
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, options), test],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=pytestconfig.rootpath,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def test_is_clean(self) -> None:
        """The variables are absent here."""
        assert not {"DATABASE_URL", "HOST", "ENCRYPTION_KEYS", "PORT"} & set(os.environ)

    @given(st.integers())
    def test_works_with_hypothesis(self, number: int) -> None:
        """The autouse fixture passes Hypothesis's health check."""
        assert isinstance(number, int)


class TestProcesses:
    """A leashed process ends on request, and when its parent ends."""

    def test_output_of_a_server_that_ends_is_reported(self) -> None:
        """A server that ends at its start makes the wait fail with its output."""
        process = ServerProcess([sys.executable, "-c", "print('no room')"])
        with pytest.raises(ServerEndedError, match="no room"):
            process.wait_until(lambda: False)
        process.stop()

    def test_stop_kills_what_ignores_the_signal(self) -> None:
        """A process that ignores SIGTERM is killed after the timeout."""
        program = (
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
            "print('deaf', flush=True); time.sleep(60)"
        )
        process = ServerProcess([sys.executable, "-c", program])
        process.wait_until(lambda: "deaf" in process.output())
        process.stop(within=0.1)
        assert not process.running

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a parent's death")
    def test_dies_with_a_killed_parent(self) -> None:
        """The child of a killed process ends soon after."""
        child = leashed(["/bin/sleep", "60"])
        program = f"""
import os, subprocess, sys
command = {child!r}
command[4] = str(os.getpid())
print(subprocess.Popen(command).pid, flush=True)
sys.stdin.read()
"""
        with subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as parent:
            assert parent.stdout is not None
            grandchild = psutil.Process(int(parent.stdout.readline()))
            eventually(lambda: grandchild.name() == "sleep")
            parent.kill()
            eventually(lambda: _gone(grandchild))


def _gone(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


class TestValkey:
    """A Valkey server is real, empty for each test, and can be broken."""

    def test_broker_url_is_empty(self, broker_url: str) -> None:
        """A test's database is empty at first, and stores data."""
        with redis.Redis.from_url(broker_url) as client:
            assert client.dbsize() == 0
            client.set("left", "behind")
            assert client.get("left") == b"behind"

    def test_broker_url_is_empty_again(self, broker_url: str, valkey_url: str) -> None:
        """The next test has another, empty database on the same server."""
        assert broker_url.rpartition("/")[0] == valkey_url.rpartition("/")[0]
        assert broker_url != valkey_url
        with redis.Redis.from_url(broker_url) as client:
            assert client.dbsize() == 0

    def test_restarts_on_its_port(self, make_valkey: Callable[[], ValkeyServer]) -> None:
        """Stopped or killed it refuses connections; restarted it is empty, at the same address."""
        server = make_valkey()
        with redis.Redis.from_url(server.url, socket_timeout=2) as client:
            client.set("a", "b")
            for end in (server.stop, server.kill):
                end()
                assert not server.running
                with pytest.raises(redis.ConnectionError):
                    client.ping()
                server.start()
                assert client.dbsize() == 0
            server.restart()
            assert client.ping()

    def test_freezes_and_thaws(self, make_valkey: Callable[[], ValkeyServer]) -> None:
        """Frozen it accepts connections but does not answer; thawed it answers; it stops frozen."""
        server = make_valkey()
        with redis.Redis.from_url(server.url, socket_timeout=0.2, retry=None) as client:
            server.freeze()
            with pytest.raises(redis.TimeoutError):
                client.ping()
            server.thaw()
            assert client.ping()
        server.freeze()
        server.stop()
        assert not server.running


class TestPostgres:
    """A PostgreSQL server is real, each test has its own database, and it can be broken."""

    def test_database_is_empty(self, postgres_url: str) -> None:
        """A new database has no tables, and uses UTF-8."""
        with psycopg.connect(postgres_url) as connection:
            connection.execute("CREATE TABLE codes (code text)")
            connection.execute("INSERT INTO codes VALUES ('κωδικός')")
            assert connection.execute("SELECT code FROM codes").fetchall() == [("κωδικός",)]

    def test_database_is_dropped(self, postgres: PostgresServer) -> None:
        """A database is dropped after use, even if a connection is open."""
        with postgres.database() as url:
            connection = psycopg.connect(url)
        with connection, pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            psycopg.connect(url)

    def test_clones_are_prepared_once(
        self, clone_postgres: Callable[[str, Callable[[str], None]], str]
    ) -> None:
        """Each clone has the prepared content, and nothing of other clones."""
        prepared: list[str] = []

        def prepare(url: str) -> None:
            prepared.append(url)
            with psycopg.connect(url) as connection:
                connection.execute("CREATE TABLE orders (id text)")

        urls = [clone_postgres("support", prepare) for _ in range(3)]
        assert len(prepared) == 1
        assert len({*urls, *prepared}) == 4
        for url in urls:
            with psycopg.connect(url) as connection:
                assert connection.execute("SELECT count(*) FROM orders").fetchone() == (0,)
                connection.execute("INSERT INTO orders VALUES ('a')")

    def test_fails_and_recovers(self, make_postgres: Callable[[], PostgresServer]) -> None:
        """Committed data survives a kill; a frozen server is silent; closing deletes its files."""
        server = make_postgres()
        with server.database() as url:
            with psycopg.connect(url) as connection:
                connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
            for end in (server.kill, server.stop):
                end()
                with pytest.raises(psycopg.OperationalError):
                    psycopg.connect(url)
                server.start()
            server.restart()
            with psycopg.connect(url) as connection:
                assert connection.execute("SELECT one FROM kept").fetchone() == (1,)
                connection.commit()
                server.freeze()
                threading.Timer(0.3, server.thaw).start()
                began = time.monotonic()
                connection.execute("SELECT 1")
                assert time.monotonic() - began > 0.2
        server.close()
        assert not server.running


class TestHttpServer:
    """An HTTP server records requests, and answers by rules."""

    def test_records_requests(self, http_server: HttpServer) -> None:
        """Recorded requests can be selected by method and path."""
        http_server.on("POST", "/orders/*/confirm", json={"status": "confirmed"})
        client = _client(http_server)
        answer = _ask(client, "POST", "/orders/a%20b/confirm?x=1&y=", b'{"a": 1}', {"X-Key": "k"})
        assert answer == (200, {"status": "confirmed"})
        _ask(client, "GET", "/me")
        client.close()

        [request] = http_server.requests("POST", "/orders/*/confirm")
        assert request.path == "/orders/a%20b/confirm"
        assert request.query == {"x": "1", "y": ""}
        assert request.headers["x-key"] == "k"
        assert request.json() == {"a": 1}
        assert abs(time.monotonic() - request.clock) < 10
        both = http_server.requests()
        assert [each.method for each in both] == ["POST", "GET"]
        assert both[0].connection == both[1].connection
        http_server.forget()
        assert http_server.requests() == []

    def test_reads_a_chunked_body(self, http_server: HttpServer) -> None:
        """A chunked body is recorded completely, and the connection stays usable."""
        client = _client(http_server)
        client.request("POST", "/a", body=iter([b"one ", b"two"]), encode_chunked=True)
        client.getresponse().read()
        assert _ask(client, "GET", "/b")[0] == 404
        client.close()
        assert http_server.requests("POST")[0].body == b"one two"

    def test_half_a_request_is_not_recorded(self, http_server: HttpServer) -> None:
        """A request whose client disconnects during the body is not recorded."""
        with socket.create_connection(("127.0.0.1", http_server.port), timeout=10) as connection:
            connection.sendall(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhal")
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b""
        assert http_server.requests() == []

    def test_order_of_rules(self, http_server: HttpServer) -> None:
        """Queued replies come first, then the newest rule; `*` matches one path segment."""
        http_server.on("*", "/a/**", status=201)
        http_server.on("GET", "/a/*", status=202)
        http_server.once("GET", "/a/b", Reply(status=429, headers={"Retry-After": "7"}))
        http_server.once("GET", "/a/b", lambda request: Reply(json={"path": request.path}), times=2)
        client = _client(http_server)
        assert [_ask(client, "GET", "/a/b") for _ in range(4)] == [
            (429, None),
            (200, {"path": "/a/b"}),
            (200, {"path": "/a/b"}),
            (202, None),
        ]
        assert _ask(client, "GET", "/a/b/c")[0] == 201
        assert _ask(client, "POST", "/a/b")[0] == 201
        status, problem = _ask(client, "GET", "/else")
        client.close()
        assert (status, problem["status"]) == (404, 404)

    @pytest.mark.parametrize(
        ("reply", "error"),
        [
            (Reply(cut=True), http.client.RemoteDisconnected),
            (Reply(body=b"0123456789", truncate=True), http.client.IncompleteRead),
            (Reply(hang=30), TimeoutError),
            (Reply(body=b"0123456789", drip=30), TimeoutError),
        ],
        ids=["cut", "truncate", "hang", "drip"],
    )
    def test_fails_as_configured(
        self, http_server: HttpServer, reply: Reply, error: type[Exception]
    ) -> None:
        """A reply can be cut, truncated, delayed or dripped; closing the server ends it quickly."""
        http_server.once("GET", "/", reply)
        client = _client(http_server, timeout=0.3)
        with pytest.raises(error):
            _ask(client, "GET", "/")
        client.close()
        began = time.monotonic()
        http_server.close()
        assert time.monotonic() - began < 2
        assert len(http_server.requests("GET", "/")) == 1

    def test_closes_with_an_idle_connection(self, http_server: HttpServer) -> None:
        """An idle keep-alive connection does not delay closing."""
        client = _client(http_server)
        _ask(client, "GET", "/")
        http_server.close()
        client.close()

    def test_concurrent_requests(self, http_server: HttpServer) -> None:
        """Requests are answered concurrently."""
        barrier = threading.Barrier(8)

        def handler(_: Request) -> Reply:
            barrier.wait(timeout=5)
            return Reply(status=204)

        http_server.on("GET", "/", handler=handler)
        statuses: list[int] = []

        def ask() -> None:
            client = _client(http_server)
            statuses.append(_ask(client, "GET", "/")[0])
            client.close()

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [204] * 8

    def test_error_of_a_handler_is_raised(self) -> None:
        """An exception in a handler gives 500, and closing the server raises it."""

        def handler(request: Request) -> Reply:
            return Reply(json=request.json())

        server = HttpServer()
        server.on("POST", "/", handler=handler)
        client = _client(server)
        assert _ask(client, "POST", "/", b"{")[0] == 500
        client.close()
        with pytest.raises(json.JSONDecodeError):
            server.close()


def _client(server: HttpServer, timeout: float = 5) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout)


def _ask(
    client: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, Any]:
    client.request(method, path, body=body, headers=headers or {})
    with client.getresponse() as response:
        content = response.read()
    return response.status, json.loads(content) if content.startswith(b"{") else None


class TestSmtpServer:
    """An SMTP server stores mail, supports TLS and login, and fails as configured."""

    def test_stores_mail(self, smtp_server: SmtpServer) -> None:
        """A message is stored with its envelope and its text."""
        with smtplib.SMTP("127.0.0.1", smtp_server.port, timeout=5) as client:
            assert client.send_message(_message()) == {}
        [mail] = smtp_server.mails()
        assert mail.sender == "codecatch@example.com"
        assert mail.recipients == ["qa@example.com", "ops@example.com"]
        assert mail.message["Subject"] == "Ein Code für dich"
        assert mail.message.get_content() == "483921 ✓\n"
        assert (mail.user, mail.encrypted) == (None, False)
        assert smtp_server.url == f"smtp://127.0.0.1:{smtp_server.port}"

    def test_rejects_one_recipient(self, smtp_server: SmtpServer) -> None:
        """One recipient is rejected, the other gets the message."""
        smtp_server.behaviour.reject_recipients = {"qa@example.com": "550 5.1.1 no such user"}
        with smtplib.SMTP("127.0.0.1", smtp_server.port, timeout=5) as client:
            refused = client.send_message(_message())
        assert refused == {"qa@example.com": (550, b"5.1.1 no such user")}
        assert smtp_server.mails()[0].recipients == ["ops@example.com"]

    def test_rejects_the_message(self, smtp_server: SmtpServer) -> None:
        """A message answered with 451 is not stored; the next one is."""
        smtp_server.behaviour.reply_to_data = "451 4.3.0 later"
        with smtplib.SMTP("127.0.0.1", smtp_server.port, timeout=5) as client:
            with pytest.raises(smtplib.SMTPDataError, match="later"):
                client.send_message(_message())
            assert smtp_server.mails() == []
            smtp_server.behaviour.reply_to_data = None
            client.send_message(_message())
        assert len(smtp_server.mails()) == 1

    def test_drops_after_the_message(self, smtp_server: SmtpServer) -> None:
        """The message is stored, and its sender gets no answer."""
        smtp_server.behaviour.drop_after_data = True
        client = smtplib.SMTP("127.0.0.1", smtp_server.port, timeout=5)
        with pytest.raises(smtplib.SMTPServerDisconnected):
            client.send_message(_message())
        client.close()
        assert len(smtp_server.mails()) == 1

    def test_closes_while_it_hangs(self, smtp_server: SmtpServer) -> None:
        """A hanging session does not delay closing."""
        smtp_server.behaviour.hang = 60
        client = smtplib.SMTP("127.0.0.1", smtp_server.port, timeout=0.3)
        with pytest.raises((TimeoutError, smtplib.SMTPServerDisconnected)):
            client.send_message(_message())
        idle = socket.create_connection(("127.0.0.1", smtp_server.port))
        smtp_server.close()
        idle.close()
        client.close()

    def test_starttls_and_login(self, make_smtp_server: Callable[..., SmtpServer]) -> None:
        """Without STARTTLS and the right password, no message is accepted."""
        server = make_smtp_server(tls="starttls", auth=("me@example.com", "pass word"))
        port = server.port
        assert (
            server.url == f"smtp://me%40example.com:pass%20word@127.0.0.1:{port}?starttls=required"
        )
        with smtplib.SMTP("127.0.0.1", port, timeout=5) as client:
            with pytest.raises(smtplib.SMTPSenderRefused, match="STARTTLS"):
                client.send_message(_message())
            client.starttls(context=server.client_context())
            with pytest.raises(smtplib.SMTPSenderRefused, match="Authentication required"):
                client.send_message(_message())
            with pytest.raises(smtplib.SMTPAuthenticationError):
                client.login("me@example.com", "wrong")
            client.login("me@example.com", "pass word")
            client.send_message(_message())
        [mail] = server.mails()
        assert (mail.user, mail.encrypted) == ("me@example.com", True)

    def test_smtps(self, make_smtp_server: Callable[..., SmtpServer]) -> None:
        """TLS from the first byte works for a client that trusts the authority."""
        server = make_smtp_server(tls="smtps", auth=("me", "pw"))
        assert server.url == f"smtps://me:pw@127.0.0.1:{server.port}"
        context = server.client_context()
        with smtplib.SMTP_SSL("127.0.0.1", server.port, timeout=5, context=context) as client:
            client.login("me", "pw")
            client.send_message(_message())
        assert server.mails()[0].encrypted


def _message() -> EmailMessage:
    message = EmailMessage()
    message["From"] = "codecatch@example.com"
    message["To"] = "qa@example.com, ops@example.com"
    message["Subject"] = "Ein Code für dich"
    message.set_content("483921 ✓\n")
    return message


class TestWebhooks:
    """The builders make webhooks as the providers' documents describe them."""

    def test_signature_of_a_known_example(self) -> None:
        """The digest is that of RFC 4231, test case 2, in every encoding."""
        digest = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        body = b"what do ya want for nothing?"
        signatures = [
            webhooks.signature(body, "Jefe", style) for style in webhooks.SIGNATURE_STYLES
        ]
        raw = base64.b64encode(bytes.fromhex(digest)).decode()
        assert signatures == [digest, digest.upper(), f"sha256={digest}", raw]

    @pytest.mark.parametrize(
        ("build", "header"),
        [
            (webhooks.virtualsms_v2, "X-VirtualSMS-Signature"),
            (webhooks.virtualsms_v1, "X-VirtualSMS-Signature"),
            (webhooks.virtualsms_flat, "X-Signature"),
        ],
    )
    def test_signs_the_body(self, build: Callable[..., Webhook], header: str) -> None:
        """The header has the digest of exactly the bytes sent, with the given secret."""
        webhook = build(secret="another", style="hex", text="naïve ✓")
        expected = hmac.new(b"another", webhook.body, hashlib.sha256).hexdigest()
        assert webhook.headers[header] == expected
        assert webhook.path == "/webhooks/virtualsms"
        assert "naïve ✓".encode() in webhook.body

    def test_v2_shapes(self) -> None:
        """Either key names the event; the fields are in `data` or at the top level."""
        nested = webhooks.virtualsms_v2(order="o1", code="111111", event_id="e1").json()
        assert (nested["type"], nested["id"], nested["data"]["code"]) == (
            "order.sms_received",
            "e1",
            "111111",
        )
        beside = webhooks.virtualsms_v2(name_key="event", nested=False, order="o1").json()
        assert (beside["event"], beside["order_id"]) == ("order.sms_received", "o1")
        assert "data" not in beside
        assert "id" not in beside

    def test_v1_envelope(self) -> None:
        """The envelope has a new id, and the matching headers."""
        first, second = webhooks.virtualsms_v1(), webhooks.virtualsms_v1(test=True)
        assert re.fullmatch(r"evt_[0-9A-HJKMNP-TV-Z]{26}", first.json()["id"])
        assert first.json()["id"] != second.json()["id"]
        assert first.headers["X-VirtualSMS-Signature"].startswith("sha256=")
        assert abs(int(first.headers["X-VirtualSMS-Timestamp"]) - time.time()) < 10
        assert first.headers["X-VirtualSMS-Delivery"] != second.headers["X-VirtualSMS-Delivery"]
        assert "test" not in first.json()["data"]
        assert second.json()["data"]["test"] is True

    @pytest.mark.parametrize("event", ["order.expired", "order.cancelled", "balance.low"])
    def test_other_events_have_no_code(self, event: str) -> None:
        """Only an SMS event has a code."""
        assert "code" not in webhooks.virtualsms_v1(event=event).json()["data"]

    def test_daisysim_token(self) -> None:
        """The token is in the path, in the header, or absent."""
        assert webhooks.daisysim(token="t" * 16).path == f"/webhooks/daisysim/{'t' * 16}"
        by_header = webhooks.daisysim(token_in="header")
        assert by_header.path == "/webhooks/daisysim"
        assert by_header.headers["X-Codecatch-Token"] == webhooks.TOKEN
        assert "X-Codecatch-Token" not in webhooks.daisysim(token=None).headers
        assert set(by_header.json()) == {
            *("event", "activation_id", "phone_number", "service", "code", "received_at"),
        }

    def test_changes(self) -> None:
        """Headers and body can be changed without a new signature."""
        webhook = webhooks.virtualsms_v2()
        forged = webhook.with_body(b"{}").with_headers(x_virtualsms_signature=None, X_Other="1")
        assert forged.headers == {"Content-Type": "application/json", "X-Other": "1"}
        assert forged.body == b"{}"

    @pytest.mark.parametrize("provider", ["virtualsms", "daisysim"])
    def test_samples(self, provider: str) -> None:
        """Every sample is a JSON object with fictional phone numbers."""
        paths = webhooks.samples(provider)
        assert paths
        for path in paths:
            body = webhooks.sample(provider, path.stem)
            assert isinstance(json.loads(body), dict)
            for phone in re.findall(rb'"(\+\d+)"', body):
                assert re.fullmatch(rb"\+447700900\d{3}|\+120255501\d\d", phone), (path, phone)
