"""What an import costs over a bare interpreter: whole processes, in turn, medians of the differences."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

STATEMENTS = ("import anykms", "import anykms; anykms.KeyConf", "import anykms; anykms.Keyring")


def _seconds(statement: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - began


def over_bare_python(statement: str, *, rounds: int = 21) -> float:
    """Milliseconds that ``statement`` takes over an interpreter that does nothing."""
    _seconds(statement)
    return statistics.median(_seconds(statement) - _seconds("pass") for _ in range(rounds)) * 1e3


def main() -> None:
    print("| statement | ms over bare python |")
    print("|---|---:|")
    for statement in STATEMENTS:
        print(f"| `{statement}` | {over_bare_python(statement):.1f} |")


if __name__ == "__main__":
    main()
