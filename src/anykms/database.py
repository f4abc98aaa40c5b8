"""One SQL database through SQLAlchemy: connecting, forks, failures told in our own errors, and asking again."""

from __future__ import annotations

import importlib.util
import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar
from urllib.parse import quote

try:
    from sqlalchemy import URL, Connection, Engine, create_engine, exc, make_url
except ImportError as missing:
    raise ModuleNotFoundError(
        "SQL databases need SQLAlchemy; run: pip install 'anykms[sql]'", name="sqlalchemy"
    ) from missing

from anykms.errors import (
    IntegrityError,
    InvalidArgumentError,
    KMSError,
    PermissionDeniedError,
    UnavailableError,
)

T = TypeVar("T")

_ATTEMPTS: Final = 8
_SQLITE_WAIT: Final = 30
"""Seconds to wait for another writer of a SQLite file, as ``SQLiteRecordStore`` does."""
_FORBIDDEN: Final = "42501"
_UNDONE: Final = ("40001", "40P01")
"""A serialization failure and a deadlock: the database undid the transaction so that it can be tried again."""
_ONE_STATEMENT: Final = "AUTOCOMMIT"
_LEVELS: Final = {"postgresql": "READ COMMITTED", "sqlite": "SERIALIZABLE"}


class Database:
    """A database that connects at first use, and anew in a forked child or where it was unpickled.

    Args:
        source: a SQLAlchemy URL or Engine. A URL ``postgresql://`` without a driver means psycopg where that is
            installed. SQLite in memory is taken as an Engine only: by its URL each thread would have its own.
        existing: do not make a SQLite file where there is none.

    Raises:
        TypeError, InvalidArgumentError: not a URL or Engine of a database that can be used here. Nothing is
            connected yet.
    """

    def __init__(self, source: str | URL | Engine, *, existing: bool = False) -> None:
        self._existing = existing
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._url: URL | None = None if isinstance(source, Engine) else checked_url(source)
        self._engine: Engine | None = source if isinstance(source, Engine) else None

    def __reduce__(self) -> tuple[Callable[[URL, bool], Database], tuple[URL, bool]]:
        if self._url is None:
            raise TypeError("what was given an Engine cannot be pickled: give the database's URL")
        return _again, (self._url, self._existing)

    @property
    def place(self) -> str:
        """Names the database, without driver, user, password and options; a file by its absolute path."""
        url = self.engine.url if self._url is None else self._url
        backend = url.get_backend_name()
        if backend == "sqlite":
            return f"sqlite:///{quote(os.path.realpath(url.database or ''))}"
        # The folder of a Unix socket is an option, and is what tells one server from another.
        option = url.query.get("host", "")
        host = url.host or (option if isinstance(option, str) else ",".join(option))
        port = f":{url.port}" if url.port else ""
        return f"{backend}://{quote(host, safe='')}{port}/{quote(url.database or '', safe='')}"

    @property
    def engine(self) -> Engine:
        """The engine of this process."""
        with self._lock:
            if self._engine is None:
                assert self._url is not None  # noqa: S101 # for type checkers: one of the two is there
                self._engine = _engine(self._url, existing=self._existing)
            elif self._pid != os.getpid():
                # A connection of the parent must be neither used nor closed in its child.
                self._engine.dispose(close=False)
            self._pid = os.getpid()
            return self._engine

    def close(self) -> None:
        """Close the connections, unless an Engine was given. What is used after that opens new ones."""
        with self._lock:
            if self._url is not None and self._engine is not None and self._pid == os.getpid():
                self._engine.dispose()

    def run(self, work: Callable[[Connection], T], *, whole: bool = False) -> T:
        """What ``work`` returns. It is run again where the database undid it for another transaction's sake.

        Args:
            work: sends statements, the first of them no mere question where it changes anything.
            whole: all statements in one transaction, of the level READ COMMITTED where there is a choice, rather
                than each one by itself.

        Raises:
            UnavailableError: the database cannot be reached, is busy, or lacks the table.
            PermissionDeniedError: it does not allow this to its user.
            IntegrityError: any other failure of it.
        """
        engine = self.engine
        level = _LEVELS.get(engine.dialect.name) if whole else _ONE_STATEMENT
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with engine.connect() as plain:
                    connection = plain.execution_options(isolation_level=level) if level else plain
                    result = work(connection)
                    connection.commit()
                    return result
            except exc.SQLAlchemyError as error:
                if attempt == _ATTEMPTS or sqlstate(error) not in _UNDONE:
                    raise _mapped(error) from error
                time.sleep(random.uniform(0, 0.005 * 2**attempt))  # noqa: S311 # only to part the two
        raise AssertionError("unreachable")


def checked_url(source: str | URL) -> URL:
    """``source`` as a URL of a database that can be used here. Raises as ``Database``; the message has no password."""
    if not isinstance(source, (str, URL)):
        raise TypeError(f"a database is a SQLAlchemy URL or Engine, not {type(source).__name__}")
    url, asynchronous = None, None
    with suppress(
        exc.ArgumentError, ValueError
    ):  # these show the URL, so they are not even the context of ours
        url = make_url(source)
        if url.drivername in ("postgresql", "postgres"):
            driver = "+psycopg" if importlib.util.find_spec("psycopg") else ""
            url = url.set(drivername=f"postgresql{driver}")
        asynchronous = url.get_dialect().is_async
    if asynchronous is None or url is None:
        raise InvalidArgumentError(
            "that is no SQLAlchemy database URL: write postgresql://user@host/name or sqlite:///file.db"
        )
    if asynchronous:
        raise InvalidArgumentError(f"{url.drivername} is an asynchronous driver; name a synchronous one")
    if url.get_backend_name() == "sqlite" and (url.database or ":memory:") == ":memory:":
        raise InvalidArgumentError(
            "a SQLite database in memory lasts for one connection: name a file, sqlite:///file.db"
        )
    return url


def _again(url: URL, existing: bool) -> Database:
    return Database(url, existing=existing)


def _engine(url: URL, *, existing: bool) -> Engine:
    options: dict[str, object] = {}
    if url.get_backend_name() == "sqlite":
        options["timeout"] = _SQLITE_WAIT
        path = url.database or ""
        if existing and not path.startswith("file:") and not os.path.exists(path):
            raise UnavailableError(f"there is no file {path}")
    try:
        return create_engine(url, connect_args=options, hide_parameters=True)
    except ImportError as error:
        raise InvalidArgumentError(
            f"{url.drivername} needs a Python package that is not installed: {error.name}"
        ) from error


def in_transaction(connection: Connection) -> bool:
    """Whether ``Database.run`` gave this connection for several statements in one transaction."""
    return connection.get_execution_options().get("isolation_level") != _ONE_STATEMENT


def sqlstate(error: BaseException) -> str:
    """The five characters of the SQL standard that say what failed, as far as the driver tells; else empty."""
    original = getattr(error, "orig", None)
    found = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    return found if isinstance(found, str) else ""


def _mapped(error: exc.SQLAlchemyError) -> KMSError:
    original = getattr(error, "orig", None)
    # The first line of the driver's own text: SQLAlchemy's has the statement too.
    said = next(iter(str(original or error).splitlines()), "")
    if sqlstate(error) == _FORBIDDEN:
        return PermissionDeniedError(f"the database does not allow this: {said}")
    if isinstance(error, (exc.DataError, exc.IntegrityError)) or (
        isinstance(error, exc.DatabaseError)
        and not isinstance(error, (exc.OperationalError, exc.ProgrammingError, exc.InternalError))
    ):
        return IntegrityError(f"the database is damaged, or not what it should be: {said}")
    return UnavailableError(f"the database cannot be used: {said}")
