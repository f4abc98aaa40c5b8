"""A PostgreSQL server of this process, in a folder of its own, for the tests on a real database."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

import psycopg
import pytest
from psycopg import sql

DEBIAN: Final = Path("/usr/lib/postgresql")
"""Where Debian's package postgresql has each version's programs, in VERSION/bin."""
_USER: Final = "anykms"
_ACCOUNT: Final = "postgres"
"""Made by Debian's package: the server refuses to run as root."""
_QUICK: Final = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "listen_addresses=")


def require_postgresql(folder: Path = DEBIAN) -> Path:
    """The programs of the newest PostgreSQL. Without one, the tests are named as not run; in CI they fail.

    Args:
        folder: for the test of this function.
    """
    found = [path for path in folder.glob("*/bin") if (path / "postgres").is_file()]
    if found:
        return max(found, key=lambda path: float(path.parent.name))
    if os.environ.get("CI") == "true":
        pytest.fail("CI needs the Debian package postgresql", pytrace=False)
    pytest.skip("NOT RUN: this needs PostgreSQL (apt-get install postgresql)")


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. It listens on a socket in its own folder, and on no network."""

    folder: Path
    _numbers: count[int] = field(default_factory=count)

    def new_database(self) -> str:
        """The SQLAlchemy URL of a fresh, empty database."""
        name = f"test{next(self._numbers)}"
        with psycopg.connect(
            host=str(self.folder), user=_USER, dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return f"postgresql+psycopg://{_USER}@/{name}?host={self.folder}"


@contextmanager
def postgresql(programs: Path) -> Generator[Server]:
    """A server for as long as the context lasts.

    Args:
        programs: from ``require_postgresql``.
    """
    account = _ACCOUNT if os.geteuid() == 0 else None
    # pytest's folders are closed to other accounts, and a socket's path has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="anykms-pg-"))
    try:
        if account is not None:
            shutil.chown(folder, account, account)
        data = str(folder / "data")
        subprocess.run(  # noqa: S603 # Debian's program
            [
                *(str(programs / "initdb"), "-D", data, "-U", _USER),
                *("--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8"),
            ],
            check=True,
            capture_output=True,
            cwd=folder,
            user=account,
            group=account,
            extra_groups=None if account is None else [],
        )
        settings = [part for setting in _QUICK for part in ("-c", setting)]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(  # noqa: S603 # Debian's program
                [str(programs / "postgres"), "-D", data, "-k", str(folder), *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                user=account,
                group=account,
                extra_groups=None if account is None else [],
                start_new_session=True,  # Ctrl-C is for the tests, which then end the server
            )
        try:
            _await(server, folder)
            yield Server(folder)
        finally:
            server.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
            server.wait()
    finally:
        shutil.rmtree(folder)


def _await(server: subprocess.Popen[bytes], folder: Path) -> None:
    for _ in range(600):
        try:
            psycopg.connect(host=str(folder), user=_USER, dbname="postgres").close()
        except psycopg.OperationalError:
            assert server.poll() is None, (folder / "log").read_text()
            time.sleep(0.1)
        else:
            return
    raise AssertionError("PostgreSQL did not start: " + (folder / "log").read_text())
