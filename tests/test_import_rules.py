"""The rules about who imports what, and about the size of a module."""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

Rule = Callable[["Module"], list[str]]

ROOT = Path(__file__).parents[1]
LONGEST = 320

STARTS_STARLETTE = ("receiver/web/", "worker/admin/", "worker/upstream/")
# The one that asks, and the one that reads whom it may ask.
SPEAKS_HTTP = ("worker/http_client.py", "worker/hosts.py")
HTTP_CLIENTS = ("httpx2", "httpx", "requests", "urllib.request", "urllib3", "aiohttp")
PURE = "receiver/providers/"
IMPURE = (
    *HTTP_CLIENTS,
    *("http", "socket", "socketserver", "ssl", "smtplib", "asyncio", "anyio", "select"),
    *("os", "io", "pathlib", "shutil", "tempfile", "glob", "fcntl", "mmap"),
    *("subprocess", "threading", "multiprocessing", "concurrent"),
    *("sqlite3", "psycopg", "sqlalchemy", "sqlmodel", "redis", "celery", "kombu", "starlette"),
    *("receiver.database", "receiver.inbox", "receiver.intake", "receiver.queue"),
    *("receiver.spool", "receiver.web"),
)
IMPURE_CALLS = frozenset({"open", "print", "input"})


@dataclass(frozen=True, slots=True)
class Module:
    """A module of the project: its path from the root, and its source."""

    path: str
    source: str

    def tree(self) -> ast.Module:
        """Return its syntax tree."""
        return ast.parse(self.source, self.path)


def modules(*folders: str) -> list[Module]:
    """Return every module below the folders; there is one at least in each."""
    found: list[Module] = []
    for folder in folders:
        paths = sorted((ROOT / folder).rglob("*.py"))
        assert paths, f"no module found in {folder}"
        found += [Module(path.relative_to(ROOT).as_posix(), path.read_text()) for path in paths]
    return found


def imported(module: Module) -> Iterator[tuple[int, str]]:
    """Yield line and full name of everything a module imports, wherever and however it does."""
    for node in ast.walk(module.tree()):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=str(package), names=names, level=0):
                yield from ((node.lineno, f"{package}.{alias.name}") for alias in names)
            case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]):
                if _name(function) in ("import_module", "__import__"):
                    yield node.lineno, name


def breaks(module: Module, *forbidden: str) -> list[str]:
    """Return where a module imports one of the forbidden packages or something below one."""
    return [
        f"{module.path}:{line} imports {name}"
        for line, name in imported(module)
        if any(name == package or name.startswith(f"{package}.") for package in forbidden)
    ]


def worker_in_receiver(module: Module) -> list[str]:
    """Return where the receiver imports the worker."""
    return breaks(module, "worker") if module.path.startswith("receiver/") else []


def starlette_elsewhere(module: Module) -> list[str]:
    """Return where Starlette is imported by a part that serves no HTTP."""
    return [] if module.path.startswith(STARTS_STARLETTE) else breaks(module, "starlette")


def http_elsewhere(module: Module) -> list[str]:
    """Return where an HTTP client is imported besides the places that may."""
    return [] if module.path in SPEAKS_HTTP else breaks(module, *HTTP_CLIENTS)


def relative_imports(module: Module) -> list[str]:
    """Return where a module imports by dots."""
    return [
        f"{module.path}:{node.lineno} imports relatively"
        for node in ast.walk(module.tree())
        if isinstance(node, ast.ImportFrom) and node.level > 0
    ]


def provider_io(module: Module) -> list[str]:
    """Return where a provider's module could reach the network, a file or the database."""
    if not module.path.startswith(PURE):
        return []
    calls = [
        f"{module.path}:{node.lineno} calls {_name(node.func)}"
        for node in ast.walk(module.tree())
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in IMPURE_CALLS
    ]
    return breaks(module, *IMPURE) + calls


def too_long(module: Module) -> list[str]:
    """Return a complaint about a module that has outgrown one reason to change."""
    lines = len(module.source.splitlines())
    return [f"{module.path} has {lines} lines, over {LONGEST}"] if lines > LONGEST else []


RULES = (
    worker_in_receiver,
    starlette_elsewhere,
    http_elsewhere,
    relative_imports,
    provider_io,
    too_long,
)


def _name(function: ast.expr) -> str:
    match function:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_project_keeps_rule(rule: Rule) -> None:
    """No module of the two packages breaks the rule."""
    complaints = [text for module in modules("receiver", "worker") for text in rule(module)]
    assert complaints == []


def test_there_are_provider_modules() -> None:
    """The rule about providers' modules has some to look at."""
    assert modules("receiver/providers")


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        (worker_in_receiver, "receiver/queue.py", "import worker"),
        (worker_in_receiver, "receiver/queue.py", "import worker.tasks as tasks"),
        (worker_in_receiver, "receiver/web/app.py", "from worker import tasks"),
        (worker_in_receiver, "receiver/web/app.py", "def f():\n    from worker.tasks import g"),
        (
            worker_in_receiver,
            "receiver/queue.py",
            "import importlib\nimportlib.import_module('worker.tasks')",
        ),
        (starlette_elsewhere, "receiver/intake.py", "from starlette.requests import Request"),
        (starlette_elsewhere, "worker/cli/up.py", "import starlette"),
        (starlette_elsewhere, "receiver/webs.py", "import starlette"),
        (http_elsewhere, "worker/destinations/slack.py", "import httpx2"),
        (http_elsewhere, "receiver/web/app.py", "import requests"),
        (http_elsewhere, "worker/providers/daisysim.py", "import urllib.request"),
        (http_elsewhere, "worker/sweep.py", "from urllib import request"),
        (http_elsewhere, "worker/sweep.py", "from urllib.request import urlopen"),
        (relative_imports, "worker/sweep.py", "from . import leases"),
        (relative_imports, "worker/sweep.py", "from ..receiver import inbox"),
        (provider_io, "receiver/providers/base.py", "import socket"),
        (provider_io, "receiver/providers/base.py", "from os import environ"),
        (provider_io, "receiver/providers/base.py", "from pathlib import Path"),
        (provider_io, "receiver/providers/base.py", "from receiver import database"),
        (provider_io, "receiver/providers/base.py", "import sqlalchemy.orm"),
        (provider_io, "receiver/providers/base.py", "text = open('key').read()"),
        (too_long, "receiver/inbox.py", "x = 1\n" * (LONGEST + 1)),
    ],
)
def test_rule_finds_offence(rule: Rule, path: str, source: str) -> None:
    """Each rule complains about a module that breaks it."""
    assert len(rule(Module(path, source))) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("receiver/web/app.py", "from starlette.applications import Starlette"),
        ("worker/admin/app.py", "import starlette"),
        ("worker/http_client.py", "import httpx2"),
        ("worker/tasks.py", "from receiver.inbox import claim\nimport urllib.parse"),
        ("receiver/queue.py", "import workers\nTASK = 'worker.tasks.handle_events'"),
        ("receiver/providers/base.py", "import hmac\nimport json\nfrom urllib.parse import quote"),
        ("receiver/inbox.py", "x = 1\n" * LONGEST),
    ],
)
def test_rules_allow(path: str, source: str) -> None:
    """No rule complains about what is allowed, however near to an offence."""
    module = Module(path, source)
    assert [text for rule in RULES for text in rule(module)] == []
