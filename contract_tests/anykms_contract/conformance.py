"""Makes a conformance page from bindings: ``python -m anykms_contract.conformance docs contract_tests``.

Runs the bindings ``test_*.py`` of the directories that use the suite, with whatever else pytest is configured
with, and writes ``conformance.json``, ``.md`` and ``.html`` into the first argument.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

import pytest

_USES_THE_SUITE: Final = re.compile(r"^from anykms_contract import ", re.MULTILINE)


def bindings(folders: list[Path]) -> list[Path]:
    """The files in the folders that bind a contract."""
    files = sorted(path for folder in folders for path in folder.glob("test_*.py"))
    return [path for path in files if _USES_THE_SUITE.search(path.read_text(encoding="utf-8"))]


def main(arguments: list[str]) -> int:
    """Run them. Returns pytest's exit code, 2 where the arguments name no binding."""
    target, *folders = map(Path, arguments or ["docs", "contract_tests"])
    found = bindings(folders or [Path("contract_tests")])
    if not found:
        sys.stderr.write(f"no binding of the contract in {', '.join(map(str, folders))}\n")
        return 2
    return int(
        pytest.main(
            [
                *map(str, found),
                "-q",
                "-p",
                "anykms_contract.recording",
                f"--contract-report={target / 'conformance'}",
            ]
        )
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
