"""What someone with a database editor can do to a local keystore: nothing that goes unseen."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anykms.algorithms import Algorithm, KeyPurpose
from anykms.errors import KeystoreError, UnavailableError
from anykms.keys import ConnectionURI, KeyConf, KeyInfo, KeyState
from anykms.provider import WrapContext
from anykms_local import LocalProvider, check_store

DATA_KEY = bytes(range(32))
CONTEXT = WrapContext({}, b"b" * 32)
SQLValue = str | int | float | bytes | None


def uri(path: Path) -> ConnectionURI:
    return ConnectionURI.parse(f"local://{path}")


def make(provider: LocalProvider, name: str, purpose: KeyPurpose, algorithm: str | None = None) -> KeyInfo:
    return provider.create_key(KeyConf(name, purpose, algorithm=algorithm).template(Algorithm.A256GCM))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed store: a rotated key, a disabled one, a signing key, a MAC key and a tombstone."""
    path = tmp_path_factory.mktemp("original") / "keys.db"
    now = datetime(2026, 3, 1, tzinfo=UTC)
    provider = LocalProvider.connect(uri(path), create=True, clock=lambda: now)
    make(provider, "orders", KeyPurpose.ENCRYPT_DECRYPT)
    provider.rotate_key(provider.get_key("orders"))
    provider.set_enabled(make(provider, "paused", KeyPurpose.ENCRYPT_DECRYPT), False)
    make(provider, "sig", KeyPurpose.SIGN_VERIFY, "ES256")
    make(provider, "macs", KeyPurpose.MAC, "HS256")
    doomed = make(provider, "doomed", KeyPurpose.ENCRYPT_DECRYPT)
    provider.schedule_destruction(doomed)
    now += timedelta(days=30)
    assert provider.describe_key(doomed).state is KeyState.DESTROYED
    provider.close()
    return path


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    for name in ("keys.db", "keys.db.root"):
        shutil.copy2(original.with_name(name), tmp_path / name)
    return tmp_path / "keys.db"


@pytest.fixture
def live(path: Path) -> Iterator[LocalProvider]:
    provider = LocalProvider.connect(uri(path))
    yield provider
    provider.close()


def edit(path: Path, *statements: str, **values: SQLValue) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement, values)


def rows(path: Path, statement: str) -> list[tuple[SQLValue, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def refused(path: Path) -> None:
    with pytest.raises(KeystoreError):
        LocalProvider.connect(uri(path)).close()
    try:
        report = check_store(uri(path))
    except KeystoreError:
        return
    assert report.problems


def use_all(provider: LocalProvider) -> None:
    """Use every key once."""
    for info in list(provider.list_keys()):
        status = provider.describe_key(info)
        if status.state is not KeyState.ENABLED:
            continue
        match info.purpose:
            case KeyPurpose.ENCRYPT_DECRYPT:
                wrapped = provider.wrap(info, DATA_KEY, CONTEXT)
                assert provider.unwrap(info, wrapped.ciphertext, wrapped.version, CONTEXT) == DATA_KEY
            case KeyPurpose.SIGN_VERIFY:
                provider.sign(info, bytes(32), True)
            case _:
                provider.mac(info, b"m")


def test_the_original_is_sound(path: Path) -> None:
    report = check_store(uri(path))
    assert (report.keys, report.versions, report.destroyed, report.problems) == (4, 5, 1, ())
    with closing(LocalProvider.connect(uri(path))) as provider:
        use_all(provider)


def variants(value: SQLValue) -> list[SQLValue]:
    """Other values for a column: each bit of a few bytes flipped, other types, nothing."""
    found: list[SQLValue] = [None, 0, -1, 2**63 - 1, 1.5, "", b"", "\0"]
    if isinstance(value, int):
        found += [value + 1, value - 1, -value, float(value), str(value), f"{value} ", str(value).encode()]
    if isinstance(value, str):
        found += [
            value.encode(),
            value[:-1],
            value[1:],
            value + value,
            value.upper(),
            value.replace(":", ": "),
        ]
        found += [
            value[:at] + chr(ord(value[at]) ^ 1) + value[at + 1 :]
            for at in {0, len(value) // 2, len(value) - 1}
        ]
    if isinstance(value, bytes):
        found += [value[:-1], value + b"\0", value * 2, value.hex()]
        found += [
            value[:at] + bytes([value[at] ^ 1 << bit]) + value[at + 1 :]
            for at in {0, 11, 12, len(value) // 2, len(value) - 1} & set(range(len(value)))
            for bit in range(8)
        ]
    return [other for other in found if not (type(other) is type(value) and other == value)]


def test_every_column_of_every_row_is_protected(path: Path) -> None:
    tables = {
        "store": ["header", "generation", "mac"],
        "entries": ["id", "generation", "current", "meta", "sealed"],
    }
    changed = 0
    with closing(sqlite3.connect(path)) as connection:
        for table, columns in tables.items():
            for column in columns:
                held = connection.execute(f"SELECT id, {column} FROM {table}").fetchall()  # noqa: S608 (fixed names)
                for row_id, value in held:
                    for other in variants(value):
                        update = f"UPDATE OR IGNORE {table} SET {column} = ? WHERE id = ?"  # noqa: S608 (fixed names)
                        connection.execute(update, (other, row_id))
                        connection.commit()
                        select = f"SELECT {column} FROM {table} WHERE id IS ?"  # noqa: S608 (fixed names)
                        now = connection.execute(select, (other if column == "id" else row_id,)).fetchone()
                        if now is None or (type(now[0]) is type(value) and now[0] == value):
                            continue  # SQLite refused it, or its column affinity turned it back
                        with pytest.raises(KeystoreError):
                            LocalProvider.connect(uri(path)).close()
                        changed += 1
                        connection.execute(update, (value, other if column == "id" else row_id))
                        connection.commit()
    assert changed > 500
    with closing(LocalProvider.connect(uri(path))) as provider:
        use_all(provider)


EDITS: dict[str, tuple[str, ...]] = {
    "delete a version": ("DELETE FROM entries WHERE id = 'orders/1'",),
    "delete a key": ("DELETE FROM entries WHERE id = 'macs' OR id = 'macs/1'",),
    "delete a tombstone": ("DELETE FROM entries WHERE id GLOB 'doomed*'",),
    "delete all": ("DELETE FROM entries",),
    "delete the header": ("DELETE FROM store",),
    "swap what two rows seal": (
        "CREATE TEMP TABLE t AS SELECT * FROM entries",
        "UPDATE entries SET sealed = (SELECT sealed FROM t WHERE id = 'orders/2') WHERE id = 'orders/1'",
        "UPDATE entries SET sealed = (SELECT sealed FROM t WHERE id = 'orders/1') WHERE id = 'orders/2'",
    ),
    "swap two rows": (
        "UPDATE entries SET id = 'x' WHERE id = 'orders/1'",
        "UPDATE entries SET id = 'orders/1' WHERE id = 'orders/2'",
        "UPDATE entries SET id = 'orders/2' WHERE id = 'x'",
    ),
    "swap two keys": (
        "UPDATE entries SET id = 'x' WHERE id = 'orders'",
        "UPDATE entries SET id = 'orders' WHERE id = 'paused'",
        "UPDATE entries SET id = 'paused' WHERE id = 'x'",
    ),
    "copy a row": (
        "INSERT INTO entries SELECT 'orders/3', generation, current, meta, sealed FROM entries WHERE id = 'orders/2'",
    ),
    "go back to an old version": ("UPDATE entries SET current = 1 WHERE id = 'orders'",),
    "enable a key": ("UPDATE entries SET meta = replace(meta, 'DISABLED', 'ENABLED') WHERE id = 'paused'",),
    "raise the generation": ("UPDATE store SET generation = generation + 1",),
    "lower the generation": ("UPDATE store SET generation = generation - 1",),
    "a second header": (
        "INSERT INTO store SELECT 2, header, generation, mac FROM store",
        "DELETE FROM store WHERE id = 1",
    ),
    "a trigger": ("CREATE TRIGGER t AFTER UPDATE ON store BEGIN DELETE FROM entries; END",),
    "an index": ("CREATE INDEX i ON entries (generation)",),
    "a table": ("CREATE TABLE copies (a)",),
    "a view": ("CREATE VIEW v AS SELECT * FROM entries",),
    "a column": ("ALTER TABLE entries ADD COLUMN extra",),
    "another table in its place": (
        "ALTER TABLE entries RENAME TO e",
        "CREATE VIEW entries AS SELECT * FROM e",
    ),
    "no table": ("DROP TABLE entries",),
    "an older schema": ("PRAGMA user_version = 0",),
    "a later schema": ("PRAGMA user_version = 2",),
}


@pytest.mark.parametrize("statements", EDITS.values(), ids=EDITS)
def test_an_edited_store_does_not_open(path: Path, statements: tuple[str, ...]) -> None:
    edit(path, *statements)
    refused(path)


ROWS_KEPT = (
    "a trigger",
    "an index",
    "a table",
    "a view",
    "a column",
    "another table",
    "an older schema",
    "a later schema",
)
LIVE = {name: EDITS[name] for name in EDITS if not name.startswith(ROWS_KEPT)}


@pytest.mark.parametrize("statements", LIVE.values(), ids=LIVE)
def test_an_open_store_that_is_edited_stops_working(
    live: LocalProvider, path: Path, statements: tuple[str, ...]
) -> None:
    use_all(live)
    edit(path, *statements)
    with pytest.raises(KeystoreError):
        use_all(live)
    with pytest.raises(KeystoreError):
        list(live.list_keys())


def test_each_row_edited_under_an_open_store_is_found_by_the_operation_that_uses_it(
    live: LocalProvider, path: Path
) -> None:
    orders = live.get_key("orders")
    wrapped = live.wrap(orders, DATA_KEY, CONTEXT)
    edit(path, "UPDATE entries SET sealed = zeroblob(length(sealed)) WHERE id = 'orders/2'")
    with pytest.raises(KeystoreError):
        live.wrap(orders, DATA_KEY, CONTEXT)
    with pytest.raises(KeystoreError):
        live.unwrap(orders, wrapped.ciphertext, wrapped.version, CONTEXT)
    assert live.mac(live.get_key("macs"), b"m")


def save(path: Path, where: str) -> list[tuple[SQLValue, ...]]:
    return rows(path, f"SELECT * FROM entries WHERE id {where}")  # noqa: S608 (fixed conditions)


def put(path: Path, saved: list[tuple[SQLValue, ...]]) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?)", saved)


@pytest.mark.parametrize("header_too", [False, True], ids=["rows", "rows and header"])
def test_old_rows_put_back_are_found(path: Path, header_too: bool) -> None:
    old, old_header = save(path, "= 'paused'"), rows(path, "SELECT * FROM store")
    live = LocalProvider.connect(uri(path))
    info = live.get_key("paused")
    live.set_enabled(info, True)
    live.schedule_destruction(info)
    live.cancel_destruction(info)
    live.rotate_key(live.get_key("orders"))
    put(path, old)
    if header_too:
        edit(path, "DELETE FROM store")
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.executemany("INSERT INTO store VALUES (?, ?, ?, ?)", old_header)
    with pytest.raises(KeystoreError):
        live.describe_key(info)
    with pytest.raises(KeystoreError):
        live.set_enabled(info, True)
    live.close()
    refused(path)


def test_a_destroyed_key_put_back_is_found(path: Path) -> None:
    now = datetime(2027, 1, 1, tzinfo=UTC)
    live = LocalProvider.connect(uri(path), clock=lambda: now)
    info = live.get_key("orders")
    old = save(path, "GLOB 'orders*'")
    live.schedule_destruction(info)
    now += timedelta(days=30)
    assert live.describe_key(info).state is KeyState.DESTROYED
    put(path, old)
    with pytest.raises(KeystoreError):
        live.wrap(info, DATA_KEY, CONTEXT)
    live.close()
    refused(path)


def test_the_whole_content_put_back_is_found_by_a_process_that_saw_more(path: Path) -> None:
    old, old_header = save(path, "IS NOT NULL"), rows(path, "SELECT * FROM store")
    live = LocalProvider.connect(uri(path))
    make(live, "later", KeyPurpose.ENCRYPT_DECRYPT)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM entries")
        connection.execute("DELETE FROM store")
        connection.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", old)
        connection.executemany("INSERT INTO store VALUES (?, ?, ?, ?)", old_header)
    with pytest.raises(KeystoreError, match="rolled back"):
        live.get_key("orders")
    with pytest.raises(KeystoreError, match="rolled back"):
        make(live, "later", KeyPurpose.ENCRYPT_DECRYPT)
    live.close()
    # A new process cannot know (docs/providers/local.md): only the generation, noted elsewhere, tells.
    assert check_store(uri(path)).problems == ()


def test_rows_of_another_store_are_refused(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    shutil.copy2(path.with_name("keys.db.root"), tmp_path / "other.db.root")
    with closing(LocalProvider.connect(uri(other), create=True)) as provider:
        make(provider, "orders", KeyPurpose.ENCRYPT_DECRYPT)
    put(path, save(other, "GLOB 'orders*'"))
    refused(path)


def test_another_store_under_the_same_root_in_this_ones_place_is_refused(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    shutil.copy2(path.with_name("keys.db.root"), tmp_path / "other.db.root")
    live = LocalProvider.connect(uri(path))
    with closing(LocalProvider.connect(uri(other), create=True)) as provider:
        for number in range(30):
            make(provider, f"key-{number}", KeyPurpose.ENCRYPT_DECRYPT)
    header = rows(other, "SELECT * FROM store")
    edit(path, "DELETE FROM store", "DELETE FROM entries")
    put(path, save(other, "IS NOT NULL"))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany("INSERT INTO store VALUES (?, ?, ?, ?)", header)
    with pytest.raises(KeystoreError):
        list(live.list_keys())
    live.close()


def reslotted(header: str, count: int) -> str:
    before, slot, after = re.split(r"(?<=\[)(.*)(?=\])", header)
    return before + ",".join([slot] * count) + after


CHANGES: list[Callable[[str], str]] = [
    lambda header: re.sub('"keystore":"[^"]*', '"keystore":"' + "a" * 26, header),
    lambda header: header.replace('"schema":1', '"schema":2'),
    lambda header: header.replace('"file"', '"external"'),
    lambda header: header.replace('"kind"', '"extra":1,"kind"'),
    lambda header: header.replace('"kind":"file",', ""),
    lambda header: header.replace('"wrapped":"', '"wrapped":"00'),
    lambda header: header.replace('"wrapped":"', '"wrapped":"zz'),
    lambda header: f"[{header}]",
    lambda header: "[" * 100_000,
    lambda header: reslotted(header, 0),
    lambda header: reslotted(header, 2),
    lambda header: reslotted(header, 3),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_header_is_refused(path: Path, change: Callable[[str], str]) -> None:
    ((header,),) = rows(path, "SELECT header FROM store")
    changed = change(str(header))
    assert changed != header
    edit(path, "UPDATE store SET header = :header", header=changed)
    refused(path)


@given(data=st.data())
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
def test_flipped_bits_in_the_file_give_our_errors_or_no_change(
    original: Path, path: Path, data: st.DataObject
) -> None:
    content = bytearray(original.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) * 8 - 1), min_size=1, max_size=4)):
        content[at // 8] ^= 1 << at % 8
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.write_bytes(content)
    with suppress(KeystoreError, UnavailableError), closing(LocalProvider.connect(uri(path))) as provider:
        assert [info.name for info in provider.list_keys()] == ["macs", "orders", "paused", "sig"]
        use_all(provider)
        make(provider, "later", KeyPurpose.ENCRYPT_DECRYPT)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 100, 512, 4095, 4096, 4097, 8192, -4096, -1])
def test_a_truncated_file_is_refused(path: Path, size: int) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:size])
    if content[size:] == b"\0":
        # SQLite reads a zero where a page lacks its last byte, so that nothing is lost.
        with closing(LocalProvider.connect(uri(path))) as provider:
            assert [info.name for info in provider.list_keys()] == ["macs", "orders", "paused", "sig"]
        return
    with pytest.raises(KeystoreError, match="restore"):
        LocalProvider.connect(uri(path)).close()


@pytest.mark.parametrize(
    "content", [b"x", b"SQLite format 3\0", b"\0" * 8192, b"SQLite format 3\0" + b"\xff" * 8176]
)
def test_a_file_that_is_no_database_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(KeystoreError, match="restore"):
        LocalProvider.connect(uri(path)).close()
