"""Guarded destruction: what a census must show, every way in which one may not, and the evidence that is left."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

import anykms
from anykms import Key, KeyConf, KeyInfo, Keyring, KeyState, KMSClient
from anykms.cli.application import application
from anykms.cli.failures import ExitCode
from anykms.errors import InvalidArgumentError, KeyDestroyedError, PolicyError, SealError
from anykms.migration.attestation import EVIDENCE, REPORT, FileDigest, check_seal, seal_file
from anykms.migration.census import Mode
from anykms.migration.checkpoint import Checkpoint, Shard
from anykms.migration.destruction import (
    LIMITS,
    Census,
    Demands,
    Doubt,
    Evidence,
    Verdict,
    evidence_of,
    examine,
    follow_up,
    judge_again,
    last_write,
    shortfalls,
)
from anykms.migration.engine import Migration
from anykms.migration.files import FileTarget
from anykms.migration.reports import ClaimUse, KeyUse, KeyWatch, Report, Waiting, moment
from anykms.migration.steps import HeldKeys
from anykms.trust import TrustRoot, seal
from anykms_emulators.aws import AWSEmulator
from anykms_emulators.azure import AzureEmulator
from anykms_emulators.emulator import Emulator
from anykms_emulators.gcp import GCPEmulator
from anykms_local import LocalProvider


@dataclass
class World:
    """A keystore with the keys old, new, third, admin and rival, and a directory of five messages under new."""

    base: Path
    client: KMSClient
    keys: Mapping[str, Key]
    now: list[float]

    @property
    def folder(self) -> Path:
        return self.base / "messages"

    @property
    def old(self) -> KeyInfo:
        return self.keys["old"].info

    def write(self, name: str, *keys: str) -> None:
        message = Keyring([self.keys[key] for key in keys]).encrypt(b"plain", context={})
        (self.folder / name).write_bytes(message)

    def move(self, *new: str, leaving: str = "old", holding: bool = False, **options: Any) -> Migration:
        """A migration away from ``old``, which proves without it unless ``holding``."""

        def state(uri: anykms.KeyURI) -> str | None:
            return str(self.client.describe_key(self.client.get_key(str(uri))).state)

        held = HeldKeys(
            [self.keys[leaving]] if holding else [],
            [self.keys[name] for name in new or ("new",)],
            [self.keys[leaving].info.uri],
        )
        given: dict[str, Any] = {
            "checkpoint": self.base / "migration.db",
            "concurrency": 2,
            "watch": state,
            **options,
        }
        return Migration([FileTarget(self.folder)], held, **given)

    def census(self, **options: Any) -> Report:
        return self.move(**options).verify()

    def examine(self, *reports: Report, **demands: Any) -> set[Doubt]:
        """The doubts about ``old``."""
        status = self.client.describe_key(self.old)
        found = examine(
            self.old,
            status.state,
            [read(report) for report in reports],
            Demands(**demands),
            written=last_write(self.old, status),
            now=datetime.now(UTC),
        )
        return {objection.doubt for objection in found}


def read(report: Report, name: str = "report.json") -> Census:
    return Census.read(report.to_json(), name)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    now: list[float] = []
    uri = anykms.ConnectionURI.parse(f"local://{tmp_path}/keys.db")

    def clock() -> datetime:
        return datetime.fromtimestamp(now[0] if now else time.time(), UTC)

    with KMSClient(LocalProvider.connect(uri, create=True, clock=clock)) as client:
        infos = [
            client.generate_key(KeyConf(name, "ENCRYPT_DECRYPT")) for name in ("old", "new", "third")
        ] + [
            client.generate_key(KeyConf(name, "SIGN_VERIFY", algorithm="ES256"))
            for name in ("admin", "rival")
        ]
        made = World(tmp_path, client, {info.name: client.key(info) for info in infos}, now)
        made.folder.mkdir()
        for number in range(5):
            made.write(str(number), "new")
        client.disable_key(made.old)
        yield made


# What a census must show


def test_a_census_that_leaves_no_doubt(world: World) -> None:
    report = world.census()
    assert world.examine(report) == set()
    assert world.examine(report, targets=(f"file://{world.folder}",)) == set()
    assert shortfalls(report) == []
    full = world.move().verify(full=True)
    assert world.examine(full, full=True) == set()
    plan = world.move(holding=True).plan(prove_claims=True)
    assert plan.verified == "census"
    assert world.examine(plan) == set()


def test_a_plan_or_a_run_that_opened_nothing_proves_nothing(world: World) -> None:
    assert Doubt.NO_CENSUS in world.examine(world.move(holding=True).plan())
    world.client.enable_key(world.old)
    assert Doubt.NO_CENSUS in world.examine(world.move(holding=True).run())


@pytest.mark.parametrize("mode", list(Mode))
def test_a_message_that_names_the_key(world: World, mode: Mode) -> None:
    world.client.enable_key(world.old)
    world.write("both", "old", "new")
    world.client.disable_key(world.old)
    report = world.move(mode=mode).verify()
    assert Doubt.NAMED in world.examine(report)
    assert Doubt.NAMED in {objection.doubt for objection in shortfalls(report)}


def test_a_message_of_a_version_of_the_key(world: World) -> None:
    world.client.enable_key(world.old)
    world.client.rotate_key(world.old)
    world.write("rotated", "old")
    world.client.disable_key(world.old)
    assert Doubt.NAMED in world.examine(world.census())


def test_entries_that_wait_could_need_the_key(world: World) -> None:
    damaged = world.folder / "0"
    damaged.write_bytes(damaged.read_bytes()[:50])
    assert Doubt.WAITING in world.examine(world.census())
    world.write("0", "third")
    assert Doubt.WAITING in world.examine(world.census())


def test_a_header_that_was_led_to_another_key_is_not_believed(world: World) -> None:
    """Someone puts third's URI over old's: what a header says counts only once it was opened."""
    world.client.enable_key(world.old)
    world.write("led", "old")
    world.client.disable_key(world.old)
    path = world.folder / "led"
    theirs = path.read_bytes()
    old, new = (str(world.keys[name].info.uri).encode() for name in ("old", "new"))
    assert theirs.count(old) == 1
    path.write_bytes(theirs.replace(old, new))
    doubts = world.examine(world.census())
    assert Doubt.NAMED not in doubts
    assert {Doubt.WAITING, Doubt.NOT_OPENED} <= doubts


def test_entries_that_are_no_messages_are_counted_by_the_caller(world: World) -> None:
    (world.folder / "readme").write_text("no message")
    report = world.census()
    assert world.examine(report) == {Doubt.NOT_MESSAGES}
    assert world.examine(report, not_messages=2) == {Doubt.NOT_MESSAGES}
    assert world.examine(report, not_messages=1) == set()
    assert {objection.doubt for objection in shortfalls(report)} == {Doubt.NOT_MESSAGES}


def test_the_key_was_disabled_before_and_after_the_walk(world: World) -> None:
    report = world.census()
    key = report.watched[0].key
    assert [report.watched[0]] == [KeyWatch(key, "DISABLED", "DISABLED")]
    for before, after in (
        ("ENABLED", "DISABLED"),
        ("DISABLED", "ENABLED"),
        (None, "DISABLED"),
        ("DISABLED", None),
    ):
        changed = msgspec.structs.replace(report, watched=[KeyWatch(key, before, after)])
        assert world.examine(changed) == {Doubt.NOT_DISABLED}
    assert world.examine(world.census(watch=None)) == {Doubt.NOT_DISABLED}
    assert world.examine(msgspec.structs.replace(report, watched=[])) == {Doubt.NOT_DISABLED}
    world.client.enable_key(world.old)
    assert world.examine(report) == {Doubt.ENABLED}
    assert world.examine(world.census()) == {Doubt.ENABLED, Doubt.NOT_DISABLED}


def test_the_key_is_one_that_messages_are_made_for(world: World) -> None:
    report = world.census()
    info = world.keys["admin"].info
    found = examine(
        info,
        KeyState.DISABLED,
        [read(report)],
        written=datetime.min.replace(tzinfo=UTC),
        now=datetime.now(UTC),
    )
    assert {Doubt.PURPOSE, Doubt.NOT_ASKED} <= {objection.doubt for objection in found}


def test_a_judgement_needs_a_census(world: World) -> None:
    with pytest.raises(InvalidArgumentError, match="census"):
        world.examine()


# Time


def test_a_census_grows_old(world: World) -> None:
    report = world.census()
    stale = replace_times(report, -timedelta(hours=25))
    assert Doubt.OLD in world.examine(stale)
    assert Doubt.OLD not in world.examine(stale, max_age=timedelta(hours=26))
    assert world.examine(replace_times(report, timedelta(hours=1))) == {Doubt.FUTURE}


def replace_times(report: Report, by: timedelta) -> Report:
    assert report.walk_started is not None
    assert report.walk_ended is not None
    started, ended = (
        moment((datetime.fromisoformat(text) + by).timestamp())
        for text in (report.walk_started, report.walk_ended)
    )
    return msgspec.structs.replace(report, walk_started=started, walk_ended=ended)


def test_a_version_made_after_the_census(world: World) -> None:
    report = world.census()
    world.now.append(time.time() + 60)
    world.client.enable_key(world.old)
    world.client.rotate_key(world.old)
    world.client.disable_key(world.old)
    assert world.examine(report) == {Doubt.WRITTEN_SINCE}


def test_a_run_after_the_census_knows_a_later_write(world: World) -> None:
    """The census was clean; then a writer that still had the old key was caught up with by another run."""
    report = world.census()
    world.client.enable_key(world.old)
    world.write("late", "old")
    run = world.move(holding=True).run()
    assert run.counts.done == 1
    world.client.disable_key(world.old)
    with Checkpoint(world.base / "migration.db", None) as checkpoint:
        writes = checkpoint.last_writes()
    assert writes.exchanged >= writes.made > 0
    assert (writes.rolled_back, writes.unfinished) == (0, 0)
    status = world.client.describe_key(world.old)
    written = last_write(world.old, status, writes)
    found = examine(world.old, status.state, [read(report)], written=written, now=datetime.now(UTC))
    assert {objection.doubt for objection in found} == {Doubt.WRITTEN_SINCE}
    again = examine(world.old, status.state, [read(world.census())], written=written, now=datetime.now(UTC))
    assert again == []


def test_a_rollback_after_the_census_gives_the_key_its_messages_back(world: World) -> None:
    world.client.enable_key(world.old)
    world.write("moved", "old")
    move = world.move(holding=True)
    move.run()
    world.client.disable_key(world.old)
    report = world.census()
    began = time.time()
    assert move.rollback().counts.back == 1
    with Checkpoint(world.base / "migration.db", None) as checkpoint:
        writes = checkpoint.last_writes()
    assert writes.exchanged >= writes.rolled_back >= began
    status = world.client.describe_key(world.old)
    written = last_write(world.old, status, writes)
    found = examine(world.old, status.state, [read(report)], written=written, now=datetime.now(UTC))
    assert Doubt.WRITTEN_SINCE in {objection.doubt for objection in found}


def test_a_message_dated_into_the_future_does_not_forbid_for_ever(world: World) -> None:
    world.client.enable_key(world.old)
    ring = Keyring([world.keys["old"]], clock=lambda: time.time() + 10**8)
    (world.folder / "future").write_bytes(ring.encrypt(b"plain", context={}))
    world.move(holding=True).run()
    with Checkpoint(world.base / "migration.db", None) as checkpoint:
        assert checkpoint.last_writes().made <= time.time()


def test_an_exchange_whose_end_is_not_known(world: World) -> None:
    status = world.client.describe_key(world.old)
    found = examine(
        world.old,
        status.state,
        [read(world.census())],
        written=last_write(world.old, status),
        unfinished=1,
        now=datetime.now(UTC),
    )
    assert [objection.doubt for objection in found] == [Doubt.UNFINISHED]


# Several reports


def test_all_shards_make_a_whole(world: World) -> None:
    parts = [world.move(shard=Shard(number, 3)).verify() for number in (1, 2, 3)]
    assert sum(part.counts.walked for part in parts) == 5
    assert world.examine(*parts) == set()
    assert world.examine(*parts[:2]) == {Doubt.SHARD_MISSING}
    assert world.examine(parts[0], parts[0], parts[2]) == {Doubt.SHARD_MISSING}
    assert {objection.doubt for objection in shortfalls(parts[0])} == {Doubt.SHARD_MISSING}
    other = msgspec.structs.replace(parts[1], targets=["file:///elsewhere"])
    assert world.examine(parts[0], other, parts[2]) == {Doubt.SHARD_MISSING}
    mixed = world.move(shard=Shard(2, 4)).verify()
    assert world.examine(parts[0], mixed, parts[2]) == {Doubt.SHARD_MISSING}
    assert world.examine(msgspec.structs.replace(parts[0], shard="1")) == {Doubt.INCONSISTENT}


def test_a_target_that_was_forgotten(world: World) -> None:
    report = world.census()
    assert world.examine(report, targets=("s3://archive/",)) == {Doubt.NOT_COVERED}
    other = msgspec.structs.replace(report, targets=["s3://archive/"])
    assert world.examine(report, other, targets=("s3://archive/", f"file://{world.folder}")) == set()


def test_one_bad_report_among_good_ones(world: World) -> None:
    good, bad = world.census(), world.census()
    assert world.examine(good, msgspec.structs.replace(bad, stopped_by="it was asked to")) == {
        Doubt.INCOMPLETE
    }


# Reports that were edited, or are others

Edit = Callable[[Report], Report]
structs = msgspec.structs


def with_counts(**numbers: Any) -> Edit:
    return lambda report: structs.replace(report, counts=structs.replace(report.counts, **numbers))


def with_report(**fields: Any) -> Edit:
    return lambda report: structs.replace(report, **fields)


def with_opened(number: int) -> Edit:
    return lambda report: structs.replace(report, keys=[structs.replace(report.keys[0], opened=number)])


def with_foreign(report: Report) -> Report:
    claims = [*report.claims, ClaimUse("foreign", "fernet", [], [], 1, 9)]
    return structs.replace(report, claims=claims, counts=structs.replace(report.counts, walked=6, todo=1))


def with_nonsense(report: Report) -> Report:
    return structs.replace(report, claims=[structs.replace(report.claims[0], keys=["nonsense"])])


OTHER = "local://aaaaaaaaaaaaaaaaaaaaaaaaaa/other"
WAITS = Waiting("file:///m", "7", "reported", "damaged", "")


@pytest.mark.parametrize(
    ("edit", "doubts"),
    [
        (with_report(complete=False), {Doubt.INCOMPLETE}),
        (with_report(ending="stopped"), {Doubt.INCOMPLETE}),
        (with_report(walk_ended=None), {Doubt.INCOMPLETE}),
        (with_report(walk_started=None), {Doubt.INCOMPLETE}),
        (with_report(walk_started="yesterday"), {Doubt.INCOMPLETE}),
        (with_report(verified="no"), {Doubt.NO_CENSUS}),
        (with_report(command="run"), {Doubt.NO_CENSUS}),
        (with_report(verified="census"), {Doubt.INCONSISTENT}),
        (with_report(command="plan"), {Doubt.INCONSISTENT}),
        (with_report(old_keys=[OTHER]), {Doubt.NOT_ASKED}),
        (with_report(old_keys=[]), {Doubt.NOT_ASKED}),
        (with_report(left_out={"keys": 1, "claims": 0, "waiting": 0}), {Doubt.NOT_LISTED}),
        (with_report(left_out={"keys": 0, "claims": 1, "waiting": 0}), {Doubt.NOT_LISTED}),
        (with_report(left_out={}), {Doubt.NOT_LISTED}),
        (with_report(waiting=[WAITS]), {Doubt.WAITING}),
        (with_counts(reported={"other_keys": 1}), {Doubt.WAITING, Doubt.INCONSISTENT}),
        (with_counts(reported={"other_keys": 1}, already=4), {Doubt.WAITING}),
        (with_counts(failed={"OSError": 1}, already=4), {Doubt.WAITING}),
        (with_counts(with_old_key=1), {Doubt.NAMED}),
        (with_counts(walked=6), {Doubt.INCONSISTENT}),
        (with_counts(messages=4), {Doubt.INCONSISTENT}),
        (with_counts(reported={"a": -1}, already=6), {Doubt.WAITING, Doubt.INCONSISTENT}),
        (with_report(keys=[]), {Doubt.INCONSISTENT}),
        (with_report(claims=[]), {Doubt.INCONSISTENT}),
        (with_report(keys=[KeyUse(OTHER, 5, 1, 5)]), {Doubt.INCONSISTENT}),
        (with_opened(4), {Doubt.NOT_OPENED}),
        (with_opened(6), {Doubt.NOT_OPENED, Doubt.INCONSISTENT}),
        (with_foreign, {Doubt.FOREIGN}),
        (with_nonsense, {Doubt.INCONSISTENT}),
    ],
)
def test_a_report_that_was_edited_or_tells_less(world: World, edit: Edit, doubts: set[Doubt]) -> None:
    report = world.census()
    assert world.examine(edit(report)) == doubts
    assert world.examine(report) == set()


def test_the_key_is_one_to_go_to(world: World) -> None:
    report = world.census()
    uri = str(world.old.uri)
    assert world.examine(structs.replace(report, new_keys=[uri])) == {Doubt.STAYS}


def test_a_census_taken_for_another_key(world: World) -> None:
    assert Doubt.NOT_ASKED in world.examine(world.move(leaving="third").verify())


def test_bodies_are_demanded(world: World) -> None:
    assert world.examine(world.census(), full=True) == {Doubt.BODIES}


def test_no_report_at_all() -> None:
    for data in (b"", b"{}", b"\xff", b"[]"):
        with pytest.raises(InvalidArgumentError):
            Census.read(data, "report.json")


# Seals


def test_a_sealed_report(world: World) -> None:
    admin, rival = world.keys["admin"], world.keys["rival"]
    data = world.census().to_json()
    root = TrustRoot([admin.public_key()])
    sealed = seal_file(data, REPORT, [admin])
    census = Census.read(data, "r", sealed=sealed, root=root)
    assert len(census.sealed_by) == 1
    edited = data.replace(b'"walked": 5', b'"walked": 6')
    assert edited != data
    wrong: list[tuple[bytes, bytes | None]] = [
        (edited, sealed),
        (data + b" ", sealed),
        (data, None),
        (data, b""),
        (data, sealed[:-2]),
        (data, seal_file(data, REPORT, [rival])),
        (data, seal_file(data, EVIDENCE, [admin])),
        (data, seal_file(edited, REPORT, [admin])),
        (data, seal_file(data, REPORT, [admin], audience="elsewhere")),
        (data, seal(FileDigest(FileDigest.of(data).sha256, 3), kind=REPORT, signers=[admin], generation=1)),
    ]
    for given, its_seal in wrong:
        with pytest.raises(SealError):
            Census.read(given, "r", sealed=its_seal, root=root)


def test_a_seal_needs_as_many_keys_as_the_root(world: World) -> None:
    admin, rival = world.keys["admin"], world.keys["rival"]
    root = TrustRoot([admin.public_key(), rival.public_key()], threshold=2)
    with pytest.raises(SealError):
        check_seal(b"data", seal_file(b"data", REPORT, [admin]), REPORT, root)
    assert len(check_seal(b"data", seal_file(b"data", REPORT, [admin, rival]), REPORT, root)) == 2


# Evidence


def scheduled(world: World, report: Report) -> tuple[Evidence, datetime]:
    status = world.client.describe_key(world.old)
    when = world.client.schedule_destruction(world.old)
    made = evidence_of(
        world.old,
        status.state,
        when,
        [read(report, "some/folder/report.json")],
        Demands(),
        written=last_write(world.old, status),
        scheduled=datetime.now(UTC),
        by="someone",
    )
    return Evidence.read(made.to_json()), when


def test_evidence_and_tombstone(world: World) -> None:
    report = world.census()
    evidence, when = scheduled(world, report)
    assert evidence.censuses[0].file == "report.json"
    assert evidence.limits == list(LIMITS)
    assert judge_again(evidence, [read(report)]) == []
    found = follow_up(evidence, world.client)
    assert (found.verdict, found.destroy_at) == (Verdict.SCHEDULED, when)
    world.client.cancel_destruction(world.old)
    assert follow_up(evidence, world.client).verdict is Verdict.TAKEN_BACK
    world.now.append(time.time() + 86400)
    world.client.schedule_destruction(world.old)
    assert follow_up(evidence, world.client).verdict is Verdict.RESCHEDULED
    world.now[0] = when.timestamp() + 2 * 86400
    assert follow_up(evidence, world.client).verdict is Verdict.GONE_EARLY
    end = follow_up(evidence, world.client, clock=lambda: when + timedelta(days=2))
    assert (end.verdict, end.state) == (Verdict.DESTROYED, KeyState.DESTROYED)
    with pytest.raises(KeyDestroyedError):
        world.client.describe_key(world.old)


def test_evidence_holds_its_reports_to_their_bytes(world: World) -> None:
    report = world.census()
    evidence, _ = scheduled(world, report)
    other = structs.replace(report, ended=moment(0))
    for given in ([], [read(other)], [read(report), read(report)], [read(report), read(other)]):
        with pytest.raises(PolicyError, match="report"):
            judge_again(evidence, given)


def test_evidence_that_was_made_of_a_bad_report(world: World) -> None:
    report = structs.replace(world.census(), complete=False)
    evidence, _ = scheduled(world, report)
    assert [objection.doubt for objection in judge_again(evidence, [read(report)])] == [Doubt.INCOMPLETE]


def test_evidence_that_was_edited(world: World) -> None:
    evidence, _ = scheduled(world, world.census())
    plain: dict[str, Any] = json.loads(evidence.to_json())
    changes: list[dict[str, object]] = [
        {"key": str(world.keys["new"].info.uri)},
        {"info": {}},
        {"info": {**plain["info"], "purpose": "MAC"}},
        {"scheduled": "soon"},
        {"destroy_at": "2026-13-01"},
        {"last_write": ""},
        {"state_before": "GONE"},
        {"max_age_seconds": -1},
        {"format": "other"},
        {"more": 1},
    ]
    for change in changes:
        with pytest.raises(InvalidArgumentError, match="evidence"):
            Evidence.read(json.dumps({**plain, **change}).encode())


# The command


@pytest.fixture
def shop(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(world.base)
    monkeypatch.setenv("ANYKMS_STORE", f"local://{world.base}/keys.db")
    return world


def command(*arguments: str, given: str | None = None) -> Result:
    return CliRunner().invoke(application, list(arguments), input=given)


def done(*arguments: str) -> Result:
    result = command(*arguments)
    assert result.exit_code == 0, result.output
    return result


PROVE = ("migrate", "verify", "--from", "old", "--to", "new", "--report", "proof.json")
DESTROY = ("keys", "destroy", "old", "--yes", "--census", "proof.json")


def test_the_whole_way(shop: World) -> None:
    done("trust", "root", "--key", "admin", "-o", "root.json")
    done(*PROVE, "--seal-with", "admin", "--page", "proof.html", "messages")
    assert "Nothing needs the old keys." in Path("proof.html").read_text()
    result = done(
        *DESTROY,
        *("--expect-target", "messages", "--root", "root.json"),
        *("--evidence", "gone.json", "--seal-with", "admin", "--by", "me"),
    )
    assert "5 messages opened without it (headers)" in result.stdout
    assert result.stderr == ""
    check = ("keys", "evidence", "gone.json", "--root", "root.json", "--json")
    told = json.loads(done(*check).stdout)
    assert (told["verdict"], told["reports"], told["by"], told["sealed"]) == (
        "scheduled",
        "judged",
        "me",
        True,
    )
    assert command(*check, "--final").exit_code == ExitCode.STATE
    assert "scheduled until" in done("keys", "evidence", "gone.json").stdout
    Path("proof.json").rename("elsewhere.json")
    assert json.loads(done(*check).stdout)["reports"] == "not at hand"
    assert (
        command(*check, "--census", "elsewhere.json").exit_code == ExitCode.REFUSED
    )  # its seal is not beside it
    assert "1 reports judged" in done("keys", "evidence", "gone.json", "--census", "elsewhere.json").stdout
    done("keys", "cancel-destroy", "old")
    back = command(*check)
    assert back.exit_code == ExitCode.STATE
    assert json.loads(back.stdout)["verdict"] == "taken back"
    gone = Path("gone.json")
    gone.write_bytes(gone.read_bytes().replace(b'"me"', b'"we"'))
    assert command(*check).exit_code == ExitCode.REFUSED


def state(shop: World) -> KeyState:
    return shop.client.describe_key(shop.old).state


def test_a_refusal_says_everything_and_changes_nothing(shop: World) -> None:
    shop.client.enable_key(shop.old)
    shop.write("left", "old")
    (shop.folder / "readme").write_text("no message")
    assert command(*PROVE, "messages").exit_code == ExitCode.LEFT
    result = command(*DESTROY, "--expect-target", "s3://archive", "--evidence", "gone.json")
    assert result.exit_code == ExitCode.REFUSED
    for text in ("ENABLED", "1 messages name", "old_key_named: 1", "--not-messages", "covers s3://archive/"):
        assert text in result.stderr
    assert state(shop) is KeyState.ENABLED
    assert not Path("gone.json").exists()
    problem = json.loads(command(*DESTROY, "--json").stderr)
    assert problem["exit_code"] == ExitCode.REFUSED
    assert len(problem["error"]["notes"]) >= 4


def test_with_a_root_an_unsealed_or_edited_report_is_refused(shop: World) -> None:
    done("trust", "root", "--key", "admin", "-o", "root.json")
    done(*PROVE, "messages")
    unsealed = command(*DESTROY, "--root", "root.json")
    assert unsealed.exit_code == ExitCode.REFUSED
    assert "no seal" in unsealed.stderr
    done(*PROVE, "--seal-with", "rival", "messages")
    assert command(*DESTROY, "--root", "root.json").exit_code == ExitCode.REFUSED
    done(*PROVE, "--seal-with", "admin", "messages")
    proof = Path("proof.json")
    proof.write_bytes(proof.read_bytes() + b"\n")
    assert command(*DESTROY, "--root", "root.json").exit_code == ExitCode.REFUSED
    assert state(shop) is KeyState.DISABLED
    taken = done(*DESTROY)
    assert "taken at their word" in taken.stderr


def test_the_checkpoint_in_the_folder_is_asked(shop: World) -> None:
    shop.client.enable_key(shop.old)
    shop.write("late", "old")
    done("migrate", "run", "--from", "old", "--to", "new", "messages")
    shop.client.disable_key(shop.old)
    done(*PROVE, "messages")
    done("migrate", "rollback", "messages")
    refused = command(*DESTROY)
    assert refused.exit_code == ExitCode.REFUSED
    assert "was written at" in refused.stderr
    done("migrate", "run", "--from", "new", "--to", "third", "--checkpoint", "other.db", "messages/0")
    assert command(*DESTROY, "--checkpoint", "other.db").exit_code == ExitCode.USAGE
    assert command(*DESTROY, "--checkpoint", "missing.db").exit_code == ExitCode.FILE


def test_a_migration_at_work_forbids_it(shop: World) -> None:
    done("migrate", "plan", "--from", "old", "--to", "new", "messages")
    done(*PROVE, "messages")
    # Locks are a process's own: another process must hold this one.
    import subprocess
    import sys

    program = (
        "import sys\n"
        "from anykms.migration.checkpoint import Checkpoint, Shard\n"
        "with Checkpoint('anykms-migration.db', None) as found:\n"
        "    found.hold(Shard(2, 4))\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(  # noqa: S603 # our own program
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        busy = command(*DESTROY)
        assert busy.exit_code == ExitCode.UNAVAILABLE
        other.communicate()
    assert state(shop) is KeyState.DISABLED
    done(*DESTROY)


def test_without_a_census_it_says_what_it_does_not_know(shop: World) -> None:
    result = done("keys", "destroy", "old", "--yes", "--evidence", "gone.json")
    assert "not known" in result.stderr
    told = json.loads(done("keys", "evidence", "gone.json", "--json").stdout)
    assert (told["reports"], told["sealed"]) == ("none", False)
    assert "no census was asked for" in done("keys", "evidence", "gone.json").stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--expect-target", "messages"), ExitCode.USAGE),
        (("--not-messages", "1"), ExitCode.USAGE),
        (("--checkpoint", "a.db"), ExitCode.USAGE),
        (("--full-census",), ExitCode.USAGE),
        (("--seal-with", "admin"), ExitCode.USAGE),
        (("--census", "missing.json"), ExitCode.FILE),
        (("--census", "messages/0"), ExitCode.USAGE),
        (("--evidence", "keys.db"), ExitCode.FILE),
        (("--evidence", "-"), ExitCode.USAGE),
        (("--evidence", "missing/gone.json"), ExitCode.FILE),
        (("--evidence", "gone.json", "--seal-with", "nobody"), ExitCode.NOT_FOUND),
        (("--evidence", "gone.json", "--seal-with", "new"), ExitCode.UNSUPPORTED),
        (("--evidence", "gone.json", "--seal-with", "rival", "--root", "root.json"), ExitCode.REFUSED),
        (
            ("--evidence", "gone.json", "--seal-with", "admin", "--root", "root.json", "--audience", "a"),
            ExitCode.USAGE,
        ),
    ],
)
def test_bad_arguments_change_nothing(shop: World, arguments: tuple[str, ...], code: ExitCode) -> None:
    done("trust", "root", "--key", "admin", "-o", "root.json")
    result = command("keys", "destroy", "old", "--yes", *arguments)
    assert result.exit_code == code, result.output
    assert state(shop) is KeyState.DISABLED


def test_evidence_that_cannot_be_written_is_said(shop: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("anykms.cli.destruction.files.write", fail)
    result = command("keys", "destroy", "old", "--yes", "--evidence", "gone.json")
    assert result.exit_code == ExitCode.FILE
    assert "IS scheduled" in result.stderr
    assert "cancel-destroy" in result.stderr


def test_a_report_is_sealed_by_keys_that_can(shop: World) -> None:
    assert command(*PROVE[:-2], "--seal-with", "admin", "messages").exit_code == ExitCode.USAGE
    assert command(*PROVE, "--seal-with", "nobody", "messages").exit_code == ExitCode.NOT_FOUND
    partly = command(*PROVE, "--seal-with", "nobody", "--seal-with", "admin", "messages")
    assert partly.exit_code == ExitCode.USAGE
    assert command(*PROVE, "--seal-with", "new", "messages").exit_code == ExitCode.UNSUPPORTED
    assert not Path("proof.json").exists()


def test_foreign_ciphertext_is_found_where_it_is_asked_for(shop: World) -> None:
    from cryptography.fernet import Fernet

    secret = Fernet.generate_key()
    Path("fernet.key").write_bytes(secret)
    Path("fernet.key").chmod(0o600)
    (shop.folder / "token").write_bytes(Fernet(secret).encrypt(b"plain"))
    result = command(*PROVE, "--format", "fernet", "--reader-option", "key-file=fernet.key", "messages")
    assert result.exit_code == ExitCode.LEFT, result.output
    refused = command(*DESTROY)
    assert refused.exit_code == ExitCode.REFUSED
    assert "foreign ciphertext" in refused.stderr


# The clouds


@pytest.mark.parametrize("kind", [AWSEmulator, AzureEmulator, GCPEmulator])
def test_in_every_cloud(kind: type[Emulator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From there to a local key; disabled, proven, destroyed, taken back, destroyed again, and gone."""
    monkeypatch.chdir(tmp_path)
    with kind() as cloud:
        here = f"local://{tmp_path}/keys.db"
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)

        def run(*arguments: str, code: int = 0) -> Result:
            stores = ("--store", here, "--store", cloud.uri)
            result = command("--allow-insecure-endpoint", *arguments, *stores)
            assert result.exit_code == code, result.output
            return result

        done("store", "init", "--store", here)
        done("keys", "generate", "new", "--purpose", "ENCRYPT_DECRYPT", "--store", here)
        command(
            *("--allow-insecure-endpoint", "keys", "generate", "old"),
            *("--purpose", "ENCRYPT_DECRYPT", "--store", cloud.uri),
        )
        Path("messages").mkdir()
        Path("plain").write_bytes(b"plain")
        for number in range(3):
            run("encrypt", "--key", "old", "--no-context", "plain", "-o", f"messages/{number}")
        run("migrate", "run", "--from", "old", "--to", "new", "messages")
        run("keys", "disable", "old")
        run(*PROVE, "messages")
        run(*DESTROY, "--expect-target", "messages", "--evidence", "gone.json")
        check = ("keys", "evidence", "gone.json", "--json")
        assert json.loads(run(*check).stdout)["verdict"] == "scheduled"
        run("keys", "cancel-destroy", "old")
        assert json.loads(run(*check, code=ExitCode.STATE).stdout)["state"] == "DISABLED"
        run(*DESTROY, "--evidence", "gone.json", "--force")
        told = json.loads(run(*check).stdout)
        assert told["verdict"] == "scheduled"
        due = datetime.fromisoformat(told["destroy_at"])
        cloud.clock.advance(due - cloud.clock.now() + timedelta(hours=1))
        evidence = Evidence.read(Path("gone.json").read_bytes())
        insecure: dict[str, Any] = {} if kind is AzureEmulator else {"allow_insecure_endpoint": True}
        with anykms.connect(cloud.uri, **insecure) as client:
            after = follow_up(evidence, client, clock=cloud.clock.now)
        assert (after.verdict, after.state) == (Verdict.DESTROYED, KeyState.DESTROYED)
        # This machine's own clock has not moved.
        assert json.loads(run(*check, code=ExitCode.STATE).stdout)["verdict"] == "gone early"
