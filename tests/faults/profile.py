"""How much of the faults suite runs, and where its tables are printed; a pytest plugin."""

from __future__ import annotations

import pytest

_TABLE = "faults_table"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what chooses the length of the suite."""
    group = parser.getgroup("faults")
    group.addoption(
        "--profile", choices=("short", "long"), default="short",
        help="of the tests marked 'faults': the short ones, or all",
    )  # fmt: skip
    group.addoption(
        "--faults-scale", type=float, default=1.0, metavar="PART",
        help="which part of the long profile's kills, restarts and seconds (1: all)",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Register the suite's marker."""
    config.addinivalue_line(
        "markers", "faults: kills, freezes and floods real processes; --profile=long runs all"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the suite's long tests out of its short profile, whatever -m says."""
    if config.getoption("--profile") == "long":
        return
    out = [i for i in items if i.get_closest_marker("faults") and i.get_closest_marker("long")]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the tables, which a parallel run would otherwise swallow."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, text in report.user_properties:
                if name == _TABLE:
                    terminalreporter.section(report.nodeid)
                    terminalreporter.write_line(str(text))


class Tables:
    """What one test wants printed at the end of the run."""

    def __init__(self, node: pytest.Item) -> None:
        self._node = node

    def add(self, text: str) -> None:
        """Print ``text`` whether the test passes or not."""
        self._node.user_properties.append((_TABLE, text))


@pytest.fixture
def tables(request: pytest.FixtureRequest) -> Tables:
    """Where a test leaves what it has measured."""
    return Tables(request.node)


@pytest.fixture
def scaled(request: pytest.FixtureRequest) -> float:
    """Which part of the long profile is wanted."""
    return float(request.config.getoption("--faults-scale"))
