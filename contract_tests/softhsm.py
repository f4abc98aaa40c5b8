"""SoftHSM2 tokens in a folder of their own, for the tests of the PKCS#11 provider."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pkcs11
import pytest

MODULE: Final = Path("/usr/lib/softhsm/libsofthsm2.so")
"""Where Debian's package softhsm2 has it."""
PIN: Final = "anykms-test-1234"
_OFFICER: Final = "officer-5678"


def require_softhsm(caller: str, module: Path = MODULE) -> None:
    """Name the calling module as not run where SoftHSM2 is not installed; in CI that is a failure.

    Called while a test module is imported, so that no test of it is skipped one by one.

    Args:
        caller: ``__file__`` of the test module.
        module: for the test of this function.
    """
    if module.exists():
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"{Path(caller).name}: CI needs the Debian package softhsm2", pytrace=False)
    pytest.skip(
        f"NOT RUN: {Path(caller).name} needs SoftHSM2 (apt-get install softhsm2)", allow_module_level=True
    )


@dataclass(frozen=True, slots=True)
class SoftHSM:
    """A SoftHSM2 installation of one folder; ``SOFTHSM2_CONF`` names it while it is in use."""

    folder: Path

    @property
    def pin_file(self) -> Path:
        return self.folder / "pin"

    def make(self, label: str, *, spelt: str | None = None) -> str:
        """A fresh token; returns its connection URI. A module that is in use does not see new tokens.

        Args:
            spelt: the label as the URI has it, where that differs.
        """
        command = ["softhsm2-util", "--init-token", "--free", "--label", label]
        command += ["--so-pin", _OFFICER, "--pin", PIN]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603 # a fixed command
        return f"pkcs11://{spelt or label}?module={MODULE}&pin-file={self.pin_file}"


@contextmanager
def softhsm(folder: Path, *, without: str | None = None) -> Generator[SoftHSM]:
    """SoftHSM2 with its tokens in ``folder``, for this process and those it starts.

    Args:
        without: a mechanism to leave out.
    """
    folder.mkdir(exist_ok=True)
    memory = Path("/dev/shm")  # noqa: S108 # the folder made there is ours alone; SoftHSM syncs each write to disk
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else folder) as tokens:
        yield from _installed(folder, tokens, without)


def _installed(folder: Path, tokens: str, without: str | None) -> Generator[SoftHSM]:
    lines = [f"directories.tokendir = {tokens}", "log.level = ERROR"]
    if without is not None:
        lines.append(f"slots.mechanisms = -CKM_MD5,{without}")  # SoftHSM 2.6.1 passes over the first one
    configuration = folder / "softhsm2.conf"
    configuration.write_text("\n".join(lines) + "\n")
    found = SoftHSM(folder)
    found.pin_file.touch(mode=0o600)
    found.pin_file.write_text(PIN + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(configuration))
        try:
            yield found
        finally:
            # The module reads its configuration when it is initialised: the next folder needs it anew.
            pkcs11.lib(str(MODULE)).finalize()
