"""A pytest plugin: the length of the faults suite, and its printed tables."""

from __future__ import annotations

import pytest

_TABLE = "faults_table"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options for the length of the suite."""
    group = parser.getgroup("faults")
    group.addoption(
        "--profile", choices=("short", "long"), default="short",
        help="run the short tests marked 'faults', or all of them",
    )  # fmt: skip
    group.addoption(
        "--faults-scale", type=float, default=1.0, metavar="FRACTION",
        help="the fraction of the long profile's kills, restarts and seconds (1: all)",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Register the suite's marker."""
    config.addinivalue_line(
        "markers", "faults: kills and freezes real processes under load; --profile=long runs all"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the suite's long tests in the short profile, whatever -m selects."""
    if config.getoption("--profile") == "long":
        return
    deselected = [
        i for i in items if i.get_closest_marker("faults") and i.get_closest_marker("long")
    ]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if item not in deselected]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the tables here, because a parallel run discards the tests' own output."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, text in report.user_properties:
                if name == _TABLE:
                    terminalreporter.section(report.nodeid)
                    terminalreporter.write_line(str(text))


class Tables:
    """The tables of one test, printed at the end of the run."""

    def __init__(self, node: pytest.Item) -> None:
        self._node = node

    def add(self, text: str) -> None:
        """Print ``text``, whether the test passes or fails."""
        self._node.user_properties.append((_TABLE, text))


@pytest.fixture
def tables(request: pytest.FixtureRequest) -> Tables:
    """Collects the test's measurements for the end of the run."""
    return Tables(request.node)


@pytest.fixture
def scaled(request: pytest.FixtureRequest) -> float:
    """The fraction of the long profile to run."""
    return float(request.config.getoption("--faults-scale"))
