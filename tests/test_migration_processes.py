"""Migrations as processes that are killed, interrupted and starved, and what their memory takes."""

from __future__ import annotations

import errno
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TypeVar

import pytest

import anykms
from anykms import KeyConf, Keyring
from anykms.cli.failures import ExitCode
from anykms.envelope.stream import Sink, Source
from anykms.errors import ConflictError, InvalidArgumentError
from anykms.migration.engine import Migration
from anykms.migration.files import FileTarget
from anykms.migration.reports import Report
from anykms.migration.steps import HeldKeys
from anykms.migration.targets import Entry, Swap

T = TypeVar("T")
MAIN = "from anykms.cli import main; main()"
PATIENCE = 60
NUMBER = 600
KEYS = ("--from", "old", "--to", "new")


class Shop:
    """A directory of messages under the key old of a local keystore."""

    def __init__(self, base: Path, number: int) -> None:
        self.base = base
        self.number = number
        self.client = anykms.connect(f"local://{base}/keys.db", create=True)
        self.old, self.new = (
            self.client.key(self.client.generate_key(KeyConf(name, "ENCRYPT_DECRYPT")))
            for name in ("old", "new")
        )
        ring = Keyring([self.old])
        (base / "messages").mkdir()
        for index in range(number):
            self.path(index).write_bytes(ring.encrypt(self.plain(index), context={}))

    def path(self, index: int) -> Path:
        return self.base / "messages" / f"{index:05}"

    @staticmethod
    def plain(index: int) -> bytes:
        return b"%d" % index * 20

    def start(self, *arguments: str, limit: int | None = None) -> subprocess.Popen[bytes]:
        def restrict() -> None:
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        return subprocess.Popen(  # noqa: S603 # our own program
            [sys.executable, "-c", MAIN, "migrate", *arguments],
            cwd=self.base,
            env={**os.environ, "ANYKMS_STORE": f"local://{self.base}/keys.db"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=restrict,
        )

    def run(self, *arguments: str, limit: int | None = None) -> tuple[int, bytes, bytes]:
        process = self.start(*arguments, limit=limit)
        out, err = process.communicate(timeout=PATIENCE)
        assert b"Traceback" not in err, err.decode()
        return process.returncode, out, err

    def check(self) -> None:
        """Every message opens with the new key alone, and nothing else lies there."""
        ring = Keyring([self.new])
        for index in range(self.number):
            assert ring.decrypt(self.path(index).read_bytes(), context={}) == self.plain(index)
        assert len(os.listdir(self.base / "messages")) == self.number

    def readable(self) -> None:
        """Every message opens with one of the keys."""
        ring = Keyring([self.old, self.new])
        for index in range(self.number):
            assert ring.decrypt(self.path(index).read_bytes(), context={}) == self.plain(index)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path, NUMBER)
    yield made
    made.client.close()


def test_kill_9_at_any_instant_loses_nothing(shop: Shop) -> None:
    """Killed at random again and again; one undisturbed run ends it, and the way back is whole."""
    before = {index: shop.path(index).read_bytes() for index in range(NUMBER)}
    chance = random.Random()  # noqa: S311 # when to kill
    kills = 0
    while kills < 6:
        process = shop.start("run", *KEYS, "messages", "--rate", "local=2000")
        try:
            process.wait(0.4 + chance.random() * 0.5)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
        finally:
            process.communicate()
    assert kills
    shop.readable()
    code, out, _ = shop.run("run", *KEYS, "messages", "--json")
    report = Report.from_json(out)
    assert (code, report.counts.done, report.counts.walked) == (0, NUMBER, NUMBER)
    shop.check()
    code, out, _ = shop.run(
        "verify", "--from", str(shop.old.info.uri), "--to", "new", "--full", "messages", "--json"
    )
    assert (code, Report.from_json(out).counts.already) == (0, NUMBER)
    assert shop.run("rollback", "messages")[0] == 0
    assert {index: shop.path(index).read_bytes() for index in range(NUMBER)} == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_in_order(shop: Shop, number: signal.Signals) -> None:
    process = shop.start("run", *KEYS, "messages", "--rate", "local=400", "--report", "report.json")
    wait_for(lambda: any(message_moved(shop, index) for index in range(NUMBER)))
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == ExitCode.STOPPED, err.decode()
    assert b"stopping" in err
    report = Report.from_json((shop.base / "report.json").read_bytes())
    assert (report.ending, report.complete) == ("stopped", False)
    assert number.name in str(report.stopped_by)
    assert 0 < report.counts.done < NUMBER
    shop.readable()
    assert not [name for name in os.listdir(shop.base / "messages") if name.startswith(".")]


def test_a_second_interrupt_ends_at_once(shop: Shop) -> None:
    process = shop.start("run", *KEYS, "messages", "--rate", "local=20", "--concurrency", "1")
    wait_for(lambda: (shop.base / "anykms-migration.db.lock").exists())
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert process.returncode in (143, 130, ExitCode.STOPPED)
    shop.readable()


def test_a_terminal_shows_how_far_and_how_fast(shop: Shop) -> None:
    ours, theirs = os.openpty()
    process = subprocess.Popen(  # noqa: S603 # our own program
        [sys.executable, "-c", MAIN, "migrate", "run", *KEYS, "messages", "--rate", "local=400"],
        cwd=shop.base,
        env={**os.environ, "ANYKMS_STORE": f"local://{shop.base}/keys.db", "TERM": "xterm", "COLUMNS": "120"},
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    shown = bytearray()
    with open(ours, "rb", buffering=0) as terminal, suppress(OSError):  # the end of the last holder
        while piece := terminal.read(65536):
            shown += piece
    assert process.wait(PATIENCE) == 0
    assert re.search(rb"migrating.*\d+/600", shown)
    assert re.search(rb"/s, \d+:\d\d:\d\d left", shown)


def message_moved(shop: Shop, index: int) -> bool:
    return str(shop.new.info.uri).encode() in shop.path(index).read_bytes()[:400]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_full_disk_of_the_checkpoint_stops_and_the_next_run_goes_on(shop: Shop) -> None:
    code, out, err = shop.run("run", *KEYS, "messages", limit=200_000)
    assert code == ExitCode.STOPPED, err.decode()
    assert b"checkpoint cannot be written" in err + out
    shop.readable()
    assert shop.run("run", *KEYS, "messages")[0] == 0
    shop.check()


def test_a_full_disk_of_the_target_stops_and_the_next_run_goes_on(tmp_path: Path) -> None:
    shop = Shop(tmp_path, 40)
    large = Keyring([shop.old]).encrypt(bytes(3_000_000), context={})
    shop.path(20).write_bytes(large)
    code, out, err = shop.run("run", *KEYS, "messages", "--json", limit=2_000_000)
    assert code == ExitCode.STOPPED, err.decode()
    report = Report.from_json(out)
    assert "File too large" in str(report.stopped_by)
    assert report.counts.todo
    assert shop.path(20).read_bytes() == large
    assert len(os.listdir(tmp_path / "messages")) == 40
    assert shop.run("run", *KEYS, "messages")[0] == 0
    assert Keyring([shop.new]).decrypt(shop.path(20).read_bytes(), context={}) == bytes(3_000_000)


# Files


def held_open(path: Path, data: bytes) -> None:
    """As a program that rewrites a file in place and keeps it open."""
    with path.open("r+b") as file:
        file.write(data)


def test_writes_in_place_are_not_lost(tmp_path: Path) -> None:
    """Whoever wins, what is there at the end is whole: the writer's last bytes, or ours with nothing written since."""
    path = tmp_path / "a"
    target = FileTarget(tmp_path)
    stop = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        while not stop.is_set():
            written += 1
            held_open(path, b"%08d" % written)

    path.write_bytes(bytes(8) + b"body")
    writer = threading.Thread(target=write)
    writer.start()
    swapped = 0
    for number in range(60):
        start = target.starts(["a"], 8)[0]
        assert start is not None
        if target.swap([Swap("a", start, b"%08x" % number)])[0]:
            swapped += 1
    stop.set()
    writer.join()
    # The last write came after every exchange or was seen by it; nobody wrote since.
    assert target.starts(["a"], 8)[0] in (b"%08d" % written, b"%08x" % 59)
    assert os.listdir(tmp_path) == ["a"]


def test_a_file_that_is_open_for_writing_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old body")
    target = FileTarget(tmp_path)
    with path.open("r+b") as file:
        assert target.swap([Swap("a", b"old", b"new")]) == [False]
        file.write(b"OLD")
    assert path.read_bytes() == b"OLD body"
    assert target.swap([Swap("a", b"OLD", b"new")]) == [True]
    assert os.listdir(tmp_path) == ["a"]


def test_a_replacement_that_comes_too_late_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")

    def write(source: Source, sink: Sink) -> None:
        path.write_bytes(b"other")

    with pytest.raises(ConflictError):
        FileTarget(tmp_path).replace("a", write)
    assert path.read_bytes() == b"other"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("step", ["fsync", "rename", "exchange", "unlink"])
def test_a_crash_at_each_step_of_an_exchange_is_tidied_up(tmp_path: Path, step: str) -> None:
    """The process dies right before or after a step; the next walk leaves one whole file."""
    (tmp_path / "a").write_bytes(b"old body")
    time.sleep(0.05)
    program = (
        "import os, sys; from anykms.migration import files; from anykms.migration.targets import Swap\n"
        "def die(*a, **k): os._exit(9)\n"
        f"step = {step!r}\n"
        "if step == 'exchange': real = files._exchange; files._exchange = lambda *a: (real(*a), die())\n"
        "else: setattr(os, step, die)\n"
        "files.FileTarget(sys.argv[1]).swap([Swap('a', b'old', b'new')])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)  # noqa: S603 # our own program
    assert done.returncode == 9
    assert len(os.listdir(tmp_path)) == 2
    assert list(FileTarget(tmp_path).entries()) == [Entry("a", 8)]
    assert list(FileTarget(tmp_path, tidy=True).entries()) == [Entry("a", 8)]
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() in (b"old body", b"new body")


def test_a_crash_in_a_lost_race_puts_the_other_write_back(tmp_path: Path) -> None:
    """Another program's write came out of the exchange, and the process died before it could put it back."""
    (tmp_path / "a").write_bytes(b"old body")
    time.sleep(0.05)
    program = (
        "import os, sys; from anykms.migration import files; from anykms.migration.targets import Swap\n"
        "real = files._exchange\n"
        "def race(folder, one, other):\n"
        "    with open(sys.argv[1] + '/b', 'wb') as file: file.write(b'newer body')\n"
        "    os.replace(sys.argv[1] + '/b', sys.argv[1] + '/a')\n"
        "    real(folder, one, other); os._exit(9)\n"
        "files._exchange = race\n"
        "files.FileTarget(sys.argv[1]).swap([Swap('a', b'old', b'new')])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)  # noqa: S603 # our own program
    assert done.returncode == 9
    assert (tmp_path / "a").read_bytes() == b"new body"
    assert {entry.id for entry in FileTarget(tmp_path, tidy=True).entries()} == {"a"}
    assert (tmp_path / "a").read_bytes() == b"newer body"
    assert os.listdir(tmp_path) == ["a"]


def test_an_exchange_that_loses_the_race_gives_the_other_write_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anykms.migration import files

    (tmp_path / "a").write_bytes(b"old body")
    time.sleep(0.05)
    real = files._exchange  # pyright: ignore[reportPrivateUsage] # the instant of the race
    races = [b"newer body", b"newest body"]

    def race(folder: int, one: str, other: str) -> bool:
        if races:
            (tmp_path / "b").write_bytes(races.pop(0))
            os.replace(tmp_path / "b", tmp_path / "a")
        return real(folder, one, other)

    monkeypatch.setattr(files, "_exchange", race)
    assert FileTarget(tmp_path).swap([Swap("a", b"old", b"new")]) == [False]
    assert (tmp_path / "a").read_bytes() == b"newest body"
    assert os.listdir(tmp_path) == ["a"]


def test_without_exchange_files_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anykms.migration.files._function", lambda _: None)
    (tmp_path / "a").write_bytes(b"old body")
    assert FileTarget(tmp_path).swap([Swap("a", b"old", b"new")]) == [True]
    assert (tmp_path / "a").read_bytes() == b"new body"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("name", ["../a", "b/../../a", "", "b/", "/etc/passwd", "link/a"])
def test_ids_do_not_lead_out_of_the_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    target = FileTarget(tmp_path / "in")
    if name == "link/a":
        assert target.swap([Swap(name, b"old", b"new")]) == [False]
        assert target.starts([name]) == [None]
    else:
        with pytest.raises(InvalidArgumentError):
            target.swap([Swap(name, b"old", b"new")])
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_path_that_is_too_long_is_said(tmp_path: Path) -> None:
    folder = tmp_path
    for _ in range(6):
        folder = folder / ("d" * 200)
        folder.mkdir()
    (folder / "a").write_bytes(b"x")
    with pytest.raises(InvalidArgumentError, match="further down"):
        list(FileTarget(tmp_path).entries())


# Memory


class Many:
    """A target that lists many copies of one message."""

    def __init__(self, message: bytes, number: int) -> None:
        self._message = message
        self._number = number
        self.name = f"many://{number}"

    def entries(self) -> Iterator[Entry]:
        return (Entry(f"{index:09}", len(self._message)) for index in range(self._number))

    def starts(self, ids: Sequence[str], size: int = 4096) -> Sequence[bytes | None]:
        return [self._message[:size] for _ in ids]

    def reading(self, entry_id: str) -> AbstractContextManager[Source]:
        raise OSError(errno.ENOTSUP, "for its heads only")

    def swap(self, swaps: Sequence[Swap]) -> Sequence[bool]:
        raise OSError(errno.ENOTSUP, "for its heads only")

    def replace(self, entry_id: str, write: Callable[[Source, Sink], T]) -> T:
        raise OSError(errno.ENOTSUP, "for its heads only")


def test_memory_does_not_grow_with_the_entries(tmp_path: Path) -> None:
    shop = Shop(tmp_path, 1)
    message = shop.path(0).read_bytes()
    held = HeldKeys([shop.old], [shop.new])

    def peak(number: int) -> int:
        migration = Migration(
            [Many(message, number)], held, checkpoint=tmp_path / f"{number}.db", concurrency=2
        )
        tracemalloc.start()
        try:
            assert migration.plan().counts.todo == number
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            migration.close()

    peak(500)
    assert peak(10_000) < peak(1000) + 1_000_000
