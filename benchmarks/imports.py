"""What an import costs over a bare interpreter: whole processes in turn, medians of the differences in CPU time."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

STATEMENTS = ("import anykms", "import anykms; anykms.KeyConf", "import anykms; anykms.Keyring")


def _seconds(statement: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", statement], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def over_bare_python(statement: str, *, rounds: int = 21) -> float:
    """Milliseconds of processor time that ``statement`` takes over an interpreter that does nothing."""
    _seconds(statement)
    return statistics.median(_seconds(statement) - _seconds("pass") for _ in range(rounds)) * 1e3


def main() -> None:
    print("| statement | ms over bare python |")
    print("|---|---:|")
    for statement in STATEMENTS:
        print(f"| `{statement}` | {over_bare_python(statement):.1f} |")


if __name__ == "__main__":
    main()
