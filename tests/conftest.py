"""What several test modules need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from postgresql import Server, postgresql, require_postgresql


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Server]:
    """PostgreSQL, started where a test of this process needs it first."""
    with postgresql(require_postgresql()) as server:
        yield server


@pytest.fixture
def postgresql_url(postgresql_server: Server) -> str:
    """A fresh database, as SQLAlchemy's URL."""
    return postgresql_server.new_database()
