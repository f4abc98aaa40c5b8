"""Tests that want SoftHSM2 say so where it is missing, and fail in CI."""

from __future__ import annotations

from pathlib import Path

import pytest

from softhsm import require_softhsm


def test_a_missing_module_is_named_as_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"NOT RUN: test_pkcs11\.py") as caught:
        require_softhsm("contract_tests/test_pkcs11.py", tmp_path / "none.so")
    assert caught.value.allow_module_level


def test_a_missing_module_fails_in_ci(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"test_pkcs11\.py.*softhsm2"):
        require_softhsm("contract_tests/test_pkcs11.py", tmp_path / "none.so")
