"""Tests that want SoftHSM2 say so where it is missing, and fail in CI."""

from __future__ import annotations

from pathlib import Path

import pytest

from softhsm import require_softhsm


def test_a_missing_module_is_named_as_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="NOT RUN") as caught:
        require_softhsm(tmp_path / "none.so")
    assert caught.value.allow_module_level


def test_a_missing_module_fails_in_ci(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="softhsm2"):
        require_softhsm(tmp_path / "none.so")
