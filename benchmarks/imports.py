"""What an import costs over a bare interpreter: whole processes, in turn, medians of the differences."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ROUNDS = 21
STATEMENTS = ("import anykms", "import anykms; anykms.KeyConf", "import anykms; anykms.Keyring")


def seconds(statement: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - began


def main() -> None:
    print("| statement | ms over bare python |")
    print("|---|---:|")
    for statement in STATEMENTS:
        seconds(statement)
        differences = [seconds(statement) - seconds("pass") for _ in range(ROUNDS)]
        print(f"| `{statement}` | {statistics.median(differences) * 1e3:.1f} |")


if __name__ == "__main__":
    main()
