"""Which package may import which, and which modules of a package are public.

The two tables below are the rules. A package that is not in a row of its importer may not be
imported by it; a module that its package does not list in ``__all__`` is private to that package.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Within receiver: from the ground up.
RECEIVER: Mapping[str, str] = {
    "addresses": "",
    "clock": "",
    "daemon_threads": "",
    "discovery": "",
    "errors": "",
    "events": "",
    "failpoints": "",
    "ids": "",
    "queue": "failpoints",
    "setting_types": "addresses",
    "database": "clock errors",
    "vault": "clock database errors",
    "settings": "database errors setting_types vault",
    "log_writer": "",
    "logs": "clock log_writer settings",
    "providers": "discovery errors events setting_types",
    "inbox": "clock daemon_threads database errors failpoints ids queue vault",
    "web": (
        "addresses clock daemon_threads database errors inbox logs providers queue settings vault"
    ),
}
# Within worker. Every package here may import receiver, but receiver.web only processes may.
WORKER: Mapping[str, str] = {
    "http": "",
    "messages": "",
    "schema": "",
    "destinations": "http messages",
    "orders": "schema",
    "outbox": "schema",
    "providers": "http schema",
    "simulator": "http",
    "configuration": "destinations messages schema",
    "queries": "configuration orders schema",
    "runtime": "configuration destinations http messages providers",
    "maintenance": "configuration orders outbox queries schema",
    "admin": "maintenance orders outbox queries",
    "handling": "configuration orders outbox runtime schema",
    "delivery": "configuration destinations messages orders outbox runtime schema",
    "reconciliation": "orders outbox providers runtime schema",
    "confirmation": "configuration handling http orders outbox providers runtime schema",
    "calls": "orders outbox providers reconciliation runtime schema",
    "tasks": "confirmation delivery handling maintenance outbox reconciliation runtime",
    "processes": "admin http maintenance runtime schema tasks",
    "cli": (
        "admin calls configuration delivery destinations handling http maintenance messages orders"
        " outbox processes providers queries reconciliation runtime schema simulator"
    ),
}
TABLES = {"receiver": RECEIVER, "worker": WORKER}
# Packages that list no public modules.
UNLISTED = ("receiver/__init__.py", "worker/__init__.py", "worker/cli/__init__.py")
# Modules that another process names, so that no import shows it.
NAMED_ELSEWHERE = {"worker.admin.app"}

STARTS_STARLETTE = ("receiver/web/", "worker/admin/", "worker/simulator/")
SPEAKS_HTTP = ("worker/http/",)
HTTP_CLIENTS = ("httpx2", "httpx", "requests", "urllib.request", "urllib3", "aiohttp")
PURE = "receiver/providers/"
IMPURE = (
    *HTTP_CLIENTS,
    *("http", "socket", "socketserver", "ssl", "smtplib", "asyncio", "anyio", "select"),
    *("os", "io", "pathlib", "shutil", "tempfile", "glob", "fcntl", "mmap"),
    *("subprocess", "threading", "multiprocessing", "concurrent"),
    *("sqlite3", "psycopg", "sqlalchemy", "sqlmodel", "redis", "celery", "kombu", "starlette"),
)
IMPURE_CALLS = frozenset({"open", "print", "input"})


@dataclass(frozen=True)
class Module:
    """A module of the project: its path from the root, and its source."""

    path: str
    source: str

    @property
    def name(self) -> str:
        """Its dotted name; that of its package for an ``__init__.py``."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.source, self.path)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """Every node of the tree."""
        return [*ast.walk(self.tree)]


def modules(*folders: str) -> list[Module]:
    """Return every module below the folders; there is one at least in each."""
    found: list[Module] = []
    for folder in folders:
        paths = sorted((ROOT / folder).rglob("*.py"))
        assert paths, f"no module found in {folder}"
        found += [Module(path.relative_to(ROOT).as_posix(), path.read_text()) for path in paths]
    return found


MODULES = modules("receiver", "worker")
NAMES = {module.name for module in MODULES}
PACKAGES = {module.name for module in MODULES if module.path.endswith("/__init__.py")}


def imported(module: Module) -> Iterator[tuple[int, str]]:
    """Yield line and full name of everything a module imports, wherever and however it does."""
    for node in module.nodes:
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=str(package), names=names, level=0):
                yield from ((node.lineno, f"{package}.{alias.name}") for alias in names)
            case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]):
                if _name(function) in ("import_module", "__import__"):
                    yield node.lineno, name


def ours(module: Module) -> Iterator[tuple[int, str]]:
    """Yield line and name of every module of the project that a module imports."""
    for line, name in imported(module):
        parent = name.rpartition(".")[0]
        if name in NAMES or parent in NAMES:
            yield line, name if name in NAMES else parent


def _listed() -> Mapping[str, frozenset[str]]:
    """Return the modules that each package lists."""
    return {
        module.name: frozenset(ast.literal_eval(node.value))
        for module in MODULES
        if module.name in PACKAGES
        for node in module.tree.body
        if isinstance(node, ast.Assign) and _targets(node) == ["__all__"]
    }


def breaks(module: Module, *forbidden: str) -> list[str]:
    """Return where a module imports one of the forbidden packages or something below one."""
    return [
        f"{module.path}:{line} imports {name}"
        for line, name in imported(module)
        if any(name == package or name.startswith(f"{package}.") for package in forbidden)
    ]


def forbidden_import(module: Module) -> list[str]:
    """Return where a module imports a package that is not in its own package's row."""
    root, _, rest = module.name.partition(".")
    package = rest.partition(".")[0]
    if not package:
        return []
    row = TABLES[root].get(package)
    if row is None:
        return [f"{module.path}: {root}.{package} has no row in the table"]
    complaints = []
    for line, name in imported(module):
        parts = name.split(".")
        if parts[0] not in TABLES or len(parts) < 2 or parts[:2] == [root, package]:
            continue
        if parts[0] == root:
            allowed = parts[1] in row.split()
        else:
            allowed = root == "worker" and (parts[1] != "web" or package == "processes")
        if not allowed:
            complaints.append(f"{module.path}:{line} imports {name}")
    return complaints


def private_module(module: Module) -> list[str]:
    """Return where a module imports one that is private to another package."""
    complaints = []
    for line, name in ours(module):
        for package, listed in LISTED.items():
            inside = module.name == package or module.name.startswith(f"{package}.")
            if inside or not name.startswith(f"{package}."):
                continue
            child = name.removeprefix(f"{package}.").partition(".")[0]
            if child not in listed:
                complaints.append(f"{module.path}:{line} imports {name}")
    return complaints


def worker_in_receiver(module: Module) -> list[str]:
    """Return where the receiver imports the worker."""
    return breaks(module, "worker") if module.path.startswith("receiver/") else []


def starlette_elsewhere(module: Module) -> list[str]:
    """Return where Starlette is imported by a package that serves no HTTP."""
    return [] if module.path.startswith(STARTS_STARLETTE) else breaks(module, "starlette")


def http_elsewhere(module: Module) -> list[str]:
    """Return where an HTTP client is imported besides the package that may."""
    return [] if module.path.startswith(SPEAKS_HTTP) else breaks(module, *HTTP_CLIENTS)


def provider_io(module: Module) -> list[str]:
    """Return where a provider's module could reach the network, a file or the database."""
    if not module.path.startswith(PURE):
        return []
    calls = [
        f"{module.path}:{node.lineno} calls {_name(node.func)}"
        for node in module.nodes
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in IMPURE_CALLS
    ]
    return breaks(module, *IMPURE) + calls


def package_with_code(module: Module) -> list[str]:
    """Return what a package's ``__init__.py`` does besides saying what it is for and listing it."""
    if not module.path.endswith("/__init__.py") or module.path in UNLISTED:
        return []
    return [
        f"{module.path}:{node.lineno} does more than describe and list"
        for node in module.tree.body
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        and not (isinstance(node, ast.Assign) and _targets(node) == ["__all__"])
    ]


RULES = (  # ruff forbids relative imports
    forbidden_import,
    private_module,
    worker_in_receiver,
    starlette_elsewhere,
    http_elsewhere,
    provider_io,
    package_with_code,
)


def _name(function: ast.expr) -> str:
    match function:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _targets(node: ast.Assign) -> list[str]:
    return [target.id for target in node.targets if isinstance(target, ast.Name)]


LISTED = _listed()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_project_keeps_rule(rule: Callable[[Module], list[str]]) -> None:
    """No module of the two packages breaks the rule."""
    assert [text for module in MODULES for text in rule(module)] == []


@pytest.mark.parametrize("root", TABLES)
def test_the_tables_name_every_package(root: str) -> None:
    """Every package and loose module has a row, each row has one, and no row leads in a circle."""
    packages = {
        name.split(".")[1] for name in NAMES if name.startswith(f"{root}.") and name.count(".") > 0
    }
    table = TABLES[root]
    assert set(table) == packages
    assert {package for row in table.values() for package in row.split()} <= packages
    assert list(
        TopologicalSorter({package: row.split() for package, row in table.items()}).static_order()
    )


def test_no_row_allows_what_nobody_needs() -> None:
    """Every permission is used, but for cli, which may import all, and admin, which shows all."""
    needed: dict[tuple[str, str], set[str]] = {}
    for module in MODULES:
        root, _, rest = module.name.partition(".")
        for _, name in ours(module):
            parts = name.split(".")
            if rest and parts[0] == root and len(parts) > 1:
                needed.setdefault((root, rest.partition(".")[0]), set()).add(parts[1])
    spare = {
        f"{root}.{package}": set(row.split()) - needed.get((root, package), set())
        for root, table in TABLES.items()
        for package, row in table.items()
        if package not in {"admin", "cli"}
    }
    assert {package: extra for package, extra in spare.items() if extra} == {}


def test_worker_has_no_loose_modules() -> None:
    """Each module of the worker is in a package."""
    assert [path.name for path in (ROOT / "worker").glob("*.py")] == ["__init__.py"]


def test_no_modules_import_each_other() -> None:
    """Within packages, too, imports run one way."""
    graph = {module.name: {name for _, name in ours(module)} - {module.name} for module in MODULES}
    for package in PACKAGES - {"worker.cli"}:
        graph[package] = set()  # importing a package loads nothing
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_public_modules_are_used_elsewhere() -> None:
    """Every listed module exists, and is imported from outside its package; the others are not."""
    wanted = set(NAMED_ELSEWHERE)
    for module in MODULES:
        for _, name in ours(module):
            parts = name.split(".")
            above = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
            wanted |= {
                child
                for parent, child in pairwise(above)
                if not module.name.startswith(f"{parent}.")
            }
    for package, listed in LISTED.items():
        names = {f"{package}.{child}" for child in listed}
        assert names <= NAMES
        assert names <= wanted, package


def test_every_package_lists_its_public_modules() -> None:
    """Each package but the tables' history lists its public modules and says what it is for."""
    silent = {name for name in PACKAGES if "migrations" not in name} - LISTED.keys()
    assert silent == {"receiver", "worker", "worker.cli"}
    for module in MODULES:
        assert not module.path.endswith("/__init__.py") or ast.get_docstring(module.tree)


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        (forbidden_import, "receiver/queue.py", "import receiver.inbox.store"),
        (forbidden_import, "worker/orders/store.py", "from worker.outbox import leases"),
        (forbidden_import, "worker/orders/store.py", "import worker.tasks.tasks as tasks"),
        (forbidden_import, "worker/delivery/claim.py", "from receiver.web import app"),
        (forbidden_import, "worker/desk.py", "x = 1"),
        (private_module, "worker/tasks/tasks.py", "from worker.delivery import deferral"),
        (private_module, "worker/cli/up.py", "from worker.http.network import NetworkBackend"),
        (private_module, "worker/delivery/deliver.py", "import receiver.inbox.writer"),
        (worker_in_receiver, "receiver/queue.py", "import worker"),
        (worker_in_receiver, "receiver/web/app.py", "def f():\n    from worker.tasks import g"),
        (
            worker_in_receiver,
            "receiver/queue.py",
            "import importlib\nimportlib.import_module('worker.tasks')",
        ),
        (starlette_elsewhere, "receiver/inbox/store.py", "from starlette.requests import Request"),
        (starlette_elsewhere, "receiver/webs.py", "import starlette"),
        (http_elsewhere, "worker/destinations/slack.py", "import httpx2"),
        (http_elsewhere, "worker/outbox/sweep.py", "from urllib import request"),
        (http_elsewhere, "worker/outbox/sweep.py", "from urllib.request import urlopen"),
        (provider_io, "receiver/providers/base.py", "import socket"),
        (provider_io, "receiver/providers/base.py", "import sqlalchemy.orm"),
        (provider_io, "receiver/providers/base.py", "text = open('key').read()"),
        (package_with_code, "worker/orders/__init__.py", "from worker.orders import store"),
        (package_with_code, "worker/orders/__init__.py", "def f() -> None: ..."),
    ],
)
def test_rule_finds_offence(rule: Callable[[Module], list[str]], path: str, source: str) -> None:
    """Each rule complains about a module that breaks it."""
    assert len(rule(Module(path, source))) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("receiver/web/app.py", "from starlette.applications import Starlette"),
        ("worker/admin/app.py", "import starlette"),
        ("worker/http/client.py", "import httpx2"),
        ("worker/tasks/tasks.py", "from receiver.inbox.store import INBOX\nimport urllib.parse"),
        ("worker/processes/web.py", "from receiver.web.app import create_app"),
        ("worker/delivery/claim.py", "from worker.delivery import deferral"),
        ("receiver/queue.py", "import workers\nTASK = 'worker.tasks.handle_events'"),
        ("receiver/providers/base.py", "import hmac\nimport json\nfrom urllib.parse import quote"),
        ("worker/orders/__init__.py", '"""Orders."""\n\n__all__ = ["store"]'),
    ],
)
def test_rules_allow(path: str, source: str) -> None:
    """No rule complains about what is allowed, however near to an offence."""
    module = Module(path, source)
    assert [text for rule in RULES for text in rule(module)] == []
