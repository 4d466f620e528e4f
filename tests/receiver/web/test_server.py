"""uvicorn runs the receiver with the hardened protocol, in each of its processes."""

from __future__ import annotations

import resource

from receiver.web import server
from tests.receiver.web.conftest import read_all
from tests.receiver.web.raw import answers_in
from tests.receiver.web.served import served


def test_the_command_uses_the_hardened_protocol(sqlite_url: str, valkey_url: str) -> None:
    """Also with several processes, malformed framing gets a problem document."""
    with served(sqlite_url, {"REDIS_URL": valkey_url, "WEB_CONCURRENCY": "2"}) as receiver:
        for _ in range(8):
            with receiver.connect() as connection:
                connection.sendall(b"POST / HTTP/1.1\nHost: x\n\n")
                (answer,) = answers_in(read_all(connection))
            assert answer.problem(400) == "the request is not well-formed HTTP/1.1"
            assert "server" not in answer.headers


def test_the_limit_of_open_files_is_raised() -> None:
    """A low soft limit is raised to the hard limit; a high one stays."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = before[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
        server.raise_open_file_limit()
        raised = resource.getrlimit(resource.RLIMIT_NOFILE)
        server.raise_open_file_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == raised
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert raised[0] > 512
    assert raised[1] == hard
