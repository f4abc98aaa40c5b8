"""The ledger of sealed documents under many threads, processes and forks: a generation never goes back."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from anykms import Ledger
from anykms.errors import SealError

USE = ("kind", "audience", "orders")
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def note(ledger: Ledger, generation: int, use: tuple[str, str, str] = USE) -> bool:
    """Whether the ledger took a document of that generation."""
    try:
        ledger.note(use, generation, sha256(str(generation).encode()).digest(), NOW)
    except SealError:
        return False
    return True


def climb(ledger: Ledger, first: int, last: int, step: int) -> list[int]:
    """Note generations one after another; after each, what the ledger has seen is that or more."""
    taken: list[int] = []
    for generation in range(first, last + 1, step):
        if note(ledger, generation):
            taken.append(generation)
        seen = ledger.generation(*USE)
        assert seen >= generation, f"noted {generation}, and the ledger went back to {seen}"
    return taken


CLIMBER = """
import sys
from datetime import UTC, datetime
from hashlib import sha256
from anykms import Ledger
from anykms.errors import SealError
ledger, first, step = Ledger(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
highest = 0
for generation in range(first, 301, step):
    try:
        ledger.note(("kind", "audience", "orders"), generation, sha256(str(generation).encode()).digest(),
                    datetime(2026, 3, 1, tzinfo=UTC))
        print(generation)
    except SealError:
        pass
    seen = ledger.generation("kind", "audience", "orders")
    assert seen >= generation and seen >= highest, (generation, seen, highest)
    highest = seen
"""


def test_two_processes_at_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    climbers = [
        subprocess.Popen(  # noqa: S603 # our own program
            [sys.executable, "-c", CLIMBER, str(path), str(first), "2"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for first in (1, 2)
    ]
    for climber in climbers:
        assert climber.stdout is not None
        assert climber.stdout.readline() == "ready\n"
    for climber in climbers:
        assert climber.stdin is not None
        climber.stdin.write("go\n")
        climber.stdin.flush()
    taken = [[int(line) for line in climber.communicate()[0].split()] for climber in climbers]
    assert [climber.returncode for climber in climbers] == [0, 0]
    assert max(taken[0] + taken[1]) == 300
    with Ledger(path) as ledger:
        assert ledger.generation(*USE) == 300
        assert not note(ledger, 299)
        assert note(ledger, 300)


def test_two_processes_that_bring_two_documents_of_one_generation(tmp_path: Path) -> None:
    # Each has its own document; at most one of the two is taken for each generation, by everyone.
    program = CLIMBER.replace("str(generation)", "(sys.argv[2] + str(generation))").replace(
        "range(first, 301, step)", "range(1, 101)"
    )
    running = [
        subprocess.Popen(  # noqa: S603 # our own program
            [sys.executable, "-c", program, str(tmp_path / "ledger.db"), str(first), "1"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for first in (1, 2)
    ]
    results = [process.communicate("go\n")[0].split()[1:] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert set(results[0]) & set(results[1]) == set()
    assert "100" in results[0] + results[1]


def test_threads_that_share_a_ledger(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger, ThreadPoolExecutor(4) as pool:
        barrier = threading.Barrier(4)

        def work(first: int) -> list[int]:
            barrier.wait(60)
            return climb(ledger, first, 120, 4)

        taken = list(pool.map(work, range(1, 5)))
        assert max(max(one, default=0) for one in taken) == 120
        assert ledger.generation(*USE) == 120


# Forks


def in_child(work: Callable[[], object]) -> int:
    """Run ``work`` in a forked child; its exit status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_and_its_parent_share_the_ledger(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        assert note(ledger, 1)
        for generation in range(2, 12, 2):

            def work(generation: int = generation) -> None:
                assert ledger.generation(*USE) == generation - 1
                assert not note(ledger, generation - 2)
                assert note(ledger, generation)
                ledger.close()

            assert in_child(work) == 0
            # What the child has seen binds the parent, whose own connection works on.
            assert ledger.generation(*USE) == generation
            assert not note(ledger, generation - 1)
            assert note(ledger, generation + 1)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forks_while_other_threads_are_in_the_ledger(tmp_path: Path) -> None:
    stop = threading.Event()
    failures: list[BaseException] = []
    other = ("kind", "audience", "invoices")
    with Ledger(tmp_path / "ledger.db") as ledger:

        def work() -> None:
            generation = 0
            try:
                while not stop.is_set():
                    generation += 1
                    note(ledger, generation, other)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            statuses = [
                in_child(lambda n=n: climb(ledger, n, n + 5, 1))  # type: ignore[misc] # bound now
                for n in range(1, 60, 6)
            ]
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert statuses == [0] * 10
        assert failures == []
        assert ledger.generation(*USE) == 60


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_does_not_set_the_clock_back(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.note(USE, 1, b"d" * 32, NOW)

        def work() -> None:
            with pytest.raises(SealError):
                ledger.note(USE, 1, b"d" * 32, NOW - timedelta(hours=2))

        assert in_child(work) == 0
