"""How fast a migration goes: against the keys alone, in several processes, and what a plan of a million takes.

Run: python benchmarks/migration.py [ENTRIES]
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import anykms
from anykms import Key, KeyConf, Keyring
from anykms.envelope.message import head_size
from anykms.envelope.stream import Sink, Source
from anykms.migration.engine import Migration
from anykms.migration.files import FileTarget
from anykms.migration.steps import HeldKeys
from anykms.migration.targets import HEAD, Entry, Swap

T = TypeVar("T")
PROGRAM = "from anykms.cli import main; main()"


class InMemory:
    """Messages in a dict: a place that takes no time of its own."""

    def __init__(self, messages: dict[str, bytes]) -> None:
        self.messages = messages
        self.name = "memory://"

    def entries(self) -> Iterator[Entry]:
        for name, message in self.messages.items():
            yield Entry(name, len(message))

    def starts(self, ids: Sequence[str], size: int = HEAD) -> Sequence[bytes | None]:
        return [self.messages[name][:size] for name in ids]

    def reading(self, entry_id: str) -> AbstractContextManager[Source]:
        raise FileNotFoundError(entry_id)

    def swap(self, swaps: Sequence[Swap]) -> Sequence[bool]:
        for swap in swaps:
            self.messages[swap.id] = swap.new + self.messages[swap.id][len(swap.old) :]
        return [True] * len(swaps)

    def replace(self, entry_id: str, write: Callable[[Source, Sink], T]) -> T:
        raise FileNotFoundError(entry_id)


class Repeated(InMemory):
    """One message listed a million times."""

    def __init__(self, message: bytes, number: int) -> None:
        super().__init__({"": message})
        self._number = number

    def entries(self) -> Iterator[Entry]:
        size = len(self.messages[""])
        return (Entry(f"{index:09}", size) for index in range(self._number))

    def starts(self, ids: Sequence[str], size: int = HEAD) -> Sequence[bytes | None]:
        return [self.messages[""][:size]] * len(ids)


def timed(what: str, number: int, work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    rate = number / (time.perf_counter() - began)
    print(f"{what:58} {rate:10,.0f} /s")
    return rate


def keys_alone(heads: Sequence[bytes], old: Key, new: Key, threads: int) -> float:
    """Rewrap of headers, with nothing read, kept or written."""
    ring, goal = Keyring([old]), Keyring([new])

    def work(part: Sequence[bytes]) -> None:
        for head in part:
            ring.rewrap(head, to=goal)

    def together() -> None:
        running = [threading.Thread(target=work, args=(heads[n::threads],)) for n in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()

    return timed(f"keys alone: rewrap of headers, {threads} threads", len(heads), together)


def main(number: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        client = anykms.connect(f"local://{base}/keys.db", create=True)
        old, new = (
            client.key(client.generate_key(KeyConf(key, "ENCRYPT_DECRYPT"))) for key in ("old", "new")
        )
        ring = Keyring([old])
        messages = {f"{n % 100:02}/{n:06}": ring.encrypt(bytes(1000), context={}) for n in range(number)}
        heads = [message[: head_size(message)] for message in messages.values()]
        alone = max(keys_alone(heads, old, new, threads) for threads in (1, 4))

        def run(target: InMemory | FileTarget, checkpoint: str) -> None:
            move = Migration([target], HeldKeys([old], [new]), checkpoint=base / checkpoint, concurrency=8)
            move.plan()
            began = time.perf_counter()
            report = move.run()
            passed = time.perf_counter() - began
            if report.counts.done != number:
                raise SystemExit(f"only {report.counts.done} of {number} are done")
            move.close()
            rate = number / passed
            print(
                f"{'run after plan, ' + type(target).__name__:58} {rate:10,.0f} /s {rate / alone:6.0%} of keys alone"
            )

        run(InMemory(dict(messages)), "memory.db")
        for shards in (1, 2, 4):
            folder = base / f"m{shards}"
            for part in range(100):
                (folder / f"{part:02}").mkdir(parents=True)
            for path, message in messages.items():
                (folder / path).write_bytes(message)
            if shards == 1:
                run(FileTarget(folder), "files.db")
                continue
            environment = {**os.environ, "ANYKMS_STORE": f"local://{base}/keys.db"}
            command = [sys.executable, "-c", PROGRAM, "migrate", "run", "--from", "old", "--to", "new"]
            command += ["--checkpoint", str(base / f"{shards}.db"), "--concurrency", "8", str(folder)]

            def start(
                shard: str, command: list[str] = command, env: dict[str, str] = environment
            ) -> subprocess.Popen[bytes]:
                return subprocess.Popen([*command, "--shard", shard], env=env, stdout=subprocess.DEVNULL)

            def together(shards: int = shards) -> None:
                for process in [start(f"{n + 1}/{shards}") for n in range(shards)]:
                    if process.wait() != 0:
                        raise SystemExit("a shard failed")

            timed(f"run with plan and start, FileTarget, {shards} shards", number, together)

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for count in (1_000, 1_000_000):
            move = Migration(
                [Repeated(messages["00/000000"], count)],
                HeldKeys([old], [new]),
                checkpoint=base / f"{count}.db",
            )
            timed(f"plan of {count:,} entries", count, move.plan)
            move.close()
            now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            print(
                f"{'  highest memory of the process, MiB more than before':58} {(now - before) / 1024:10,.1f}"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
