"""Tests that want PostgreSQL say so where it is missing, and fail in CI."""

from __future__ import annotations

from pathlib import Path

import pytest

from postgresql import require_postgresql


def test_a_missing_server_is_named_as_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"NOT RUN: .*PostgreSQL"):
        require_postgresql(tmp_path)


def test_a_missing_server_fails_in_ci(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="postgresql"):
        require_postgresql(tmp_path)


def test_the_newest_version_is_taken(tmp_path: Path) -> None:
    for version in ("9.6", "15", "17"):
        (tmp_path / version / "bin").mkdir(parents=True)
        (tmp_path / version / "bin" / "postgres").touch()
    (tmp_path / "18" / "bin").mkdir(parents=True)
    assert require_postgresql(tmp_path) == tmp_path / "17" / "bin"
