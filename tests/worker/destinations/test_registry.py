"""Discovery of the kinds of destinations."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker import destinations
from worker.destinations import registry
from worker.destinations.console import Console
from worker.destinations.email import Email
from worker.destinations.slack import Slack

PIGEON = """
from worker.destinations.base import Destination
from worker.destinations.console import Console

class Abstract(Destination):
    kind = "abstract"

class Pigeon(Destination):
    kind = "{kind}"
    deadline = 1.0

    @classmethod
    def make(cls, name, options, context):
        return cls(name)

    def send(self, notifications, *, only=None):
        pass
"""


@pytest.fixture
def extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory whose modules count as part of the package."""
    monkeypatch.setattr(destinations, "__path__", [*destinations.__path__, str(tmp_path)])
    yield tmp_path
    sys.modules.pop("worker.destinations.pigeon", None)
    vars(destinations).pop("pigeon", None)


def test_every_kind_is_found() -> None:
    """Each kind of the package is found by its name."""
    found = registry.discover()

    assert found["slack"] is Slack
    assert found["email"] is Email
    assert found["console"] is Console
    assert all(found[kind].kind == kind for kind in found)


def test_a_new_module_is_a_new_kind(extra: Path) -> None:
    """A new file is enough; an abstract or imported class is no kind."""
    before = set(registry.discover())
    (extra / "pigeon.py").write_text(PIGEON.format(kind="pigeon"))

    found = registry.discover()

    assert set(found) - before == {"pigeon"}
    assert found["pigeon"].deadline == 1.0


def test_two_modules_of_one_kind_are_an_error(extra: Path) -> None:
    """Otherwise one of the two would never be used."""
    (extra / "pigeon.py").write_text(PIGEON.format(kind="slack"))

    with pytest.raises(RuntimeError, match="'slack'"):
        registry.discover()
