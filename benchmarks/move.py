"""The whole move: a directory and a PostgreSQL table go from AWS KMS to Azure Key Vault (both emulated) under load.

A writer and a reader use the same messages all the while. The run is killed three times, throttled, and meets a full
disk; then AWS is cut off. What is counted at the end is counted here, not by the command.

    python benchmarks/move.py --messages 100000 --rows 100000
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import psycopg

from anykms import DataKeyCache, Keyring, KMSClient, connect, inspect
from anykms.errors import KMSError
from anykms.keys import ConnectionURI

CONTEXT = {"app": "shop"}
_HEAD = 4096
_LIMIT = 3
"""Clean runs that the move may take after all disturbances."""


# The clouds


def _play(cloud: str, pipe: Connection) -> None:
    """One emulator in a process of its own, told through a pipe what to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from anykms_emulators.aws import AWSEmulator
    from anykms_emulators.azure import AzureEmulator

    with AWSEmulator() if cloud == "aws" else AzureEmulator() as emulator:
        pipe.send((emulator.uri, dict(emulator.environment)))
        while True:
            word = pipe.recv()
            if word == "throttle":
                emulator.faults.add(kind="throttle", times=None, retry_after=1)
            if word == "calm":
                emulator.faults.clear()
            pipe.send(emulator.requests.total)
            if word == "stop":
                return


class Cloud:
    """A cloud that can be throttled and cut off."""

    def __init__(self, name: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._lock = threading.Lock()
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_play, args=(name, theirs), daemon=True)
        self._process.start()
        self.uri, environment = self._pipe.recv()
        os.environ.update(environment)

    def storm(self, seconds: float) -> None:
        """Refuse every call for a while."""
        self._tell("throttle")
        threading.Timer(seconds, self._tell, ["calm"]).start()

    def calls(self) -> int:
        """Requests so far."""
        return self._tell("count")

    def cut(self) -> None:
        """Nobody reaches it any more."""
        self._tell("stop")
        self._process.join()

    def _tell(self, word: str) -> int:
        with self._lock:
            self._pipe.send(word)
            return int(self._pipe.recv())

    def client(self) -> KMSClient:
        """A connection of the application's own."""
        where = ConnectionURI.parse(self.uri)
        return connect(where, allow_insecure_endpoint=True) if where.options else connect(where)


# The application


class Shelf(Protocol):
    """Where the application keeps its messages, by number."""

    def get(self, number: int) -> bytes: ...

    def put(self, number: int, message: bytes) -> None: ...

    def all(self) -> Iterator[tuple[int, bytes]]: ...


class Folder:
    """Files, replaced by rename."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, number: int) -> Path:
        """Where the message of that number lies."""
        return self._root / f"{number % 100:02}" / f"{number}.anykms"

    def get(self, number: int) -> bytes:
        return self.path(number).read_bytes()

    def put(self, number: int, message: bytes) -> None:
        path = self.path(number)
        path.parent.mkdir(exist_ok=True)
        # The dotted name of a file in the making: the migration passes such files over.
        temporary = path.with_name(f".{path.name}.{threading.get_ident()}.tmp")
        temporary.write_bytes(message)
        temporary.replace(path)

    def all(self) -> Iterator[tuple[int, bytes]]:
        for path in self._root.rglob("*.anykms"):
            if not path.name.startswith("."):
                yield int(path.stem), path.read_bytes()


class Table:
    """Rows of PostgreSQL; one connection a thread."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._local = threading.local()

    @property
    def _connection(self) -> psycopg.Connection[tuple[Any, ...]]:
        if not hasattr(self._local, "connection"):
            self._local.connection = psycopg.connect(self._url, autocommit=True)
        connection: psycopg.Connection[tuple[Any, ...]] = self._local.connection
        return connection

    def create(self) -> None:
        self._connection.execute("CREATE TABLE cards (id bigint PRIMARY KEY, message bytea NOT NULL)")

    def fill(self, rows: Iterator[tuple[int, bytes]]) -> None:
        with self._connection.cursor().copy("COPY cards (id, message) FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["int8", "bytea"])
            for row in rows:
                copy.write_row(row)

    def get(self, number: int) -> bytes:
        row = self._connection.execute("SELECT message FROM cards WHERE id = %s", (number,)).fetchone()
        if row is None:
            raise FileNotFoundError(f"row {number} is gone")
        return bytes(row[0])

    def put(self, number: int, message: bytes) -> None:
        self._connection.execute(
            "INSERT INTO cards VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET message = excluded.message",
            (number, message),
        )

    def all(self) -> Iterator[tuple[int, bytes]]:
        with psycopg.connect(self._url) as connection, connection.cursor("walk") as cursor:
            cursor.itersize = 1000
            for number, message in cursor.execute("SELECT id, message FROM cards"):
                yield int(number), bytes(message)


def _plaintext(number: int, version: int) -> bytes:
    return json.dumps({"number": number, "version": version, "pad": "x" * 64}).encode()


@dataclass
class Application:
    """A writer and a reader. Every read must give what was written last, or something newer."""

    shelves: Mapping[str, tuple[Shelf, int]]
    ring: Keyring
    written: dict[tuple[str, int], int] = field(default_factory=dict[tuple[str, int], int])
    counts: Counter[str] = field(default_factory=Counter[str])
    failures: list[str] = field(default_factory=list[str])
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list[threading.Thread])

    def start(self) -> None:
        for work in (self._write, self._read):
            thread = threading.Thread(target=self._loop, args=(work,))
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _loop(self, work: Callable[[random.Random], None]) -> None:
        chance = random.Random(work.__name__)  # noqa: S311 # which message, no secret
        while not self._stop.wait(0.005):
            try:
                work(chance)
            except (KMSError, OSError, psycopg.Error) as error:
                self.failures.append(f"{work.__name__}: {type(error).__name__}: {error}")

    def _choose(self, chance: random.Random) -> tuple[str, Shelf, int]:
        name = chance.choice(list(self.shelves))
        shelf, count = self.shelves[name]
        return name, shelf, chance.randrange(count)

    def _write(self, chance: random.Random) -> None:
        name, shelf, number = self._choose(chance)
        if chance.random() < 0.1:  # a new one
            number = self.shelves[name][1] + self.counts["new " + name]
            self.counts["new " + name] += 1
        version = self.written.get((name, number), 0) + 1
        message = self.ring.encrypt(
            _plaintext(number, version), context=CONTEXT, aad=f"{name}/{number}".encode()
        )
        shelf.put(number, message)
        self.written[name, number] = version
        self.counts["writes"] += 1

    def _read(self, chance: random.Random) -> None:
        name, shelf, number = self._choose(chance)
        least = self.written.get((name, number), 0)
        found = self.ring.decrypt(shelf.get(number), context=CONTEXT, aad=f"{name}/{number}".encode())
        if json.loads(found)["version"] < least:
            self.failures.append(f"{name}/{number} went back in time")
        self.counts["reads"] += 1


# The move


@dataclass
class Move:
    """The command, run and disturbed."""

    arguments: Sequence[str]
    folder: Path
    log: list[str] = field(default_factory=list[str])
    began: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        """A line of the log, with the time since the beginning."""
        self.log.append(f"{time.monotonic() - self.began:8.1f} s  {text}")
        print(self.log[-1], flush=True)

    def command(self, word: str, *more: str) -> list[str]:
        """One of plan, run, verify, rollback on all that is moved."""
        return [
            str(Path(sys.executable).with_name("anykms")),
            "--allow-insecure-endpoint",
            "migrate",
            word,
            *more,
            *self.arguments,
        ]

    def run(self, word: str, *more: str, limit: int | None = None) -> int:
        """To its end; its output goes to the log when it fails."""
        done = subprocess.run(
            self.command(word, *more),
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=None
            if limit is None
            else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        self.say(f"{word} {' '.join(more)}: exit {done.returncode} {' '.join(last)[:200]}")
        return done.returncode

    def killed(self, seconds: float, *more: str) -> None:
        """A run that is killed after a while."""
        process = subprocess.Popen(
            self.command("run", *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(timeout=seconds)
            self.say(f"run: ended by itself before it could be killed (exit {process.returncode})")
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self.say(f"run: killed after {seconds:.1f} s")


def _census(shelf: Shelf) -> Counter[str]:
    """Which keys the messages name, by looking at each."""
    found: Counter[str] = Counter()
    for _, message in shelf.all():
        for recipient in inspect(message[:_HEAD]).recipients:
            found[str(recipient.uri.without_version())] += 1
    return found


@contextmanager
def _postgresql(folder: Path) -> Generator[str]:
    """A server of its own on a socket in ``folder``, without durability: it lives as long as this run."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
    data = folder / "postgresql"
    data.mkdir()
    account: dict[str, Any] = {}
    if os.geteuid() == 0:
        import pwd

        found = pwd.getpwnam("postgres")
        os.chown(data, found.pw_uid, found.pw_gid)
        folder.chmod(0o755)
        account = {"user": found.pw_uid, "group": found.pw_gid}
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(
        [binaries / "initdb", "-D", data, "-A", "trust", "-U", "anykms", "-N"], check=True, **quiet, **account
    )
    server = subprocess.Popen(
        [binaries / "postgres", "-D", data, "-k", data, "-c", "listen_addresses=", "-F"], **quiet, **account
    )
    try:
        url = f"postgresql://anykms@/postgres?host={data}"
        for _ in range(200):
            try:
                psycopg.connect(url).close()
                break
            except psycopg.OperationalError:
                time.sleep(0.05)
        yield url
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=2000, help="files to move")
    parser.add_argument("--rows", type=int, default=2000, help="rows of PostgreSQL to move")
    parser.add_argument("--per-data-key", type=int, default=10, help="messages that share a data key")
    parser.add_argument("--kill-after", type=float, default=3.0, help="seconds until a run is killed, about")
    parser.add_argument("--json", metavar="FILE", help="write what was found there")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = move(stack, folder, options)
    print(json.dumps(found, indent=2))
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(0 if not found["problems"] else 1)


def move(stack: ExitStack, folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Build, disturb, move, cut off, count."""
    aws, azure = Cloud("aws"), Cloud("azure")
    old_client, new_client = stack.enter_context(aws.client()), stack.enter_context(azure.client())
    old = old_client.key(old_client.generate_key(_conf("shop-aws")))
    new = new_client.key(new_client.generate_key(_conf("shop-azure")))

    url = stack.enter_context(_postgresql(folder))
    files, table = Folder(folder / "messages"), Table(url)
    (folder / "messages").mkdir()
    table.create()
    shelves: dict[str, tuple[Shelf, int]] = {
        "files": (files, options.messages),
        "rows": (table, options.rows),
    }
    if not options.rows:
        del shelves["rows"]
    maker = Keyring([old], cache=DataKeyCache(max_messages=options.per_data_key))
    for number in range(options.messages):
        files.put(
            number, maker.encrypt(_plaintext(number, 0), context=CONTEXT, aad=f"files/{number}".encode())
        )
    table.fill(
        (number, maker.encrypt(_plaintext(number, 0), context=CONTEXT, aad=f"rows/{number}".encode()))
        for number in range(options.rows)
    )

    checkpoint = folder / "checkpoint.db"
    where = url.replace("postgresql://", "postgresql+psycopg://")
    work = Move(
        [
            *("--store", aws.uri, "--store", azure.uri, "--from", "shop-aws", "--to", "shop-azure"),
            *("--checkpoint", str(checkpoint), str(folder / "messages")),
            *(
                ["--sql", where, "--table", "cards", "--id", "id", "--column", "message"]
                if options.rows
                else []
            ),
        ],
        folder,
    )
    work.say(f"{options.messages} files and {options.rows} rows under shop-aws")

    # Every reader holds both keys before the first message moves.
    cache = DataKeyCache(max_messages=options.per_data_key)
    application = Application(shelves, Keyring([old], decrypt_only=[new], cache=cache))
    application.start()
    problems: list[str] = []
    if work.run("plan", "--report", str(folder / "plan.json")) != 0:
        problems.append("plan failed")
    # The emulators have no quota, which a run would keep to.
    rates = ["--rate", "awskms=100000", "--rate", "azurekms=100000"]  # of which a proof needs the latter
    began, before = time.monotonic(), azure.calls()
    for _ in range(3):
        work.killed(options.kill_after * random.uniform(0.7, 1.3), *rates)  # noqa: S311 # no secret
    threading.Timer(options.kill_after, aws.storm, [5.0]).start()
    threading.Timer(options.kill_after, azure.storm, [5.0]).start()
    work.say(f"in {options.kill_after} s both clouds refuse every call for 5 s")
    work.killed(options.kill_after + 10, *rates)
    size = checkpoint.stat().st_size if checkpoint.exists() else 4096
    work.run("run", *rates, limit=size + 16384)
    # The last rollout: writers use the new key, readers keep both. A run ends when no writer uses the old one.
    application.stop()
    second = Application(shelves, Keyring([new], decrypt_only=[old], cache=cache), application.written)
    second.counts.update({name: n for name, n in application.counts.items() if name.startswith("new ")})
    second.start()
    for _ in range(_LIMIT):
        if work.run("run", *rates, "--report", str(folder / "run.json")) == 0:
            break
    else:
        problems.append("the run did not end")
    seconds = time.monotonic() - began
    second.stop()
    work.say("AWS is cut off")
    calls = {"aws": aws.calls(), "azure": azure.calls() - before}
    aws.cut()
    arguments = [word for word in work.arguments if word != aws.uri]
    at = arguments.index("--from")
    del arguments[at : at + 2]
    at = arguments.index("--checkpoint")
    del arguments[at : at + 2]
    arguments.remove("--store")
    arguments += ["--from", str(old.info.uri)]
    verify = Move(arguments, folder, work.log, work.began)
    if verify.run("verify", *rates[2:], "--report", str(folder / "verify.json")) != 0:
        problems.append("verify failed")

    # Counted here: every message opens with the new key alone, and is the one that was written last.
    alone = Keyring([new], cache=DataKeyCache())
    census: Counter[str] = Counter()
    opened = 0
    for name, (shelf, count) in shelves.items():
        census += _census(shelf)
        seen = 0
        for number, message in shelf.all():
            try:
                plain = json.loads(alone.decrypt(message, context=CONTEXT, aad=f"{name}/{number}".encode()))
            except KMSError as error:
                problems.append(f"{name}/{number}: {type(error).__name__}")
                continue
            if plain["version"] != application.written.get((name, number), 0):
                problems.append(f"{name}/{number} is version {plain['version']}")
            seen += 1
        if seen != count + second.counts["new " + name]:
            problems.append(f"{name}: {seen} messages, not {count + second.counts['new ' + name]}")
        opened += seen
    problems += application.failures + second.failures
    if set(census) != {str(new.info.uri)} or census.total() != opened:
        problems.append(f"the census is {dict(census)}, opened are {opened}")
    report = json.loads((folder / "verify.json").read_text())
    return {
        "messages": opened,
        "census": dict(census),
        "seconds": round(seconds, 1),
        "reads": application.counts["reads"] + second.counts["reads"],
        "writes": application.counts["writes"] + second.counts["writes"],
        "calls": calls,
        "problems": problems[:20],
        "log": work.log,
        "report": report,
    }


def _conf(name: str) -> Any:
    from anykms import KeyConf

    return KeyConf(name, "ENCRYPT_DECRYPT")


if __name__ == "__main__":
    main()
