"""Migrations of tables, record stores and foreign ciphertext by the command, and of batches whose workers die."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from click.testing import CliRunner, Result
from cryptography.fernet import Fernet

import anykms
from anykms import Key, KeyConf, Keyring, SQLiteRecordStore, StoredRecords
from anykms.cli.application import application
from anykms.cli.failures import ExitCode
from anykms.errors import InvalidArgumentError
from anykms.migration.checkpoint import Checkpoint
from anykms.migration.engine import Migration
from anykms.migration.files import FileTarget
from anykms.migration.rates import Call, Pace, figures
from anykms.migration.readers import ForeignReader, find_reader
from anykms.migration.steps import Bindings, HeldKeys, Job

T = TypeVar("T")
Keys = Mapping[str, Key]


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keys]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANYKMS_STORE", f"local://{tmp_path}/keys.db")
    with anykms.connect(f"local://{tmp_path}/keys.db", create=True) as client:
        yield {
            name: client.key(client.generate_key(KeyConf(name, "ENCRYPT_DECRYPT"))) for name in ("old", "new")
        }


def command(*arguments: str) -> Result:
    return CliRunner().invoke(application, ["migrate", *arguments])


def report_of(*arguments: str, code: int = 0) -> Any:
    result = command(*arguments, "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


# Tables and record stores


def test_a_table_moves_and_goes_back(keys: Keys) -> None:
    ring = Keyring([keys["old"]])
    with closing(sqlite3.connect("shop.db", isolation_level=None)) as database:
        database.execute("CREATE TABLE cards (id INTEGER PRIMARY KEY, number BLOB)")
        database.executemany(
            "INSERT INTO cards VALUES (?, ?)",
            [(row, ring.encrypt(b"%d" % row, context={}, aad=b"%d" % row)) for row in range(50)]
            + [(99, None)],
        )

        def rows() -> dict[int, bytes]:
            return dict(database.execute("SELECT id, number FROM cards WHERE number IS NOT NULL"))

        before = rows()
        place = ("--sql", "sqlite:///shop.db", "--table", "cards", "--id", "id", "--column", "number")
        assert report_of("run", "--from", "old", "--to", "new", *place)["counts"]["done"] == 50
        goal = Keyring([keys["new"]])
        for row, message in rows().items():
            assert goal.decrypt(message, context={}, aad=b"%d" % row) == b"%d" % row
        assert report_of("verify", "--to", "new", *place)["counts"]["already"] == 50
        assert report_of("rollback", *place)["counts"]["back"] == 50
        assert rows() == before


def test_records_move_and_do_not_go_back(keys: Keys) -> None:
    with SQLiteRecordStore("records.db") as store:
        records = StoredRecords(Keyring([keys["old"]]), store, context={"table": "cards"})
        pinned = records.create().record_id
        value = records.record(pinned).seal(b"4111", aad=b"17")
        place = ("--records", "sqlite:///records.db")
        assert report_of("run", "--from", "old", "--to", "new", *place)["counts"]["done"] == 1
        assert store.generation(pinned) == 1
        moved = StoredRecords(Keyring([keys["new"]]), store, context={"table": "cards"})
        assert moved.open(value, aad=b"17") == b"4111"
        assert report_of("verify", "--to", "new", *place)["counts"]["without_body"] == 1
        back = report_of("rollback", *place, code=ExitCode.LEFT)
        assert back["counts"]["reported"] == {"generation_demanded": 1}
        assert "--from and --to exchanged" in back["waiting"][0]["advice"]
        assert moved.open(value, aad=b"17") == b"4111"


# Foreign ciphertext


@pytest.fixture
def tokens(keys: Keys) -> dict[str, bytes]:
    """Fernet tokens in a directory, their key in a file; what they hold by name."""
    key = Fernet.generate_key()
    path = Path("fernet.keys")
    path.write_bytes(key)
    path.chmod(0o600)
    folder = Path("tokens")
    folder.mkdir()
    plain = {f"{number}": b"token %d" % number * 10 for number in range(20)}
    for name, data in plain.items():
        (folder / name).write_bytes(Fernet(key).encrypt(data))
    return plain


FERNET = ("--format", "fernet", "--reader-option", "key-file=fernet.keys")


def test_foreign_ciphertext_becomes_messages_and_goes_back(keys: Keys, tokens: dict[str, bytes]) -> None:
    folder = Path("tokens")
    message = Keyring([keys["old"]]).encrypt(b"paid", context={})
    (folder / "message").write_bytes(message)
    Path("tokens/broken").write_bytes((folder / "0").read_bytes()[:-9] + b"AAAAAAAA=")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    base = ("--from", "old", "--to", "new", "tokens", *FERNET, "--context", "tenant=42", "--aad", "tokens")
    plan = report_of("plan", *base)
    assert {claim["format"]: claim["entries"] for claim in plan["claims"]} == {"fernet": 21, "anykms": 1}
    done = report_of("run", *base, code=ExitCode.LEFT)
    assert (done["counts"]["done"], done["counts"]["reported"]) == (21, {"reader_refused": 1})
    ring = Keyring([keys["new"]])
    for name, data in tokens.items():
        sealed = (folder / name).read_bytes()
        assert ring.decrypt(sealed, context={"tenant": "42"}, aad=b"tokens") == data
    assert ring.decrypt((folder / "message").read_bytes(), context={}) == b"paid"
    assert (folder / "broken").read_bytes() == before["broken"]
    proof = report_of("verify", "--from", "old", "--to", "new", "tokens", *FERNET, code=ExitCode.LEFT)
    assert proof["counts"]["reported"] == {"still_foreign": 1}
    originals = Path("anykms-migration.db.originals")
    assert originals.stat().st_mode & 0o077 == 0
    assert report_of("rollback", "tokens")["counts"]["back"] == 21
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_crash_after_a_foreign_entry_was_replaced_is_seen(
    keys: Keys, tokens: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is in place and nothing of it is in the checkpoint: the next run knows its own."""
    reader = find_reader("fernet", {"key-file": "fernet.keys"})

    def move() -> Migration:
        return Migration(
            [FileTarget("tokens")],
            HeldKeys([], [keys["new"]]),
            checkpoint="migration.db",
            readers=[reader],
            bindings=Bindings(context={"tenant": "42"}),
            concurrency=1,
        )

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as crashing:
        crashing.setattr(Checkpoint, "note_done", crash)
        with pytest.raises(KeyboardInterrupt):
            move().run()
    before = {path.name: path.read_bytes() for path in Path("tokens").iterdir()}
    replaced = {name for name, data in before.items() if not data.startswith(b"gAAAAA")}
    assert replaced
    report = move().run()
    assert (report.ending, report.counts.done) == ("done", 20)
    assert {name for name in replaced if Path("tokens", name).read_bytes() != before[name]} == set()
    assert move().rollback().counts.back == 20
    assert all(path.read_bytes().startswith(b"gAAAAA") for path in Path("tokens").iterdir())


def test_auto_takes_formats_that_mark_their_own(keys: Keys, tokens: dict[str, bytes]) -> None:
    Path("tokens/readme").write_text("no token")
    report = report_of(
        "plan",
        "--to",
        "new",
        "tokens",
        "--format",
        "auto",
        "--reader-option",
        "fernet.key-file=fernet.keys",
        "--no-context",
    )
    assert (report["counts"]["todo"], report["counts"]["nothing"]) == (20, 1)


def test_a_key_is_not_removed_from_what_is_foreign(keys: Keys, tokens: dict[str, bytes]) -> None:
    result = command(
        "run", "--mode", "remove", "--from", "old", "--to", "new", "tokens", *FERNET, "--no-context"
    )
    assert result.exit_code == ExitCode.USAGE


# Executors


class Losing:
    """An executor whose workers die now and then, before or after they have worked."""

    capacity = 3

    def __init__(self, *, always: bool = False) -> None:
        self._always = always
        self._calls = 0
        self.lost = 0

    def begin(self, jobs: Sequence[Job], *, wraps: bool) -> None:
        assert jobs

    def submit(self, function: Callable[..., T], /, *arguments: Any) -> Future[T]:
        self._calls += 1
        future = Future[T]()
        if self._always or self._calls % 3 == 0:
            self.lost += 1
            if self._calls % 2:
                function(*arguments)
            future.set_exception(BrokenExecutor("the worker died"))
        else:
            future.set_result(function(*arguments))
        return future

    def close(self) -> None:
        raise AssertionError("it is the caller's")


def test_batches_of_lost_workers_are_done_again(keys: Keys, tmp_path: Path) -> None:
    ring = Keyring([keys["old"]])
    Path("messages").mkdir()
    for number in range(100):
        Path("messages", str(number)).write_bytes(ring.encrypt(b"%d" % number, context={}))
    held = HeldKeys([keys["old"]], [keys["new"]])
    executor = Losing()
    move = Migration([FileTarget("messages")], held, checkpoint="lost.db", executor=executor)
    assert (move.run().counts.done, move.verify().counts.already) == (100, 100)
    assert executor.lost
    move.close()
    report = Migration(
        [FileTarget("messages")], held, checkpoint="never.db", executor=Losing(always=True)
    ).plan()
    assert (report.ending, report.complete) == ("stopped", False)


def test_a_migration_needs_places_and_keys(keys: Keys, tmp_path: Path) -> None:
    held = HeldKeys([keys["old"]], [keys["new"]])
    with pytest.raises(InvalidArgumentError, match="target"):
        Migration([], held)
    with pytest.raises(InvalidArgumentError, match="twice"):
        Migration([FileTarget(tmp_path), FileTarget(tmp_path)], held)
    with pytest.raises(InvalidArgumentError, match="--to"):
        HeldKeys([keys["old"]], [])
    with pytest.raises(InvalidArgumentError, match="rate"):
        Migration([FileTarget(tmp_path)], held, rates={"local": 0}, checkpoint=tmp_path.parent / "m.db")
    with pytest.raises(InvalidArgumentError, match="threads"):
        Migration([FileTarget(tmp_path)], held, concurrency=0, checkpoint=tmp_path.parent / "m.db")


# Pace


class Clock:
    """Seconds that pass when they are told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def taken(pace: Pace, clock: Clock, call: Call, seconds: float) -> int:
    """Calls that are let through in some seconds, asked for one by one."""
    end, number = clock.now + seconds, 0
    while clock.now < end:
        wait = pace.take({call: 1})
        if wait:
            clock.now += wait
        else:
            number += 1
    return number


def test_a_quota_is_shared_by_kinds_of_calls_and_by_shards() -> None:
    wrap, sign = Call("azurekms", "wrap", "RSA-3072"), Call("azurekms", "sign", "EC")
    for share in (1.0, 0.25):
        clock = Clock()
        assert taken(Pace(share=share, clock=clock), clock, wrap, 100) == pytest.approx(
            10_000 * share, rel=0.02
        )
        assert taken(Pace(share=share, clock=clock), clock, sign, 100) == pytest.approx(
            40_000 * share, rel=0.02
        )
    clock = Clock()
    pace = Pace(clock=clock)
    number = 0
    while clock.now < 1100:
        wait = pace.take({wrap: 1, sign: 1})
        clock.now += wait
        number += not wait
    assert number == pytest.approx(100 / (1 / 100 + 1 / 400), rel=0.02)
    clock = Clock()
    assert taken(Pace({"azurekms": 7}, clock=clock), clock, wrap, 100) == pytest.approx(700, rel=0.02)


@pytest.mark.parametrize("call", [Call("awskms", "unwrap", "A256GCM"), Call("local", "unwrap", "A256GCM")])
def test_a_provider_that_throttles_is_asked_more_slowly_and_then_faster_again(call: Call) -> None:
    clock = Clock()
    pace = Pace({"awskms": 100}, clock=clock)
    for _ in range(50):
        pace.take({call: 10})
        clock.now += 0.1
    pace.throttled(call.provider)
    assert pace.slowed() == {call.provider: 0.5}
    pace.throttled(call.provider)
    assert pace.slowed() == {call.provider: 0.5}  # one storm
    assert taken(pace, clock, call, 5) < 450  # not 600: five seconds and one of burst
    clock.now += 60
    pace.take({call: 1})
    assert pace.slowed() == {}


def test_a_provider_is_not_asked_before_it_wants() -> None:
    clock = Clock()
    call = Call("awskms", "unwrap", "A256GCM")
    pace = Pace(clock=clock)
    pace.throttled("awskms", wait=7)
    assert pace.take({call: 1}) == 7
    clock.now += 7
    assert pace.take({call: 1}) == 0
    assert pace.calls == {call: 1}


def test_every_figure_has_its_source() -> None:
    for name, known in figures().items():
        assert known.quota_source.startswith("https://"), name
        assert known.price_source.startswith("https://"), name
        assert known.quota_seen or known.quota_note.startswith("unverified")
        assert known.per_second.keys() == known.price_per_10000.keys()


class Anybodys:
    """A reader of a format that a public key is enough to write."""

    sender_authenticated = False

    def __init__(self, reader: ForeignReader) -> None:
        self._reader = reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)


def test_what_anybody_could_have_made_becomes_no_proven_message_unasked(
    keys: Keys, tokens: dict[str, bytes]
) -> None:
    reader = cast("ForeignReader", Anybodys(find_reader("fernet", {"key-file": "fernet.keys"})))

    def move(vouched: bool) -> Migration:
        return Migration(
            [FileTarget("tokens")],
            HeldKeys([], [keys["new"]]),
            readers=[reader],
            bindings=Bindings(context={"tenant": "42"}, vouched=vouched),
        )

    before = {path.name: path.read_bytes() for path in Path("tokens").iterdir()}
    report = move(vouched=False).run()
    assert (report.ending, report.counts.reported) == ("left", {"sender_unproven": len(tokens)})
    assert "--vouch" in report.waiting[0].advice
    assert {path.name: path.read_bytes() for path in Path("tokens").iterdir()} == before
    assert move(vouched=True).run().counts.done == len(tokens)
    for name, data in tokens.items():
        sealed = Path("tokens", name).read_bytes()
        assert Keyring([keys["new"]]).decrypt(sealed, context={"tenant": "42"}) == data


def test_vouching_is_for_foreign_entries(keys: Keys) -> None:
    Path("tokens").mkdir()
    result = CliRunner().invoke(application, ["migrate", "run", "--to", "new", "tokens", "--vouch"])
    assert result.exit_code == ExitCode.USAGE
    assert "--format" in result.output
