"""Migrations of directories: census, run, proof, way back; every mode; what is reported and left alone."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import anykms
from anykms import Key, KeyConf, Keyring, KMSClient
from anykms.cli.application import application
from anykms.cli.failures import ExitCode
from anykms.envelope.message import head_size
from anykms.errors import InvalidArgumentError, KeyDisabledError, KeyNotAllowedError, UnavailableError
from anykms.migration.census import Mode
from anykms.migration.checkpoint import Shard, bucket_of
from anykms.migration.engine import Migration
from anykms.migration.files import FileTarget
from anykms.migration.progress import Progress
from anykms.migration.reports import Report, schema
from anykms.migration.steps import Bindings, HeldKeys, NamedKeys
from anykms_emulators.aws import AWSEmulator
from anykms_emulators.azure import AzureEmulator
from anykms_local import LocalProvider

CONTEXT = {"tenant": "42"}


@dataclass
class World:
    """A directory of messages, and local keys old, new and third."""

    base: Path
    client: KMSClient
    keys: Mapping[str, Key]
    plain: dict[str, bytes] = field(default_factory=dict[str, bytes])

    @property
    def folder(self) -> Path:
        return self.base / "messages"

    def ring(self, *names: str) -> Keyring:
        return Keyring([self.keys[name] for name in names])

    def write(self, name: str, *keys: str, plain: bytes | None = None, **binding: Any) -> Path:
        """A message of its own plaintext, written as applications do: beside, then renamed."""
        self.plain[name] = plain if plain is not None else f"plain {name!a}".encode() * 3
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        given: dict[str, Any] = {"context": CONTEXT, "aad": os.fsencode(name), **binding}
        data = self.ring(*(keys or ("old",))).encrypt(self.plain[name], **given)
        temporary = path.with_name(f"{path.name}.part")
        temporary.write_bytes(data)
        temporary.rename(path)
        return path

    def fill(self, number: int, *keys: str) -> None:
        for index in range(number):
            self.write(f"{index % 5}/{index}", *keys)

    def read(self, name: str, *keys: str, context: Mapping[str, str] = CONTEXT) -> bytes:
        return self.ring(*keys).decrypt((self.folder / name).read_bytes(), context=context, aad=name.encode())

    def check_all(self, *keys: str) -> None:
        """Each message opens through each of the keys alone."""
        for name, plain in self.plain.items():
            for key in keys:
                assert self.read(name, key) == plain

    def move(
        self, old: tuple[str, ...] = ("old",), new: tuple[str, ...] = ("new",), **options: Any
    ) -> Migration:
        held = HeldKeys([self.keys[name] for name in old], [self.keys[name] for name in new])
        given: dict[str, Any] = {"checkpoint": self.base / "migration.db", "concurrency": 4, **options}
        return Migration([FileTarget(self.folder, tidy=True)], held, **given)

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with anykms.connect(f"local://{tmp_path}/keys.db", create=True) as client:
        keys = {
            name: client.key(client.generate_key(KeyConf(name, "ENCRYPT_DECRYPT")))
            for name in ("old", "new", "third")
        }
        (tmp_path / "messages").mkdir()
        yield World(tmp_path, client, keys)


def total(report: Report) -> int:
    """All parts of what was walked."""
    counts = report.counts
    return (
        counts.nothing
        + counts.todo
        + counts.done
        + counts.already
        + counts.back
        + sum(counts.reported.values())
        + sum(counts.failed.values())
    )


# The whole way


def test_messages_of_one_data_key_cost_one_call(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Keyring([world.keys["old"]], cache=anykms.DataKeyCache())
    for number in range(50):
        world.plain[f"{number}"] = b"plain %d" % number
        sealed = ring.encrypt(world.plain[f"{number}"], context=CONTEXT, aad=b"%d" % number)
        (world.folder / f"{number}").write_bytes(sealed)
    asked: list[str] = []
    for name in ("wrap", "unwrap"):
        original = getattr(LocalProvider, name)

        def counted(*given: Any, name: str = name, original: Callable[..., Any] = original) -> Any:
            asked.append(name)
            return original(*given)

        monkeypatch.setattr(LocalProvider, name, counted)
    move = world.move(concurrency=1)
    assert move.run().counts.done == 50
    assert move.verify().counts.already == 50
    # Before the run the new key is tried out, once each way.
    assert sorted(asked) == ["unwrap"] * 3 + ["wrap"] * 2
    world.check_all("new")


def test_a_plan_counts_and_changes_nothing(world: World) -> None:
    world.fill(20)
    world.fill(5, "new")
    world.write("both", "old", "third")
    (world.folder / "readme").write_text("no message")
    before = world.files()
    report = world.move().plan(prove_claims=True)
    assert world.files() == before
    counts = report.counts
    assert (counts.walked, counts.messages, counts.nothing) == (22, 21, 1)
    assert (counts.todo, counts.already, counts.reported) == (15, 5, {"keys_missing": 1})
    assert total(report) == 22
    assert (report.verified, report.complete, report.ending) == ("census", True, "left")
    used = {use.key.split("/")[3]: (use.entries, use.opened) for use in report.keys}
    assert used == {"old": (16, 15), "new": (5, 5), "third": (1, 0)}
    assert {use.key.split("/")[4] for use in report.keys} == {"1"}  # the version
    sizes = {use.key.split("/")[3]: use.bytes for use in report.keys}
    assert sizes["new"] == sum(len(before[f"{number}/{number}"]) for number in range(5))
    calls = {(call.kind, call.calls) for call in report.calls}
    assert calls == {("unwrap", 15), ("wrap", 15)}


def test_messages_move_prove_and_move_back(world: World) -> None:
    world.fill(300)
    world.write("large", plain=os.urandom(3_000_000))
    world.write("empty", plain=b"")
    before = world.files()
    move = world.move()
    report = move.run()
    assert report.ending == "done"
    assert (report.counts.walked, report.counts.done) == (302, 302)
    world.check_all("new")
    assert world.files().keys() == before.keys()
    bodies = {name: data[-72:] for name, data in world.files().items()}
    assert bodies == {name: data[-72:] for name, data in before.items()}
    # Again: nothing to do.
    assert move.run().counts.done == 302
    world.client.disable_key(world.keys["old"].info)
    proof = world.move(bindings=Bindings(aad_from="test_migration_hooks:aad_of")).verify(full=True)
    assert (proof.ending, proof.verified, proof.counts.already) == ("done", "full", 302)
    assert proof.counts.with_old_key == 0
    back = move.rollback()
    assert (back.ending, back.counts.back) == ("done", 302)
    assert world.files() == before


@pytest.fixture(autouse=True)
def hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the caller's, as PYTHONPATH would bring it."""
    folder = tmp_path / "hooks"
    folder.mkdir()
    (folder / "test_migration_hooks.py").write_text(
        "def aad_of(target, entry_id):\n    return entry_id.encode()\n"
        "def user_of(target, entry_id):\n    return {'user': entry_id.rpartition('/')[2]}\n"
        "def broken(target, entry_id):\n    raise KeyError(entry_id)\n"
    )
    monkeypatch.setattr("sys.path", [str(folder), *sys.path])


def test_a_single_file_is_a_target(world: World) -> None:
    path = world.write("one")
    target = FileTarget(path)
    held = HeldKeys([world.keys["old"]], [world.keys["new"]])
    move = Migration([target], held, checkpoint=world.base / "one.db")
    assert move.run().counts.done == 1
    assert world.read("one", "new") == world.plain["one"]


def test_a_proof_finds_what_was_not_moved(world: World) -> None:
    world.fill(10, "new")
    world.write("left", "old")
    world.write("half", "old", "new")
    world.write("stranger", "third")
    damaged = world.write("damaged", "new")
    damaged.write_bytes(damaged.read_bytes()[:60])
    torn = world.write("torn", "new")
    torn.write_bytes(torn.read_bytes()[:-1])
    report = world.move(bindings=Bindings(aad_from="test_migration_hooks:aad_of")).verify(full=True)
    assert report.ending == "left"
    assert report.counts.reported == {
        "old_key_named": 2,
        "other_keys": 1,
        "damaged": 1,
        "not_authentic": 1,
    }
    assert report.counts.with_old_key == 2
    assert {waiting.id for waiting in report.waiting} == {"left", "half", "stranger", "damaged", "torn"}
    assert world.move().verify().counts.reported["old_key_named"] == 2


def test_a_rotated_key_counts_as_versions(world: World) -> None:
    world.write("a")
    world.client.rotate_key(world.keys["old"].info)
    world.write("b")
    report = world.move().plan()
    assert [use.key.rpartition("/")[2] for use in report.keys] == ["1", "2"]
    assert world.move().run().counts.done == 2


# Modes


def test_a_key_is_added_and_the_old_one_removed(world: World) -> None:
    world.fill(12)
    assert world.move(mode=Mode.ADD, checkpoint=world.base / "add.db").run().ending == "done"
    world.check_all("old", "new")
    proof = world.move(mode=Mode.ADD).verify()
    assert (proof.ending, proof.counts.already) == ("done", 12)
    removal = world.move(mode=Mode.REMOVE, checkpoint=world.base / "remove.db")
    assert removal.run().ending == "done"
    world.check_all("new")
    for name in world.plain:
        with pytest.raises(KeyNotAllowedError):
            world.read(name, "old")


def test_the_last_recipient_is_not_removed(world: World) -> None:
    world.write("only", "old")
    world.write("two", "old", "new")
    report = world.move(mode=Mode.REMOVE).run()
    assert (report.ending, report.counts.reported, report.counts.done) == ("left", {"last_recipient": 1}, 1)
    assert world.read("only", "old") == world.plain["only"]


def test_a_recipient_that_does_not_answer_is_not_left_alone(world: World) -> None:
    world.write("two", "old", "new")
    world.client.disable_key(world.keys["new"].info)
    before = world.files()
    with pytest.raises(KeyDisabledError):
        world.move(mode=Mode.REMOVE).run()
    with pytest.raises(KeyDisabledError):
        world.move(checkpoint=world.base / "other.db").run()
    assert world.files() == before


def test_one_key_on_both_sides_is_refused(world: World) -> None:
    with pytest.raises(InvalidArgumentError, match="both"):
        world.move(("old",), ("old", "new"))


# What is left alone


def test_context_that_is_not_given_is_reported_and_then_given(world: World) -> None:
    world.fill(3)
    for user in ("7", "8"):
        world.write(f"u/{user}", context={**CONTEXT, "user": user}, required=["user"])
    report = world.move().run()
    assert (report.counts.done, report.counts.reported) == (3, {"context_missing": 2})
    assert report.ending == "left"
    assert "--context" in report.waiting[0].advice
    wrong = world.move(bindings=Bindings(context={"user": "7"})).run()
    assert (wrong.counts.done, wrong.counts.reported) == (4, {"not_authentic": 1})
    right = world.move(bindings=Bindings(context_from="test_migration_hooks:user_of")).run()
    assert (right.ending, right.counts.done) == ("done", 5)
    assert world.read("u/8", "new", context={**CONTEXT, "user": "8"}) == world.plain["u/8"]
    proof = world.move(bindings=Bindings(context_from="test_migration_hooks:user_of")).verify()
    assert (proof.ending, proof.counts.already) == ("done", 5)


def test_a_failing_hook_is_reported(world: World) -> None:
    world.write("u", context={"user": "7"}, required=["user"])
    report = world.move(bindings=Bindings(context_from="test_migration_hooks:broken")).run()
    assert report.counts.reported == {"hook_failed": 1}
    with pytest.raises(InvalidArgumentError, match="cannot be imported"):
        Bindings(context_from="test_migration_hooks:absent")


def test_garbage_is_told_apart(world: World) -> None:
    good = world.write("good").read_bytes()
    (world.folder / "empty").write_bytes(b"")
    (world.folder / "text").write_text("to whom it may concern")
    (world.folder / "start").write_bytes(good[:5])
    (world.folder / "cut").write_bytes(good[:40])
    (world.folder / "later").write_bytes(good[:7] + b"\x02" + good[8:])
    flipped = bytearray(good)
    flipped[head_size(good) - 1] ^= 1
    (world.folder / "flipped").write_bytes(bytes(flipped))
    world.write("stranger", "third")
    before = world.files()
    report = world.move().run()
    assert report.counts.reported.keys() <= {"damaged", "unsupported", "other_keys", "not_authentic"}
    assert report.counts.reported["unsupported"] == report.counts.reported["other_keys"] == 1
    assert (report.counts.done, report.counts.nothing, report.counts.walked) == (1, 3, 8)
    assert total(report) == 8
    after = world.files()
    assert {name for name in before if before[name] != after[name]} == {"good"}


def test_names_of_every_kind(world: World) -> None:
    for name in ("with space", "caf\xe9", "line\nbreak", "back\\slash", "\udce9raw", "-dash"):
        world.write(name, aad=b"")
    report = world.move().run()
    assert (report.ending, report.counts.done) == ("done", 6)
    assert world.move().verify().ending == "done"


def test_links_are_not_followed(world: World) -> None:
    outside = world.base / "outside"
    outside.mkdir()
    message = world.ring("old").encrypt(b"x", context={})
    (outside / "a").write_bytes(message)
    (world.folder / "directory").symlink_to(outside)
    (world.folder / "file").symlink_to(outside / "a")
    os.mkfifo(world.folder / "pipe")
    report = world.move().run()
    assert report.counts.walked == 0
    assert (outside / "a").read_bytes() == message


def test_mode_and_owner_are_kept(world: World) -> None:
    path = world.write("a")
    path.chmod(0o640)
    os.setxattr(path, "user.origin", b"scanner")
    world.move().run()
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.getxattr(path, "user.origin") == b"scanner"


# The checkpoint


def test_the_checkpoint_is_private_and_holds_no_plaintext(world: World) -> None:
    world.write("a", plain=b"4111 1111 1111 1111")
    world.move().run()
    for path in world.base.glob("migration.db*"):
        assert path.stat().st_mode & 0o077 == 0
        assert b"4111 1111" not in path.read_bytes()


def test_a_checkpoint_serves_one_migration(world: World) -> None:
    world.fill(2)
    world.move().plan()
    with pytest.raises(InvalidArgumentError, match="another migration"):
        world.move(new=("third",)).plan()
    with pytest.raises(InvalidArgumentError, match="within the target"):
        world.move(checkpoint=world.folder / "migration.db")


def test_two_processes_do_not_work_on_the_same_entries(world: World) -> None:
    world.fill(2)
    world.move().plan()
    program = (
        "import sys; from anykms.migration.checkpoint import Checkpoint, Shard\n"
        "with Checkpoint(sys.argv[1], None) as found:\n"
        "    found.hold(Shard(2, 2)); print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(  # noqa: S603 # our own program
        [sys.executable, "-c", program, str(world.base / "migration.db")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        for shard in (None, Shard(2, 2), Shard(3, 4)):
            with pytest.raises(UnavailableError, match="another process"):
                world.move(shard=shard).plan()
        assert world.move(shard=Shard(1, 2)).plan().shard == "1/2"
        other.communicate()
    assert world.move().plan().complete


def test_shards_share_a_checkpoint_and_leave_nothing_out(world: World) -> None:
    world.fill(60)
    reports = [world.move(shard=Shard(number, 3)).run() for number in (1, 2, 3)]
    assert sum(report.counts.done for report in reports) == 60
    assert all(0 < report.counts.done < 60 and not report.complete for report in reports)
    world.check_all("new")
    whole = world.move().run()
    assert (whole.counts.done, whole.complete) == (60, True)
    assert world.move().rollback().counts.back == 60


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/9999", "-1/2"])
def test_bad_shards_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        Shard.parse(text)


def test_shards_cover_every_bucket_once() -> None:
    for count in (1, 3, 7, 4096):
        ranges = [Shard(number, count).range for number in range(1, count + 1)]
        assert ranges[0][0] == 0
        assert ranges[-1][1] == 2**32
        assert all(one[1] == other[0] for one, other in pairwise(ranges))
    assert 0 <= bucket_of("file:///a", "b") < 2**32


def test_keys_by_name_can_be_sent_to_another_process(world: World) -> None:
    world.fill(3)
    uri = f"local://{world.base}/keys.db"
    named = NamedKeys(((uri, str(world.keys["old"].info.uri)),), ((uri, str(world.keys["new"].info.uri)),))
    again = pickle.loads(pickle.dumps((FileTarget(world.folder), named)))  # noqa: S301 # our own
    move = Migration([again[0]], again[1], checkpoint=world.base / "named.db")
    assert move.run().counts.done == 3
    world.check_all("new")


# Others at work


def test_writers_and_readers_go_on_meanwhile(world: World) -> None:
    """A writer with the old key and a reader with both: no failed read, no lost write."""
    names = [f"{index % 5}/{index}" for index in range(400)]
    world.fill(400)
    latest = dict(world.plain)
    stop = threading.Event()
    failures: list[BaseException] = []
    reads = 0

    def write() -> None:
        number = 0
        while not stop.is_set():
            name = names[number * 7 % 400]
            plain = f"rewritten {number}".encode()
            world.write(name, plain=plain)
            latest[name] = plain
            number += 1

    def read() -> None:
        nonlocal reads
        both = world.ring("old", "new")
        number = 0
        while not stop.is_set():
            name = names[number * 13 % 400]
            both.decrypt((world.folder / name).read_bytes(), context=CONTEXT, aad=name.encode())
            reads = number = number + 1

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in (write, read)]
    for thread in threads:
        thread.start()
    timer = threading.Timer(1.5, stop.set)
    timer.start()
    report = world.move().run()
    stop.set()
    timer.cancel()
    for thread in threads:
        thread.join()
    assert not failures
    assert reads
    assert report.ending in ("done", "stopped")  # stopped where the writer never ended
    report = world.move().run()
    assert report.ending == "done"
    world.plain = latest
    world.check_all("new")
    assert not [name for name in world.files() if ".anykms-" in name]


def test_what_was_written_since_is_not_rolled_back(world: World) -> None:
    world.fill(5)
    world.move().run()
    world.write("0/0", "new")
    (world.folder / "1/1").unlink()
    report = world.move().rollback()
    assert (report.counts.back, report.counts.reported) == (3, {"changed_since": 1})
    assert report.ending == "left"
    assert world.read("0/0", "new") == world.plain["0/0"]
    assert world.read("2/2", "old") == world.plain["2/2"]


def test_a_stop_ends_after_the_batches_in_work(world: World) -> None:
    world.fill(400)

    def stop(progress: Progress) -> None:
        if progress.phase == "migrating":
            running.stop("enough")

    running = world.move(rates={"local": 200}, on_progress=stop)
    report = running.run()
    assert (report.ending, report.stopped_by, report.complete) == ("stopped", "enough", False)
    assert report.counts.todo > 0
    report = world.move().run()
    assert (report.ending, report.counts.done) == ("done", 400)
    world.check_all("new")


# Clouds


@pytest.fixture(scope="module")
def clouds() -> Iterator[tuple[AWSEmulator, AzureEmulator]]:
    with AWSEmulator() as aws, AzureEmulator() as azure:
        yield aws, azure


@dataclass
class Move:
    """A directory under an AWS key, to go to an Azure key."""

    folder: Path
    aws: AWSEmulator
    azure: AzureEmulator
    held: HeldKeys
    plain: dict[str, bytes]

    def migration(self, **options: Any) -> Migration:
        given: dict[str, Any] = {"rates": {"azurekms": 1e6}, "patience": 20.0, **options}
        return Migration(
            [FileTarget(self.folder)], self.held, checkpoint=self.folder.parent / "m.db", **given
        )


@pytest.fixture
def move(clouds: tuple[AWSEmulator, AzureEmulator], tmp_path: Path) -> Iterator[Move]:
    aws, azure = clouds
    name = f"k{os.urandom(6).hex()}"
    with (
        anykms.connect(aws.uri, **aws.options) as source,
        anykms.connect(azure.uri, **azure.options) as goal,
    ):
        old = source.key(source.generate_key(KeyConf(name, "ENCRYPT_DECRYPT")))
        new = goal.key(goal.generate_key(KeyConf(name, "ENCRYPT_DECRYPT")))
        folder = tmp_path / "archive"
        folder.mkdir()
        ring = Keyring([old])
        plain = {str(number): os.urandom(100) for number in range(120)}
        for number, data in plain.items():
            (folder / number).write_bytes(ring.encrypt(data, context=CONTEXT))
        yield Move(folder, aws, azure, HeldKeys([old], [new]), plain)
        aws.faults.clear()
        azure.faults.clear()


def test_a_directory_moves_from_aws_to_azure(move: Move) -> None:
    plan = move.migration(rates={}).plan()
    calls = {(call.provider, call.kind, call.key): call.calls for call in plan.calls}
    assert calls == {
        ("awskms", "unwrap", "A256GCM"): 120,
        ("azurekms", "wrap", "RSA-3072"): 120,
        ("azurekms", "sign", "EC"): 120,
    }
    assert plan.estimate is not None
    # 120 times a hundredth and a four-hundredth of a second of the vault's quota
    assert plan.estimate.hours == {
        "awskms": pytest.approx(0, abs=1e-3),
        "azurekms": pytest.approx(1.5 / 3600, abs=1e-3),
    }
    assert any("unverified" in source for source in plan.estimate.sources)
    assert move.migration().run().ending == "done"
    move.aws.stop()
    try:
        proof = move.migration().verify(full=True)
        assert (proof.ending, proof.counts.already, proof.counts.messages) == ("done", 120, 120)
        ring = move.held.ring(move.held.new_uris)
        for name, data in move.plain.items():
            assert ring.decrypt((move.folder / name).read_bytes(), context=CONTEXT) == data
    finally:
        move.aws.start()


def test_a_storm_of_throttling_slows_the_run_and_loses_nothing(move: Move) -> None:
    move.aws.faults.add("Decrypt", kind="throttle", times=60)
    move.azure.faults.add("wrapKey", kind="throttle", times=40, after=20)
    slowed: set[str] = set()

    def watch(progress: Progress) -> None:
        slowed.update(progress.slowed)

    report = move.migration(on_progress=watch).run()
    assert (report.ending, report.stopped_by, report.counts.done) == ("done", None, 120)
    assert not move.aws.faults.pending
    assert slowed


def test_a_provider_out_of_reach_stops_the_run_and_the_next_one_goes_on(move: Move) -> None:
    move.azure.faults.add("wrapKey", kind="reset", times=None, after=50)
    report = move.migration(patience=1.0).run()
    assert report.ending == "stopped"
    assert "azurekms" in str(report.stopped_by)
    assert report.counts.done + report.counts.todo == 120
    move.azure.faults.clear()
    assert move.migration().run().counts.done == 120


# The command


@pytest.fixture
def shop(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("ANYKMS_STORE", f"local://{world.base}/keys.db")
    monkeypatch.chdir(world.base)
    world.fill(10)
    return world


def command(*arguments: str) -> Result:
    return CliRunner().invoke(application, ["migrate", *arguments])


def test_the_command_plans_runs_proves_and_goes_back(shop: World) -> None:
    keys = ("--from", "old", "--to", "new", "messages")
    planned = json.loads(command("plan", *keys, "--json").stdout)
    assert planned["counts"]["todo"] == 10
    done = command("run", *keys, "--report", "report.json")
    assert done.exit_code == 0, done.output
    report = Report.from_json(Path("report.json").read_bytes())
    assert report.counts.done == 10
    shop.check_all("new")
    proof = command("verify", "--from", str(shop.keys["old"].info.uri), "--to", "new", "messages")
    assert proof.exit_code == 0, proof.output
    assert command("rollback", "messages").exit_code == 0
    shop.check_all("old")
    assert command("verify", "--from", "old", "--to", "new", "messages").exit_code == ExitCode.LEFT


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("plan", "--to", "new", "messages"), "--from"),
        (("plan", "--from", "old", "--to", "new"), "no target"),
        (("plan", "--from", "old", "--to", "new", "--rate", "awskms=fast", "messages"), "--rate"),
        (("plan", "--from", "old", "--to", "new", "--shard", "5", "messages"), "1/4"),
        (("plan", "--from", "old", "--to", "new", "--sql", "sqlite://"), "--table"),
        (("plan", "--from", "old", "--to", "new", "--table", "t", "messages"), "--sql"),
        (("run", "--to", "new", "--format", "fernet", "messages"), "--no-context"),
        (("run", "--from", "old", "--to", "new", "--no-context", "messages"), "--format"),
        (("run", "--from", "old", "--to", "new", "--context-from", "nowhere", "messages"), "module:function"),
        (("run", "--from", "old", "--to", "new", "--checkpoint", "messages/m.db", "messages"), "within"),
    ],
)
def test_bad_arguments_say_what_to_do(shop: World, arguments: tuple[str, ...], told: str) -> None:
    before = shop.files()
    result = command(*arguments)
    assert result.exit_code == ExitCode.USAGE, result.output
    assert told in result.stderr
    assert shop.files() == before


def test_a_report_fits_its_schema(shop: World) -> None:
    published = json.loads((Path(__file__).parents[1] / "docs" / "migration-report.schema.json").read_text())
    assert published == json.loads(json.dumps(schema()))
    report = shop.move().plan()
    assert Report.from_json(report.to_json()) == report
    with pytest.raises(InvalidArgumentError):
        Report.from_json(b"{}")
