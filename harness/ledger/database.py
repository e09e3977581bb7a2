"""Connects a process to the ledger's database, and copes with one that is locked, full or gone.

A part of `harness.ledger.ledger`. `Database.transact` runs a function in one transaction and repeats it while the
database is gone for a moment. SQLite and PostgreSQL differ only here:

- **SQLite**: WAL, `busy_timeout`, writers one at a time (`BEGIN IMMEDIATE`). `synchronous=NORMAL`: what was
  committed survives kill -9 of any process; a power cut may take the last commits (never the file's integrity), whose
  jobs are then found claimed with a lease that runs out. WAL needs shared memory: not on NFS, Lustre or
  other network file systems, where it corrupts silently; use PostgreSQL there.
- **PostgreSQL**: workers' transactions hold a shared advisory lock and take rows by `SKIP LOCKED`; those that
  rearrange many jobs (add, cancel, requeue) hold it exclusively, so both databases see the same histories.

Source: SQLite's "Write-Ahead Logging" and "Result and Error Codes"; PostgreSQL 15, chapter 13.3.5 and appendix A.
"""

import os
import re
import shutil
import stat
import tempfile
import time
import urllib.parse
from collections.abc import Callable
from contextlib import ExitStack
from enum import Enum
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError

from harness.ledger.passwords import url_without_password, without_passwords
from harness.ledger.tables import SCHEMA_VERSION, LedgerError, LedgerUnavailableError, jobs, meta, metadata

T = TypeVar("T")
Clock = Callable[[], float]

WAIT_SECONDS = 60.0  # a database locked or out of reach is waited for so long
GONE_SECONDS = 10.0  # a file that is not there any more, so that all who wait for it have ended within a minute
_RETRY_SECONDS = 0.2
POSTGRESQL = "postgresql://USER@HOST/DATABASE"
_LIKE_A_URL = re.compile(r"(postgres\w*|mysql|mariadb|sqlite)(\+\w+)?:|(postgres\w*|mysql)//", re.IGNORECASE)
_ADVISORY_KEY = 0x514C4F5241  # "QLORA"; any number that other users of the server don't take
_SQLITE_NOW = sa.literal_column("((julianday('now') - 2440587.5) * 86400.0)", sa.Double)  # to the millisecond
_POSTGRES_NOW = sa.literal_column("CAST(extract(epoch from clock_timestamp()) AS double precision)", sa.Double)
_POSTGRES_GONE = ("08", "57P", "53300")  # connection errors, shutdown or start-up, too many connections
_POSTGRES_RACE = ("40001", "40P01")  # serialization failure, deadlock


class Access(Enum):
    """What a transaction may change: `write` changes claimed jobs, `rearrange` any job."""

    read = "read"
    write = "write"
    rearrange = "rearrange"


class Opening(Enum):
    """What opening a ledger may do: make one that isn't there, use what is there, or only look at it."""

    make = "make"
    use = "use"
    look = "look"


class Database:
    """The connections of one process to a ledger. Threads may share it; after a fork it makes new connections."""

    def __init__(
        self,
        url_or_path: str | Path,
        clock: Clock | None = None,
        wait_seconds: float = WAIT_SECONDS,
        opening: Opening = Opening.make,
    ):
        self.url = database_url(url_or_path)
        self._opening = opening
        self.name = without_passwords(self.url.render_as_string(hide_password=True))
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._path = Path(self.url.database or "") if self.is_sqlite else None
        self._clock = clock
        self._wait_seconds = wait_seconds
        self._lock = Lock()
        self._engine: sa.Engine | None = None
        self._inherited: sa.Engine | None = None
        self._pid = os.getpid()
        self._file_id: tuple[int, int] | None = None
        self._copies = ExitStack()  # of a file in a folder where SQLite may write nothing

    def now(self) -> sa.ColumnElement[float]:
        """The server's clock in SQL, in seconds since 1970. No worker's clock is used."""
        if self._clock is not None:
            return sa.literal(self._clock(), sa.Double)
        return _SQLITE_NOW if self.is_sqlite else _POSTGRES_NOW

    def transact(self, access: Access, work: Callable[[sa.Connection], T]) -> T:
        """Runs `work` in a transaction; once the ledger was opened, waits while it is gone and repeats.

        Raises:
            LedgerUnavailableError: locked or gone for longer than `wait_seconds`, full or read-only.
            LedgerError: no such ledger, not a ledger, or of a newer version.
        """
        if self._opening is Opening.look and access is not Access.read:
            raise LedgerError(f"{self.name}: it was opened to be looked at only")
        deadline: float | None = None  # set by the first failure: we may have been stopped for hours ourselves
        was_open = self._engine is not None and self._pid == os.getpid()
        while True:
            try:
                with self._ready_engine().begin() as connection:
                    self._begin(connection, access)
                    return work(connection)
            except (DBAPIError, FileNotFoundError) as error:
                is_gone = isinstance(error, FileNotFoundError)
                patience = min(self._wait_seconds, GONE_SECONDS) if is_gone else self._wait_seconds
                deadline = deadline or time.monotonic() + patience
                if not (was_open and _is_passing(error)) or time.monotonic() > deadline:
                    raise self._explained(error) from error
            time.sleep(_RETRY_SECONDS)

    def close(self) -> None:
        """Closes the connections; the next call opens new ones."""
        with self._lock:
            if self._engine is not None and self._pid == os.getpid():
                self._engine.dispose()
            self._engine = None
            self._copies.close()

    def _begin(self, connection: sa.Connection, access: Access) -> None:
        if self.is_sqlite:
            connection.exec_driver_sql("BEGIN" if access is Access.read else "BEGIN IMMEDIATE")
        elif access is not Access.read:
            suffix = "_shared" if access is Access.write else ""
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock{suffix}({_ADVISORY_KEY})")

    def _ready_engine(self) -> sa.Engine:
        """This process's engine, with the tables checked."""
        if self._pid != os.getpid():  # forked: the parent's connections must be neither used nor closed here
            self._inherited, self._engine = self._engine, None
            self._lock, self._pid = Lock(), os.getpid()
        with self._lock:
            if self._engine is not None and self._path is not None and _file_id(self._path) != self._file_id:
                self._engine.dispose()  # the file was replaced: what we would write goes nowhere
                self._engine = None
            if self._engine is None:
                engine = self._new_engine()
                self._prepare(engine)
                self._engine = engine
            return self._engine

    def _new_engine(self) -> sa.Engine:
        if self._path is not None:
            if not self._path.parent.is_dir():
                folder = self._path.parent
                raise LedgerError(f"{self.name}: the folder {folder} does not exist; make it, or mend paths.runs")
            if self._opening is Opening.make:
                _make_file(self._path)
            elif not self._path.is_file():
                raise FileNotFoundError(self._path)
            arguments: dict[str, float | None] = {"timeout": self._wait_seconds, "isolation_level": None}
            if self._opening is Opening.look:
                return sa.create_engine(_look_url(self._path, self._copies), connect_args=arguments)
            engine = sa.create_engine(self.url, connect_args=arguments)
            sa.event.listen(engine, "connect", _set_sqlite_pragmas)
            return engine
        wait_ms = int(self._wait_seconds * 1000)
        # A peer that is stopped, or cut off, in the middle of a transaction must not hold up the others for ever.
        limits = f"-c lock_timeout={wait_ms} -c idle_in_transaction_session_timeout={wait_ms}"
        options = f"{limits} {self.url.query.get('options', '')}"  # the user's own come last and win
        alive = {"keepalives_idle": 30, "keepalives_interval": 10, "tcp_user_timeout": wait_ms}
        return sa.create_engine(self.url, connect_args={"connect_timeout": 10, "options": options, **alive})

    def _prepare(self, engine: sa.Engine) -> None:
        """Makes the tables of a new ledger; refuses a database that is something else."""
        with engine.begin() as connection:
            tables = sa.inspect(connection).get_table_names()
            version = connection.scalar(_version_query()) if meta.name in tables else None
        if version is None:
            if self._opening is Opening.look:
                raise LedgerError(f"{self.name}: holds no ledger; name another database")
            if jobs.name in tables:
                raise LedgerError(f"{self.name}: has a table 'jobs' that isn't a ledger's; name another database")
            self._create(engine)
        elif int(version) != SCHEMA_VERSION:
            raise LedgerError(
                f"{self.name}: its schema_version is {version}, this program knows {SCHEMA_VERSION}; "
                "use the version of the program that made it, or name a new ledger (paths.ledger_url)"
            )
        if self._path is not None:
            self._file_id = _file_id(self._path)

    def _create(self, engine: sa.Engine) -> None:
        if self.is_sqlite:
            with engine.connect() as connection:  # outside of a transaction; the mode stays with the file
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        with engine.begin() as connection:
            self._begin(connection, Access.rearrange)
            metadata.create_all(connection)
            if connection.scalar(_version_query()) is None:  # unless another process was faster
                connection.execute(sa.insert(meta).values(key="schema_version", value=str(SCHEMA_VERSION)))

    def _explained(self, error: DBAPIError | FileNotFoundError) -> LedgerError:
        """The error in words for the user, with a remedy."""
        if isinstance(error, FileNotFoundError):
            return LedgerUnavailableError(f"{self.name}: the file is gone; put it back, or start the command again")
        code = _code(error)
        for prefix, remedy in _REMEDIES.items():
            if code.startswith(prefix):
                kind = LedgerError if prefix in _NOT_A_LEDGER else LedgerUnavailableError
                return kind(f"{self.name}: {remedy} ({without_passwords(str(error.orig))})")
        if _is_passing(error) or not code:
            remedy = "the server can't be reached; check that it runs, its address and password"
            return LedgerUnavailableError(f"{self.name}: {remedy} ({without_passwords(str(error.orig))})")
        raise error  # our own SQL is wrong: not for a user to mend


_NOT_A_LEDGER = ("SQLITE_NOTADB", "SQLITE_CORRUPT")
_REMEDIES = {
    "SQLITE_BUSY": "another process keeps it locked; end that process, or use PostgreSQL for many workers",
    "SQLITE_FULL": "the disk is full; nothing was recorded; free space and start the command again",
    "SQLITE_READONLY": "not writable for this user; make the file, its -wal and -shm and the folder writable",
    "SQLITE_CANTOPEN": "can't be opened; check that it is a file in a folder writable for this user",
    "SQLITE_IOERR": "reading or writing failed; check the disk (a network file system can't hold it: use PostgreSQL)",
    "SQLITE_PERM": "no permission; make the file and its folder writable for this user",
    "SQLITE_NOTADB": "not a SQLite database; name another file, or make it anew: python -m sweeps rebuild",
    "SQLITE_CORRUPT": "damaged; restore a copy, or make it anew from the run folders: python -m sweeps rebuild",
    "55P03": "another process keeps it locked; end that process",
    "53100": "the server's disk is full; nothing was recorded; free space and start the command again",
    "25006": "the server is read-only; name its primary",
    "42501": "no permission; grant this user the right to create and write tables",
}


def database_url(url_or_path: str | Path) -> sa.URL:
    """The URL that SQLAlchemy connects to. Raises LedgerError for what is neither a SQLite file nor PostgreSQL."""
    named = url_without_password(str(url_or_path))
    expected = f"expected a SQLite file or {POSTGRESQL}"
    if isinstance(url_or_path, Path) or "://" not in url_or_path:
        if _LIKE_A_URL.match(str(url_or_path)):
            raise LedgerError(f"{named}: not a database URL; {expected}")
        return sa.URL.create("sqlite", database=os.path.abspath(os.path.expanduser(url_or_path)))
    try:
        url = sa.make_url(url_or_path)
        backend = url.get_backend_name()
    except (ArgumentError, ValueError):  # the latter of a port that is no number; both may quote the password
        raise LedgerError(
            f"{named}: not a database URL; {expected}, and write %40 for an @ in a password, %3A for a colon"
        ) from None
    if backend == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if backend != "sqlite" or not url.database or url.database.startswith(":"):
        raise LedgerError(f"{named}: a ledger is a SQLite file or a PostgreSQL database; {expected}")
    return url.set(database=os.path.abspath(url.database))


def _look_url(path: Path, copies: ExitStack) -> str:
    """A SQLite file to be read. What was written last lies beside it (-wal), and reading that needs a shared memory
    file (-shm) there: in a folder where nothing may be written both are copied to where it may.
    """
    if not os.access(path.parent, os.W_OK) or not os.access(path, os.W_OK):
        folder = Path(copies.enter_context(tempfile.TemporaryDirectory(prefix="ledger-")))
        for file in (path, path.with_name(f"{path.name}-wal")):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)
        path = folder / path.name
    return f"sqlite:///file:{urllib.parse.quote(str(path))}?mode=ro&uri=true"


def _set_sqlite_pragmas(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA synchronous=NORMAL")  # see the module's docstring


def _make_file(path: Path) -> None:
    """Makes the file of a new ledger; if the group may write the folder, it may write the file too, whatever the umask.

    SQLite gives its -wal and -shm files the mode that it finds, so this comes before the first connection.
    """
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL, 0o666)
    except (FileExistsError, PermissionError):  # the latter is SQLite's to explain
        return
    if path.parent.stat().st_mode & stat.S_IWGRP:
        os.fchmod(descriptor, os.fstat(descriptor).st_mode | stat.S_IRGRP | stat.S_IWGRP)
    os.close(descriptor)


def _version_query() -> sa.Select[str]:
    return sa.select(meta.c.value).where(meta.c.key == "schema_version")


def _file_id(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _code(error: DBAPIError) -> str:
    """SQLite's error name or PostgreSQL's SQLSTATE; empty where the driver gives none (no connection)."""
    code = getattr(error.orig, "sqlite_errorname", None) or getattr(error.orig, "sqlstate", None)
    return str(code or "")


def _is_passing(error: DBAPIError | FileNotFoundError) -> bool:
    """Whether the same call may succeed a little later. (The database itself has already waited for locks.)"""
    if isinstance(error, FileNotFoundError):
        return True
    code = _code(error)
    gone = error.connection_invalidated or (not code and isinstance(error, sa.exc.OperationalError))
    return gone or code.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY_DBMOVED", *_POSTGRES_GONE, *_POSTGRES_RACE))
