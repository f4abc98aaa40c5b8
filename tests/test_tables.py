"""Tables and record stores as places that a migration walks over, on SQLite and PostgreSQL, with others writing."""

from __future__ import annotations

import os
import pickle
import threading
import time
import uuid
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anykms import (
    Keyring,
    KMSClient,
    RecordStore,
    SQLAlchemyRecordStore,
    SQLiteRecordStore,
    StoredRecords,
    errors,
)
from anykms.envelope.message import MAGIC
from anykms.envelope.stream import Sink, Source, copy_rest
from anykms.migration.records import RecordTarget
from anykms.migration.tables import TableTarget
from anykms.migration.targets import HEAD, Entry, Swap
from anykms_contract.vectors import VectorProvider
from postgresql import Server

CLIENT = KMSClient(VectorProvider())
OLD, NEW = Keyring([CLIENT.key("alpha")]), Keyring([CLIENT.key("beta")])
TYPES: dict[str, Any] = {
    "int": sa.Integer(),
    "str": sa.String(2000),
    "bytes": sa.LargeBinary(),
    "uuid": sa.Uuid(),
    "decimal": sa.Numeric(20, 3),
    "moment": sa.DateTime(timezone=True),
    "local": sa.DateTime(),
    "date": sa.Date(),
}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/shop.db"
    found: str = request.getfixturevalue("postgresql_url")
    return found


class Place:
    """A table and the target over it."""

    def __init__(self, url: str, kind: str = "int", name: str = "cards", *, text: bool = False) -> None:
        self.url = url
        self.engine = sa.create_engine(url, connect_args={"timeout": 60} if url.startswith("sqlite") else {})
        self.table = sa.Table(
            name,
            sa.MetaData(),
            sa.Column("id", TYPES[kind], primary_key=True, autoincrement=False),
            sa.Column("message", sa.Text() if text else sa.LargeBinary()),
        )
        self.table.create(self.engine)
        self.target = TableTarget(
            url, table=name, id_column="id", column="message", encoding="base64" if text else "binary"
        )

    def put(self, rows: dict[Any, bytes | str | None]) -> None:
        with self.engine.begin() as connection:
            connection.execute(
                sa.insert(self.table), [{"id": key, "message": value} for key, value in rows.items()]
            )

    def get(self) -> dict[Any, Any]:
        with self.engine.connect() as connection:
            return {key: value for key, value in connection.execute(sa.select(self.table)).all()}  # noqa: C416 # rows

    def close(self) -> None:
        self.target.close()
        self.engine.dispose()


@pytest.fixture
def place(url: str) -> Iterator[Place]:
    made = Place(url)
    yield made
    made.close()


@pytest.fixture
def text_place(url: str) -> Iterator[Place]:
    made = Place(url, text=True)
    yield made
    made.close()


# Walking and reading


def test_entries_starts_and_reading(place: Place) -> None:
    rows: dict[Any, bytes | str | None] = {1: b"", 2: b"\0\xff" * 5000, 3: None, -4: b"x"}
    place.put(rows)
    assert sorted(place.target.entries(), key=lambda entry: int(entry.id)) == [
        Entry("-4", 1),
        Entry("1", 0),
        Entry("2", 10_000),
    ]
    assert place.target.starts(["2", "1", "3", "9", "-4", "2"], 7) == [
        b"\0\xff" * 3 + b"\0", b"", None, None, b"x", b"\0\xff" * 3 + b"\0",
    ]  # fmt: skip
    assert place.target.starts([]) == []
    (start,) = place.target.starts(["2"])
    assert start is not None
    assert len(start) == HEAD
    with place.target.reading("2") as source:
        assert source.read(3) == b"\0\xff\0"
        assert source.read(10**6) == b"\xff" + b"\0\xff" * 4998
    for gone in ("3", "9"):
        with pytest.raises(FileNotFoundError), place.target.reading(gone):
            pass


def test_a_long_table_is_walked_in_pages_while_rows_come_and_go(place: Place) -> None:
    place.put({n: b"%d" % n for n in range(0, 5000, 2)})
    seen: list[int] = []
    for entry in place.target.entries():
        seen.append(int(entry.id))
        if len(seen) % 500 == 0:
            with place.engine.begin() as connection:
                connection.execute(sa.delete(place.table).where(place.table.c.id == seen[-1]))
                connection.execute(sa.insert(place.table), {"id": seen[-1] + 1, "message": b"new"})
    assert seen == sorted(seen)
    assert set(range(0, 5000, 2)) <= set(seen)


def test_empty_batches_and_pages_that_end_exactly(place: Place) -> None:
    assert list(place.target.entries()) == []
    assert place.target.swap([]) == []
    place.put(dict.fromkeys(range(2000), b"x"))
    assert len(list(place.target.entries())) == 2000


# Ids


_TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=100)
IDS: dict[str, st.SearchStrategy[Any]] = {
    "int": st.integers(-(2**31), 2**31 - 1),
    "str": _TEXTS,
    "bytes": st.binary(max_size=100),
    "uuid": st.uuids(),
}
OTHER_IDS: dict[str, st.SearchStrategy[Any]] = {
    "decimal": st.decimals("-1e15", "1e15", places=3),
    "moment": st.datetimes(
        datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)
    ),  # they want it so
    "local": st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)),  # they want it so
    "date": st.dates(),
}


@pytest.mark.parametrize("kind", IDS)
def test_every_id_names_its_row_and_is_printable(url: str, kind: str) -> None:
    check_ids(Place(url, kind), IDS[kind])


@pytest.mark.parametrize("kind", OTHER_IDS)
def test_ids_of_types_that_sqlite_lacks(postgresql_url: str, kind: str) -> None:
    check_ids(Place(postgresql_url, kind), OTHER_IDS[kind])


def check_ids(place: Place, ids: st.SearchStrategy[Any]) -> None:
    @settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
    @given(st.sets(ids, min_size=1, max_size=30))
    def check(keys: set[Any]) -> None:
        with place.engine.begin() as connection:
            connection.execute(sa.delete(place.table))
        place.put({key: repr(key).encode() for key in keys})
        entries = list(place.target.entries())
        assert all(entry.id.isprintable() and len(entry.id) <= 1024 for entry in entries)
        assert len({entry.id for entry in entries}) == len(keys)
        found = place.target.starts([entry.id for entry in entries])
        assert sorted(start or b"" for start in found) == sorted(repr(key).encode() for key in keys)
        assert place.target.swap(
            [Swap(entry.id, start or b"", b"!") for entry, start in zip(entries, found, strict=True)]
        ) == ([True] * len(keys))
        assert place.get() == dict.fromkeys(keys, b"!")

    check()
    place.close()


@pytest.mark.parametrize(
    ("kind", "key", "text"),
    [
        ("int", -17, "-17"),
        ("str", "50 % ä\n\u202e", "50 %25 ä%0A%E2%80%AE"),
        ("bytes", b"\0\xff", "00ff"),
        ("uuid", uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ],
)
def test_an_id_has_one_text(url: str, kind: str, key: Any, text: str) -> None:
    place = Place(url, kind)
    place.put({key: b"x"})
    if kind == "uuid" and url.startswith("sqlite"):  # it has no such type: SQLAlchemy stores 32 digits
        text = text.replace("-", "")
    assert [entry.id for entry in place.target.entries()] == [text]
    bad = {
        "int": ["017", "+17", "1_7", "x", "", " 17", "\u0661"],
        "str": ["%", "%0a", "%41", "\n", "%ff"],
        "bytes": ["00FF", "0", "00 ff"],
        "uuid": [uuid.UUID(int=1).hex, "{00000000-0000-0000-0000-000000000001}"],
    }
    for other in bad[kind] if text != uuid.UUID(int=1).hex else ["%"]:
        with pytest.raises(errors.InvalidArgumentError):
            place.target.starts([other])
        with pytest.raises(errors.InvalidArgumentError):
            place.target.swap([Swap(other, b"", b"x")])
    place.close()


@pytest.mark.parametrize(
    ("kind", "key", "text"),
    [
        ("decimal", Decimal("1.500"), "1.500"),
        ("moment", datetime(2024, 1, 2, 3, 4, 5, 6, UTC), "2024-01-02T03:04:05.000006+00:00"),
        ("date", date(2024, 1, 2), "2024-01-02"),
    ],
)
def test_an_id_of_another_type_has_one_text_too(postgresql_url: str, kind: str, key: Any, text: str) -> None:
    place = Place(postgresql_url, kind)
    place.put({key: b"x"})
    assert [entry.id for entry in place.target.entries()] == [text]
    place.close()


def test_ids_that_only_a_collation_holds_equal_are_all_walked(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/shop.db")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (id TEXT COLLATE NOCASE, m BLOB)")
        connection.exec_driver_sql("CREATE UNIQUE INDEX u ON t (id COLLATE BINARY)")
        for n in range(1500):
            connection.exec_driver_sql("INSERT INTO t VALUES (?, x'00'), (?, x'01')", (f"k{n}", f"K{n}"))
    engine.dispose()
    target = TableTarget(f"sqlite:///{tmp_path}/shop.db", table="t", id_column="id", column="m")
    assert len({entry.id for entry in target.entries()}) == 3000
    target.close()


def test_rows_that_cannot_be_named_are_never_passed_over_in_silence(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE a (id TEXT PRIMARY KEY, m BLOB)")
        connection.exec_driver_sql("INSERT INTO a VALUES (NULL, x'00')")
        connection.exec_driver_sql("CREATE TABLE b (id INT PRIMARY KEY, m BLOB)")
        connection.exec_driver_sql("INSERT INTO b VALUES ('text', x'00')")
        connection.exec_driver_sql("CREATE TABLE c (id TEXT PRIMARY KEY, m BLOB)")
        connection.exec_driver_sql("INSERT INTO c VALUES (?, x'00')", ("x" * 1025,))
    engine.dispose()
    for table, match in (("a", "without id"), ("b", "holds a str"), ("c", "more than 1024")):
        target = TableTarget(url, table=table, id_column="id", column="m")
        with pytest.raises(errors.InvalidArgumentError, match=match):
            list(target.entries())
        target.close()


# Swapping


def test_only_what_begins_with_the_old_header_gets_the_new_one(place: Place) -> None:
    bodies = {n: os.urandom(n * 10) + b"\0" for n in range(40)}
    place.put({n: b"\0old\xff" + bytes([n]) + body for n, body in bodies.items()})
    place.put({100: None, 101: b"\0ol", 102: b""})
    swaps = [Swap(str(n), b"\0old\xff" + bytes([n]), b"\xff" * (n % 12)) for n in range(40)]
    swaps += [
        Swap("7000", b"", b"x"),
        Swap("100", b"", b"x"),
        Swap("101", b"\0old\xff", b"x"),
        Swap("102", b"\0", b"x"),
    ]
    assert place.target.swap(swaps) == [True] * 40 + [False] * 4
    assert place.get() == {
        **{n: b"\xff" * (n % 12) + body for n, body in bodies.items()},
        100: None,
        101: b"\0ol",
        102: b"",
    }
    assert place.target.swap(swaps[12:24]) == [False] * 12


def test_one_row_twice_in_a_batch_is_swapped_in_order(place: Place) -> None:
    place.put({1: b"a body"})
    swaps = [Swap("1", b"a ", b"b "), Swap("1", b"a ", b"c "), Swap("1", b"b ", b"d ")]
    assert place.target.swap(swaps) == [True, False, True]
    assert place.get() == {1: b"d body"}


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200), st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=60))
def test_any_bytes_are_swapped_to_the_byte(
    shared: Callable[[], list[Place]], body: bytes, old: bytes, new: bytes, other: bytes
) -> None:
    for place in shared():
        with place.engine.begin() as connection:
            connection.execute(sa.delete(place.table))
        place.put({1: old + body, 2: other + body})
        assert place.target.swap([Swap("1", old, new), Swap("2", old, new)]) == [
            True,
            (other + body).startswith(old),
        ]
        second = new + (other + body)[len(old) :] if (other + body).startswith(old) else other + body
        assert place.get() == {1: new + body, 2: second}


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, postgresql_server: Server
) -> Iterator[Callable[[], list[Place]]]:
    folder = tmp_path_factory.mktemp("shared")
    sixteen = f"sqlite:///{folder}/sixteen.db"
    with sa.create_engine(sixteen).connect() as connection:
        connection.exec_driver_sql("PRAGMA encoding = 'UTF-16'")
        connection.exec_driver_sql("CREATE TABLE t (x)")
    places = [Place(f"sqlite:///{folder}/eight.db"), Place(sixteen), Place(postgresql_server.new_database())]
    yield lambda: places
    for place in places:
        place.close()


def test_a_text_cell_in_a_column_of_bytes_is_its_bytes(tmp_path: Path) -> None:
    """SQLite keeps in a cell what it was given."""
    place = Place(f"sqlite:///{tmp_path}/shop.db")
    with place.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO cards VALUES (1, 'ä text'), (2, 17)")
    assert [entry.size for entry in place.target.entries()] == [7, 2]
    assert place.target.starts(["1", "2"]) == ["ä text".encode(), b"17"]
    assert place.target.swap([Swap("1", "ä".encode(), b"\xff")]) == [True]
    assert place.target.starts(["1"]) == [b"\xff text"]
    place.close()


def test_writers_and_swaps_never_lose_each_others_changes(place: Place) -> None:
    """Writers replace whole values, migrations replace headers: each value ends as one of them left it whole."""
    count, rounds = 60, 4
    place.put(dict.fromkeys(range(count), b"old|0"))
    stop = threading.Event()
    last = dict.fromkeys(range(count), 0)

    def write() -> None:
        version = 0
        while not stop.is_set():
            version += 1
            for n in range(0, count, 3):
                with place.engine.begin() as connection:
                    connection.execute(
                        sa.update(place.table)
                        .where(place.table.c.id == n)
                        .values(message=b"old|%d" % version)
                    )
                last[n] = version

    def migrate(_: int) -> None:
        for _ in range(rounds):
            ids = [str(n) for n in range(count)]
            starts = place.target.starts(ids, 4)
            swaps = [
                Swap(i, b"old|", b"new!|") for i, start in zip(ids, starts, strict=True) if start == b"old|"
            ]
            place.target.swap(swaps)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(migrate, range(3)))
    finally:
        stop.set()
        writer.join()
    migrate(0)
    assert place.get() == {n: b"new!|%d" % last[n] for n in range(count)}


def test_a_row_that_somebody_holds_does_not_hold_the_others(postgresql_url: str) -> None:
    place = Place(postgresql_url)
    place.put(dict.fromkeys(range(5), b"old body"))
    held = place.engine.connect()
    held.execute(sa.update(place.table).where(place.table.c.id == 2).values(message=b"old written"))
    with ThreadPoolExecutor(1) as pool:
        swapping = pool.submit(place.target.swap, [Swap(str(n), b"old", b"new") for n in range(5)])
        while [value for key, value in place.get().items() if key != 2] != [b"new body"] * 4:
            time.sleep(0.01)
        assert not swapping.done()
        with place.engine.begin() as connection:  # nobody waits for a row of the batch
            connection.execute(sa.update(place.table).where(place.table.c.id == 4).values(message=b"free"))
        held.commit()
        assert swapping.result() == [True] * 5
    held.close()
    assert place.get() == {0: b"new body", 1: b"new body", 2: b"new written", 3: b"new body", 4: b"free"}
    place.close()


def test_a_row_that_is_held_for_long_is_unavailable(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anykms.migration.tables._LOCK_WAIT", "10ms")
    place = Place(postgresql_url)
    place.put({1: b"old", 2: b"old"})
    with place.engine.begin() as connection:
        connection.execute(sa.select(place.table).where(place.table.c.id == 1).with_for_update())
        with pytest.raises(errors.UnavailableError):
            place.target.swap([Swap("1", b"old", b"new"), Swap("2", b"old", b"new")])
    assert place.get() == {1: b"old", 2: b"new"}
    assert place.target.swap([Swap("1", b"old", b"new"), Swap("2", b"old", b"new")]) == [True, False]
    place.close()


# Replacing


def test_a_row_is_replaced_only_as_it_was_read(place: Place) -> None:
    place.put({1: b"old", 2: None})

    def upper(source: Source, sink: Sink) -> int:
        data = source.read(100) or b""
        sink.write(data.upper())
        return len(data)

    assert place.target.replace("1", upper) == 3
    assert place.get()[1] == b"OLD"
    for statement, error in (
        (sa.update(place.table).values(message=b"theirs"), errors.ConflictError),
        (sa.update(place.table).values(message=None), FileNotFoundError),
    ):
        with place.engine.begin() as connection:
            connection.execute(sa.update(place.table).values(message=b"OLD"))

        def late(source: Source, sink: Sink) -> None:
            copy_rest(source, sink)
            with place.engine.begin() as connection:
                connection.execute(statement)  # noqa: B023 # run at once

        with pytest.raises(error):
            place.target.replace("1", late)
    for gone in ("2", "9"):
        with pytest.raises(FileNotFoundError):
            place.target.replace(gone, upper)


# Text


def test_messages_in_base64_are_entries_and_other_text_is_its_bytes(text_place: Place) -> None:
    messages = {n: OLD.encrypt(bytes(n), context={"n": str(n)}) for n in range(7)}
    token = urlsafe_b64encode(b"\x80" + bytes(60)).decode()
    rubbish = b64encode(MAGIC + b"x").decode() + "*"
    text_place.put({n: b64encode(message).decode() for n, message in messages.items()})
    text_place.put({10: token, 11: "ä", 12: rubbish, 13: None, 14: ""})
    target = text_place.target
    sizes = {entry.id: entry.size for entry in target.entries()}
    assert {n: sizes[str(n)] for n in range(7)} == {n: len(message) for n, message in messages.items()}
    assert (sizes["10"], sizes["11"], sizes["14"], "13" in sizes) == (len(token), 2, 0, False)
    for size in (1, 2, 3, 50, HEAD):
        found = target.starts(["0", "1", "2", "10", "11", "14"], size)
        assert found[:3] == [messages[n][:size] for n in range(3)]
        assert found[3:] == [token.encode()[:size], "ä".encode()[:size], b""]
    assert target.starts(["12"]) == [rubbish.encode()]
    swaps: list[Swap] = []
    for n, message in messages.items():
        result = OLD.rewrap(message, to=NEW if n % 2 else [*map(CLIENT.key, ("alpha", "beta"))])
        body = len(message) - len(OLD.encrypt(b"", context={"n": str(n)})) + 72
        swaps.append(Swap(str(n), message[:-body], result.message[:-body]))
    assert target.swap([*swaps, Swap("10", b"gAAAAB", b"x")]) == [True] * 7 + [False]
    assert target.swap(swaps) == [False] * 7
    for n in range(7):
        with target.reading(str(n)) as source:
            assert NEW.decrypt(source.read(10**6) or b"", context={"n": str(n)}) == bytes(n)

    def write(data: bytes) -> Callable[[Source, Sink], None]:
        def written(_: Source, sink: Sink) -> None:
            sink.write(data)

        return written

    target.replace("10", write(messages[3]))
    target.replace("11", write(token.encode()))
    cells = text_place.get()
    assert (cells[10], cells[11]) == (b64encode(messages[3]).decode(), token)
    with pytest.raises(errors.InvalidArgumentError, match="neither"):
        target.replace("11", write(b"\xff"))


# What is told at first use


def test_what_a_target_is_given_is_checked(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    good: dict[str, Any] = {"table": "t", "id_column": "id", "column": "m"}
    wrong: tuple[dict[str, Any], ...] = ({"table": ""}, {"encoding": "hex"}, {"id_column": ""})
    for change in wrong:
        with pytest.raises(errors.InvalidArgumentError):
            TableTarget(url, **{**good, **change})
    for bad in ("nonsense", "sqlite://", 5):
        with pytest.raises((errors.InvalidArgumentError, TypeError)):
            TableTarget(bad, **good)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError):
        TableTarget(url, table=5, id_column="id", column="m")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    target = TableTarget(url, **good)
    with pytest.raises(errors.UnavailableError, match="no file"):
        list(target.entries())
    assert not (tmp_path / "shop.db").exists()


def test_a_table_that_does_not_fit_is_told_at_first_use(url: str) -> None:
    metadata = sa.MetaData()
    sa.Table(
        "t",
        metadata,
        sa.Column("a", sa.Integer, primary_key=True),
        sa.Column("b", sa.Integer, primary_key=True),
        sa.Column("unique", sa.Integer, unique=True),
        sa.Column("partly", sa.Integer),
        sa.Column("real", sa.Float, unique=True),
        sa.Column("m", sa.LargeBinary),
        sa.Column("text", sa.Text),
        sa.Index(
            "i", "partly", unique=True, sqlite_where=sa.text("a > 0"), postgresql_where=sa.text("a > 0")
        ),
    )
    engine = sa.create_engine(url)
    metadata.create_all(engine)
    engine.dispose()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"table": "T; DROP TABLE t"}, "no table"),
        ({"schema": "nowhere"}, "no table|cannot be used"),
        ({"column": "M"}, "it has: a, b"),
        ({"id_column": "a"}, "not unique"),
        ({"id_column": "partly"}, "not unique"),
        ({"id_column": "real"}, "cannot name entries"),
        ({"column": "text"}, "use encoding base64"),
        ({"encoding": "base64"}, "is for text"),
    ]
    for change, match in cases:
        named: dict[str, Any] = {"table": "t", "id_column": "unique", "column": "m", **change}
        target = TableTarget(url, **named)
        with pytest.raises((errors.InvalidArgumentError, errors.UnavailableError), match=match):
            list(target.entries())
        target.close()
    with TableTargetOf(url, "t", "unique", "m") as target:
        assert list(target.entries()) == []


class TableTargetOf:
    def __init__(self, url: str, table: str, id_column: str, column: str, schema: str | None = None) -> None:
        self._target = TableTarget(url, table=table, id_column=id_column, column=column, schema=schema)

    def __enter__(self) -> TableTarget:
        return self._target

    def __exit__(self, *_: object) -> None:
        self._target.close()


def test_names_are_quoted_wherever_they_go(postgresql_url: str) -> None:
    engine = sa.create_engine(postgresql_url)
    table = sa.Table(
        'odd "; DROP TABLE x; --',
        sa.MetaData(schema='s"%'),
        sa.Column("ID %s", sa.Integer, primary_key=True),
        sa.Column('m":x', sa.LargeBinary),
    )
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema('s"%'))
        table.create(connection)
        connection.execute(sa.insert(table), {"ID %s": 1, 'm":x': b"old body"})
    engine.dispose()
    with TableTargetOf(postgresql_url, table.name, "ID %s", 'm":x', 's"%') as target:
        assert [entry.id for entry in target.entries()] == ["1"]
        assert target.swap([Swap("1", b"old", b"new")]) == [True]
        assert target.starts(["1"]) == [b"new body"]
        assert target.name.endswith("#s%22%25/odd%20%22%3B%20DROP%20TABLE%20x%3B%20--/ID%20%25s/m%22%3Ax")


def test_a_name_has_no_credentials_and_a_pickle_works_elsewhere(place: Place) -> None:
    place.put({1: b"x"})
    list(place.target.entries())
    again = pickle.loads(pickle.dumps(place.target))  # noqa: S301 # our own
    assert (again.name, again.starts(["1"])) == (place.target.name, [b"x"])
    again.close()
    secret = TableTarget(
        "postgresql://u:hunter2@db:1/shop?password=hunter2", table="t", id_column="i", column="c"
    )
    assert secret.name == "postgresql://db:1/shop#t/i/c"
    assert "hunter2" not in repr(secret)


# Records


@pytest.fixture
def records(url: str) -> Iterator[tuple[StoredRecords, RecordStore, RecordTarget]]:
    target = RecordTarget(url)
    with SQLAlchemyRecordStore(url) as store:
        yield StoredRecords(OLD, store, context={"table": "t"}), store, target
    target.close()


def rewrapped(target: RecordTarget, record_id: bytes, ring: Keyring = OLD, to: Keyring = NEW) -> Swap:
    (start,) = target.starts([record_id.hex()])
    assert start is not None
    return Swap(record_id.hex(), start, ring.rewrap(start, to=to).message)


def test_records_are_swapped_and_their_generation_is_noted(
    records: tuple[StoredRecords, RecordStore, RecordTarget],
) -> None:
    stored, store, target = records
    made = [stored.create() for _ in range(5)]
    values = [record.seal(b"%d" % n, aad=b"") for n, record in enumerate(made)]
    assert {entry.id for entry in target.entries()} == {record.record_id.hex() for record in made}
    swaps = [rewrapped(target, record.record_id) for record in made]
    assert target.swap(swaps) == [True] * 5
    assert target.swap(swaps) == [False] * 5
    assert [store.generation(record.record_id) for record in made] == [1] * 5
    again = StoredRecords(NEW, store, context={"table": "t"})
    assert [again.open(value, aad=b"") for value in values] == [b"0", b"1", b"2", b"3", b"4"]
    with target.reading(made[0].record_id.hex()) as source:
        assert source.read(10**5) == swaps[0].new
    assert target.swap([Swap(bytes(16).hex(), b"", swaps[0].new)]) == [False]


def test_a_record_that_was_put_back_is_not_laundered_by_a_migration(
    records: tuple[StoredRecords, RecordStore, RecordTarget],
) -> None:
    stored, store, target = records
    record, other = stored.create(), stored.create()
    first = rewrapped(target, record.record_id)
    assert target.swap([first]) == [True]
    store.replace(record.record_id, first.old, expected=first.new)
    swaps = [rewrapped(target, other.record_id), rewrapped(target, record.record_id)]
    with pytest.raises(errors.StaleMessageError):
        target.swap(swaps)
    assert store.get(record.record_id) == first.old
    assert store.get(other.record_id) == swaps[0].old
    assert target.swap(swaps[:1]) == [True]


def test_a_record_does_not_go_back_to_an_older_generation(
    records: tuple[StoredRecords, RecordStore, RecordTarget],
) -> None:
    stored, _, target = records
    record = stored.create()
    swap = rewrapped(target, record.record_id)
    assert target.swap([swap]) == [True]
    with pytest.raises(errors.StaleMessageError, match="only rises"):
        target.swap([Swap(swap.id, swap.new, swap.old)])
    back = rewrapped(target, record.record_id, NEW, OLD)
    assert target.swap([back]) == [True]


def test_a_crash_between_record_and_generation_is_made_good(url: str, tmp_path: Path) -> None:
    elsewhere = f"sqlite:///{tmp_path}/generations.db"
    with SQLAlchemyRecordStore(url, generations=elsewhere) as store:
        record_id = StoredRecords(OLD, store, context={}).create().record_id
        target = RecordTarget(url, generations=elsewhere)
        swap = rewrapped(target, record_id)
        store.replace(record_id, swap.new, expected=swap.old)
        assert target.swap([swap]) == [False]
        assert store.generation(record_id) == 1
        target.close()


def test_a_record_is_replaced_by_nothing_but_itself(
    records: tuple[StoredRecords, RecordStore, RecordTarget],
) -> None:
    stored, store, target = records
    record, other = stored.create(), stored.create()
    entry = record.record_id.hex()

    def write(data: bytes) -> Callable[[Source, Sink], None]:
        def written(_: Source, sink: Sink) -> None:
            sink.write(data)

        return written

    for bad in (b"", b"x", other.to_bytes(), OLD.encrypt(b"x", context={}), record.to_bytes() + b"x"):
        with pytest.raises(errors.InvalidArgumentError, match="itself"):
            target.replace(entry, write(bad))
    new = rewrapped(target, record.record_id).new
    target.replace(entry, write(new))
    assert (store.get(record.record_id), store.generation(record.record_id)) == (new, 1)
    with pytest.raises(FileNotFoundError):
        target.replace(bytes(16).hex(), write(new))


def test_the_file_of_a_sqlite_store_is_a_target_too(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    with SQLiteRecordStore(path) as store:
        record = StoredRecords(OLD, store, context={}).create()
        target = pickle.loads(pickle.dumps(RecordTarget(f"sqlite:///{path}")))  # noqa: S301 # our own
        assert target.swap([rewrapped(target, record.record_id)]) == [True]
        assert store.generation(record.record_id) == 1
        assert NEW.open_record(store.get(record.record_id) or b"", context={})
        assert target.name == f"sqlite:///{path}#anykms_records/record_id/record"
        target.close()
