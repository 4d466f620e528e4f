"""The receiver is served behind its door, in each of its processes."""

from __future__ import annotations

import pytest

from tests.receiver.web.conftest import read_all
from tests.receiver.web.raw import answers_in
from tests.receiver.web.served import served


@pytest.mark.parametrize("processes", ["1", "2"])
def test_the_command_serves_behind_the_door(
    sqlite_url: str, valkey_url: str, processes: str
) -> None:
    """However many processes it has, each refuses broken framing with a problem document."""
    environment = {"REDIS_URL": valkey_url, "WEB_CONCURRENCY": processes}
    with served(sqlite_url, environment) as receiver:
        for _ in range(8):
            with receiver.connect() as connection:
                connection.sendall(b"POST / HTTP/1.1\nHost: x\n\n")
                (answer,) = answers_in(read_all(connection))
            assert answer.problem(400) == "the request is not well-formed HTTP/1.1"
            assert "server" not in answer.headers
