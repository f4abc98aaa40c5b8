"""docs/performance.md is what benchmarks/report.py makes of docs/performance.json, and keeps its promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_no_figure_of_the_page_is_typed_by_hand() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "report.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 # fixed words
    assert (done.returncode, done.stderr) == (0, "")
