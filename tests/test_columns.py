"""Encrypted columns: what the ORM and Core store and read, and what somebody who can write the database cannot do."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import ForeignKey, event, exc, func, insert, select, update
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.dialects import sqlite as lite
from sqlalchemy.orm import (
    DeclarativeBase,
    InstrumentedAttribute,
    Mapped,
    Session,
    deferred,
    load_only,
    mapped_column,
    registry,
    relationship,
    selectin_polymorphic,
)

from anykms import Keyring, KMSClient, MemoryRecordStore, Record, StoredRecords, errors
from anykms.columns import EncryptedBytes, EncryptedString, SealedValue, UnboundValueError, opened
from anykms.wrapping import NOT_AUTHENTIC
from anykms_contract.vectors import VectorProvider

RING = Keyring([KMSClient(VectorProvider()).key("alpha")])
RECORD = RING.record(context={"table": "cards"})
CARD = "4111 1111 1111 1111"


class Base(DeclarativeBase):
    pass


class Card(Base):
    """A row whose key the application gives."""

    __tablename__ = "cards"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    number: Mapped[str] = mapped_column(EncryptedString(RECORD))
    pin: Mapped[bytes | None] = mapped_column(EncryptedBytes(RECORD))
    owner: Mapped[str] = mapped_column(default="")
    copy: Mapped[str | None] = mapped_column(EncryptedString(RECORD), unique=True)


class Counted(Base):
    """A row whose key the database gives."""

    __tablename__ = "counted"
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str | None] = mapped_column(EncryptedString(RECORD))
    note: Mapped[str | None] = mapped_column(unique=True)


class Line(Base):
    """A composite key, of names that differ in class and table."""

    __tablename__ = "lines"
    order_id: Mapped[int] = mapped_column("order", primary_key=True, autoincrement=False)
    position: Mapped[str] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column("body", EncryptedString(RECORD))
    later: Mapped[str | None] = deferred(mapped_column(EncryptedString(RECORD)))


class Person(Base):
    __tablename__ = "people"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str]
    name: Mapped[str] = mapped_column(EncryptedString(RECORD))
    cards: Mapped[list[PersonCard]] = relationship(back_populates="person")
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}  # noqa: RUF012 # theirs


class Employee(Person):
    """Joined inheritance: a key that is another table's."""

    __tablename__ = "employees"
    id: Mapped[int] = mapped_column(ForeignKey("people.id"), primary_key=True)
    salary: Mapped[str] = mapped_column(EncryptedString(RECORD))
    __mapper_args__ = {"polymorphic_identity": "employee"}  # noqa: RUF012 # theirs


class PersonCard(Base):
    __tablename__ = "person_cards"
    person_id: Mapped[int] = mapped_column(ForeignKey("people.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[str] = mapped_column(EncryptedString(RECORD))
    person: Mapped[Person] = relationship(back_populates="cards")


CARDS = Base.metadata.tables["cards"]
LINES = Base.metadata.tables["lines"]


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    sqlite = request.param == "sqlite"
    made = sa.create_engine(
        f"sqlite:///{tmp_path}/shop.db" if sqlite else request.getfixturevalue("postgresql_url")
    )
    Base.metadata.create_all(made)
    yield made
    made.dispose()


def stored(engine: sa.Engine, column: InstrumentedAttribute[Any]) -> list[bytes | None]:
    """The bytes that the database holds."""
    with engine.connect() as connection:
        return list(connection.scalars(select(sa.type_coerce(column.expression, sa.LargeBinary))))


# The ORM


def test_an_object_comes_back_and_the_database_holds_no_plaintext(engine: sa.Engine) -> None:
    with Session(engine) as session:
        card = Card(number=CARD, pin=b"\x00\xff", owner="ada")
        session.add(card)
        session.commit()
        assert (card.number, card.pin, card.copy) == (CARD, b"\x00\xff", None)  # reloaded: it had expired
        key = card.id
    with Session(engine) as session:
        found = session.get_one(Card, key)
        assert (type(found.number), type(found.pin)) == (str, bytes)
        assert (found.number, found.pin, found.copy, found.owner) == (CARD, b"\x00\xff", None, "ada")
    (number,), (pin,) = stored(engine, Card.number), stored(engine, Card.pin)
    assert number is not None
    assert pin is not None
    assert (number[:17], len(number)) == (b"\x01" + RECORD.record_id, len(CARD) + 89)
    assert CARD.encode() not in number
    assert stored(engine, Card.copy) == [None]


def test_the_aad_is_what_the_documentation_says(engine: sa.Engine) -> None:
    with Session(engine) as session:
        session.add(Line(order_id=-3, position="ä", text="x"))
        session.commit()
    (value,) = stored(engine, Line.text)
    sized = [len(part).to_bytes(4) + part for part in (b"", b"lines", b"body", b"-3", "ä".encode())]
    aad = b"anykms/v1 column" + b"".join(sized[:3]) + b"\x02" + b"i" + sized[3] + b"s" + sized[4]
    assert value is not None
    assert RECORD.open(value, aad=aad) == b"x"


def test_many_objects_in_one_flush(engine: sa.Engine) -> None:
    with Session(engine) as session:
        session.add_all([Card(number=f"card {n}", pin=None if n % 3 else b"%d" % n) for n in range(250)])
        session.commit()
        assert sorted(card.number for card in session.scalars(select(Card))) == sorted(
            f"card {n}" for n in range(250)
        )


def test_only_what_changed_is_sealed_anew(engine: sa.Engine) -> None:
    with Session(engine) as session:
        card = Card(number=CARD, pin=b"1")
        session.add(card)
        session.commit()
        before = stored(engine, Card.number), stored(engine, Card.pin)
        card.owner = "grace"
        session.commit()
        assert (stored(engine, Card.number), stored(engine, Card.pin)) == before
        card.pin = b"2"
        session.commit()
        assert stored(engine, Card.number) == before[0]
        assert stored(engine, Card.pin) != before[1]
        card.pin = None
        session.commit()
        assert stored(engine, Card.pin) == [None]
        assert session.scalars(select(Card).where(Card.pin.is_(None))).one() is card
        assert session.scalars(select(Card).where(Card.number != None)).one() is card  # noqa: E711 # SQL


def test_refresh_expire_merge_populate_existing_and_deferred(engine: sa.Engine) -> None:
    with Session(engine) as session:
        line = Line(order_id=1, position="a", text="one", later="two")
        session.add(line)
        session.commit()
        line.text = "not saved"
        session.refresh(line)
        assert (line.text, line.later) == ("one", "two")
        session.expire(line, ["text"])
        assert line.text == "one"
        session.expire(line)
        assert line.later == "two"
        line.text = "not saved"
        with session.no_autoflush:
            again = session.scalars(select(Line).execution_options(populate_existing=True)).one()
        assert again is line
        assert line.text == "one"
    with Session(engine) as other:
        merged = other.merge(Line(order_id=1, position="a", text="three"))
        other.commit()
        assert merged.text == "three"
        unloaded = other.merge(line, load=False)
        assert unloaded.text == "one"
    with Session(engine) as session:
        part = session.scalars(select(Line).options(load_only(Line.position))).one()
        assert (part.text, part.later) == ("three", "two")


def test_inheritance_and_keys_that_come_from_a_relationship(engine: sa.Engine) -> None:
    with Session(engine) as session:
        employee = Employee(id=7, name="Ada", salary="100")
        employee.cards = [PersonCard(name="main", number=CARD)]
        session.add_all([employee, Person(id=8, name="Grace")])
        session.commit()
    with Session(engine) as session:
        people = session.scalars(select(Person).order_by(Person.id)).all()
        assert [person.name for person in people] == ["Ada", "Grace"]
        first = people[0]
        assert isinstance(first, Employee)
        assert (first.salary, first.cards[0].number) == ("100", CARD)
    with Session(engine) as session:
        option = selectin_polymorphic(Person, [Employee])
        found = session.scalars(select(Person).options(option).where(Person.id == 7)).one()
        assert isinstance(found, Employee)
        assert (found.name, found.salary) == ("Ada", "100")
        found.salary = "200"
        session.commit()
        assert found.salary == "200"


def test_a_changed_primary_key_takes_its_values_along(engine: sa.Engine) -> None:
    with Session(engine) as session:
        session.add(Line(order_id=1, position="a", text="one", later="two"))
        session.commit()
    with Session(engine) as session:
        line = session.get_one(Line, (1, "a"))
        line.position = "b"
        session.commit()
        assert (line.text, line.later) == ("one", "two")
    with Session(engine) as session:
        line = session.get_one(Line, (1, "b"))
        assert (line.text, line.later) == ("one", "two")
        session.expire(line)
        line.order_id = 2
        line.text = "three"
        session.commit()
    with Session(engine) as session:
        line = session.get_one(Line, (2, "b"))
        assert (line.text, line.later) == ("three", "two")


def test_a_rolled_back_flush_leaves_plain_values(engine: sa.Engine) -> None:
    with Session(engine) as session:
        session.add(Line(order_id=1, position="a", text="one"))
        session.commit()
        twin = Line(order_id=1, position="a", text="two")
        session.add(twin)
        with pytest.raises(exc.IntegrityError) as caught:
            session.flush()
        assert "two" not in str(caught.value)
        session.rollback()
        assert twin.text == "two"


def test_bulk_statements_of_the_orm(engine: sa.Engine) -> None:
    keys = [uuid.uuid4() for _ in range(4)]
    with Session(engine) as session:
        session.execute(insert(Card), [{"id": key, "number": f"{n}"} for n, key in enumerate(keys[:2])])
        session.execute(insert(Card), [{"number": "of a default key"}])
        rows = [{"id": key, "number": f"{n}"} for n, key in enumerate(keys[2:], 2)]
        made = session.scalars(insert(Card).returning(Card), rows).all()
        assert sorted(card.number for card in made) == ["2", "3"]
        session.commit()
        session.execute(update(Card), [{"id": key, "number": f"new {n}"} for n, key in enumerate(keys)])
        session.execute(update(Card).where(Card.id == keys[0]).values(number="newest", owner="ada"))
        session.execute(update(Card).where(Card.owner == "").values(owner="grace"))
        session.commit()
        found = {card.id: (card.number, card.owner) for card in session.scalars(select(Card))}
    assert [found.pop(key) for key in keys] == [
        ("newest", "ada"),
        ("new 1", "grace"),
        ("new 2", "grace"),
        ("new 3", "grace"),
    ]
    assert list(found.values()) == [("of a default key", "grace")]
    with Session(engine) as session:
        session.bulk_save_objects([Line(order_id=n, position="p", text=f"{n}") for n in range(3)])
        session.bulk_update_mappings(Line, [{"order_id": 1, "position": "p", "text": "bulk"}])
        session.commit()
        assert [line.text for line in session.scalars(select(Line).order_by(Line.order_id))] == [
            "0",
            "bulk",
            "2",
        ]


# Core


def test_core_rows_are_sealed_and_queries_give_sealed_values(engine: sa.Engine) -> None:
    key = uuid.uuid4()
    with engine.begin() as connection:
        connection.execute(insert(CARDS), [{"id": key, "number": "1", "owner": "", "pin": b"2"}])
        connection.execute(insert(CARDS).values(id=uuid.uuid4(), number="3", pin=None, owner="x"))
        connection.execute(insert(CARDS).values(number="of a default key", owner="y"))
        connection.execute(insert(CARDS).values(owner="z"), {"number": "4"})
    with engine.connect() as connection:
        for row in connection.execute(select(CARDS)):
            assert isinstance(row.number, SealedValue)
            assert "4" not in repr(row.number)
        row = connection.execute(select(CARDS).where(CARDS.c.id == key)).one()
        assert opened(CARDS.c.number, row.number, key) == "1"
        assert opened(CARDS.c.pin, row.pin, key) == b"2"
        assert opened(CARDS.c.copy, row.copy, key) is None
        wrong: tuple[Any, ...]
        for wrong in ((uuid.uuid4(),), (1,), (), (key, key)):
            with pytest.raises((errors.InvalidCiphertextError, UnboundValueError)):
                opened(CARDS.c.number, row.number, *wrong)
        with pytest.raises(errors.InvalidCiphertextError):
            opened(CARDS.c.copy, row.number, key)
    with Session(engine) as session:
        assert sorted(card.number for card in session.scalars(select(Card))) == [
            "1",
            "3",
            "4",
            "of a default key",
        ]
        for identity, number in session.execute(select(Card.id, Card.number)):
            assert opened(Card.number, number, identity) in {"1", "3", "4", "of a default key"}
    with pytest.raises(errors.InvalidArgumentError):
        opened(CARDS.c.owner, "x", key)
    with pytest.raises(TypeError):
        opened(CARDS.c.number, "plain", key)


def test_core_updates_name_their_row(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        rows = [{"order": n, "position": "p", "body": f"{n}"} for n in range(3)]
        connection.execute(insert(LINES), rows)
        where = (LINES.c.order == 0) & (LINES.c.position == "p") & LINES.c.later.is_(None)
        connection.execute(update(LINES).where(where).values(body="one"))
        named = update(LINES).where(LINES.c.order == sa.bindparam("o"), LINES.c.position == sa.bindparam("p"))
        connection.execute(named, [{"o": 1, "p": "p", "body": "two"}, {"o": 2, "p": "p", "body": "three"}])
        connection.execute(named.values(later=sa.bindparam("l")), {"o": 1, "p": "p", "l": "four"})
        connection.execute(
            update(LINES).where(LINES.c.order == 2, LINES.c.position == "p"),
            {"order": 5, "body": "moved", "later": None},
        )
        connection.execute(update(LINES).values(later=None).where(LINES.c.order == 99))
    with Session(engine) as session:
        found = session.scalars(select(Line).order_by(Line.order_id)).all()
        assert [(line.order_id, line.text, line.later) for line in found] == [
            (0, "one", None),
            (1, "two", "four"),
            (5, "moved", None),
        ]


def test_what_does_not_tell_its_row_is_refused_and_shows_no_plaintext(engine: sa.Engine) -> None:
    key = uuid.uuid4()
    one = {"id": key, "number": CARD, "owner": ""}
    upserts: dict[str, Any] = {"sqlite": lite.insert, "postgresql": pg.insert}
    upsert = upserts[engine.dialect.name](CARDS).values(id=key, number=CARD, owner="")
    other = uuid.uuid4()
    attempts: list[tuple[Any, Any]] = [
        (update(CARDS).values(number=CARD), {}),
        (update(CARDS).where(CARDS.c.owner == "x").values(number=CARD), {}),
        (update(CARDS).where(CARDS.c.id > key).values(number=CARD), {}),
        (update(CARDS).where(CARDS.c.id.in_([key])).values(number=CARD), {}),
        (update(CARDS).where(sa.or_(CARDS.c.id == key, CARDS.c.owner == "")).values(number=CARD), {}),
        (update(CARDS).where(sa.not_(CARDS.c.id == key)).values(number=CARD), {}),
        (update(LINES).where(LINES.c.order == 1).values(body=CARD), {}),
        (
            update(LINES)
            .where(LINES.c.order == 1, LINES.c.body.is_(None), CARDS.c.id == key)
            .values(body="x"),
            {},
        ),
        (update(CARDS).where(CARDS.c.id == key).values(number=CARDS.c.copy), {}),
        (update(CARDS).where(CARDS.c.id == key).ordered_values((CARDS.c.number, CARDS.c.copy)), {}),
        (update(CARDS).where(CARDS.c.id == key).values(number=func.lower(CARD)), {}),
        (update(CARDS).where(CARDS.c.id == key).values(id=other), {}),
        (update(CARDS).where(CARDS.c.owner == "x").values(id=other), {}),
        (update(CARDS).where(CARDS.c.id == key).values(id=other, number=CARD), {}),
        (
            update(CARDS).where(CARDS.c.id == sa.bindparam("k")).values(number=CARD),
            [{"k": key}, {"k": other}],
        ),
        (insert(CARDS).values([one, {**one, "id": other}]), {}),
        (
            insert(CARDS).from_select(
                ["id", "number", "owner"], select(CARDS.c.id, CARDS.c.copy, CARDS.c.owner)
            ),
            {},
        ),
        (upsert.on_conflict_do_update(index_elements=["copy"], set_={"number": upsert.excluded.number}), {}),
        (upsert.on_conflict_do_update(index_elements=["id"], set_={"number": CARD}), {}),
        (insert(CARDS).values(id=func.lower("x"), number=CARD, owner=""), {}),
        (insert(CARDS), {**one, "id": 5}),
        (insert(CARDS), {**one, "number": SealedValue(b"x")}),
        (select(sa.bindparam("x", CARD, EncryptedString(RECORD))), {}),
        (sa.text("SELECT :x").bindparams(sa.bindparam("x", CARD, EncryptedString(RECORD))), {}),
        (select(insert(CARDS).values(one).returning(CARDS.c.id).cte()), {}),
    ]
    with Session(engine) as session:
        session.add(Card(id=key, number="here", copy="unique"))
        session.commit()
    for statement, parameters in attempts:
        with engine.connect() as connection, pytest.raises(errors.InvalidArgumentError) as caught:
            connection.execute(statement, parameters)
        assert CARD not in f"{caught.value} {caught.value.__cause__} {caught.value.__context__}", statement
    for wrong in ({**one, "number": 5}, {**one, "pin": "text"}):
        with engine.connect() as connection, pytest.raises(TypeError):
            connection.execute(insert(CARDS), wrong)
    with engine.connect() as connection, pytest.raises(errors.InvalidArgumentError) as caught:
        connection.execute(insert(CARDS), {**one, "number": f"{CARD} \ud800"})
    assert CARD not in repr(caught.value.__context__)
    with Session(engine) as session:
        assert [card.number for card in session.scalars(select(Card))] == ["here"]


def test_what_leaves_the_encrypted_columns_alone_is_nobodys_business(engine: sa.Engine) -> None:
    upserts: dict[str, Any] = {"sqlite": lite.insert, "postgresql": pg.insert}
    key = uuid.uuid4()
    with Session(engine) as session:
        session.add(Card(id=key, number="here"))
        session.commit()
        statement = upserts[engine.dialect.name](CARDS).values(id=key, number="there", owner="")
        session.execute(statement.on_conflict_do_update(index_elements=["id"], set_={"owner": "new"}))
        session.execute(statement.on_conflict_do_nothing())
        session.execute(update(Card).values(owner=func.upper(Card.owner)))
        session.execute(update(CARDS).where(CARDS.c.owner == "NEW").values(pin=None))
        session.commit()
        card = session.get_one(Card, key)
        assert (card.number, card.owner) == ("here", "NEW")


def test_nothing_but_null_can_be_searched_for() -> None:
    for compare in (
        lambda: Card.number == CARD,
        lambda: Card.number != CARD,
        lambda: Card.number.in_([CARD]),
        lambda: Card.number.like("4%"),
        lambda: Card.number > "4",
        lambda: CARD + CARDS.c.number,
        lambda: CARDS.c.number < CARDS.c.copy,
        lambda: Card.number.desc(),
    ):
        with pytest.raises(errors.InvalidArgumentError, match="None only") as caught:
            compare()
        assert CARD not in str(caught.value)


def test_no_log_and_no_other_listener_sees_a_plaintext(
    engine: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    def listen(_: Any, __: Any, statement: str, parameters: Any, ___: Any, ____: bool) -> None:
        seen.append(f"{statement} {parameters}")

    event.listen(engine, "before_cursor_execute", listen)
    with caplog.at_level("DEBUG", "sqlalchemy"), Session(engine) as session:
        card = Card(number=CARD)
        session.add(card)
        session.commit()
        assert card.number == CARD
    assert any("INSERT INTO cards" in line for line in seen)
    assert "INSERT INTO cards" in caplog.text
    assert CARD not in caplog.text + "".join(seen)


# Keys of the database


def test_keys_of_postgresql_are_fetched_before_the_insert(postgresql_url: str) -> None:
    engine = sa.create_engine(postgresql_url)
    metadata = sa.MetaData()
    given = sa.Table("given", metadata, *_columns(sa.Sequence("given_ids", start=100)))
    by_default = sa.Table('odd "name"', metadata, *_columns(sa.Identity(start=7)), schema="public")
    always = sa.Table("always", metadata, *_columns(sa.Identity(always=True)))
    expression = sa.Table("expression", metadata, *_columns(server_default=sa.text("42")))
    metadata.create_all(engine)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Counted(number=f"{n}") for n in range(30)])
        session.flush()
        session.add(Counted(number=None))
        session.add(Counted(id=1000, number="given"))
        session.commit()
        found = session.scalars(select(Counted).order_by(Counted.id)).all()
        assert [one.number for one in found] == [*(f"{n}" for n in range(30)), None, "given"]
    with engine.begin() as connection:
        for table, first in ((given, 100), (by_default, 7)):
            keys = connection.execute(insert(table), {"number": "one"}).inserted_primary_key
            assert keys == (first,)
            connection.execute(insert(table), [{"number": "two"}, {"number": "three"}])
            rows = connection.execute(select(table).order_by(table.c.id)).all()
            assert [opened(table.c.number, row.number, row.id) for row in rows] == ["one", "two", "three"]
    for table in (always, expression):
        with engine.connect() as connection, pytest.raises(UnboundValueError, match="give the key yourself"):
            connection.execute(insert(table), {"number": "x"})
    engine.dispose()


def _columns(*arguments: Any, **options: Any) -> tuple[sa.Column[Any], sa.Column[Any]]:
    return (
        sa.Column("id", sa.Integer, *arguments, primary_key=True, **options),
        sa.Column("number", EncryptedString(RECORD)),
    )


def test_a_key_that_a_database_gives_too_late_is_an_error_that_names_the_way(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/shop.db")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Counted(number=CARD))
        with pytest.raises(UnboundValueError, match="after a flush"):
            session.flush()
        session.rollback()
        counted = Counted()
        session.add(counted)
        session.flush()
        counted.number = CARD
        session.commit()
        assert counted.number == CARD
    engine.dispose()


# What an attacker who writes the database can do


def move(engine: sa.Engine, target: str, source: str, where: str = "") -> None:
    """A raw statement, past SQLAlchemy's types."""
    with engine.begin() as connection:
        table = target.partition(".")[0]
        connection.exec_driver_sql(f"UPDATE {table} SET {target.partition('.')[2]} = {source} {where}")  # noqa: S608 # constants


def test_values_moved_between_rows_columns_and_tables_are_refused(engine: sa.Engine) -> None:
    first, second = uuid.UUID(int=1), uuid.UUID(int=2)
    with Session(engine) as session:
        session.add_all([Card(id=first, number="first", copy="c"), Card(id=second, number="second")])
        session.add(Line(order_id=1, position="a", text="line"))
        session.commit()
    attacks = [
        ("cards.number", "(SELECT number FROM cards WHERE owner = 'x')"),
        ("cards.number", "copy"),
        ("cards.number", "(SELECT body FROM lines)"),
        ("lines.body", "(SELECT number FROM cards WHERE owner = 'x')"),
    ]
    with Session(engine) as session:
        session.get_one(Card, second).owner = "x"
        session.commit()
    before = {table: stored_rows(engine, table) for table in ("cards", "lines")}
    for target, source in attacks:
        move(engine, target, source, "WHERE owner = ''" if target.startswith("cards") else "")
        with Session(engine) as session, pytest.raises(errors.InvalidCiphertextError) as caught:
            session.scalars(select(Card if target.startswith("cards") else Line)).all()
        assert str(caught.value) == NOT_AUTHENTIC
        assert any(target in note for note in caught.value.__notes__)
        restore(engine, before)
    with Session(engine) as session:
        assert sorted(card.number for card in session.scalars(select(Card))) == ["first", "second"]


def stored_rows(engine: sa.Engine, table: str) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.exec_driver_sql(f"SELECT * FROM {table}").mappings())  # noqa: S608 # constants


def restore(engine: sa.Engine, tables: dict[str, list[Any]]) -> None:
    with engine.begin() as connection:
        for name, rows in tables.items():
            columns: list[sa.ColumnClause[Any]] = [sa.column(column) for column in rows[0]]
            plain = sa.table(name, *columns)
            connection.execute(sa.delete(plain))
            connection.execute(insert(plain), [dict(row) for row in rows])


def test_a_row_under_another_key_is_refused(engine: sa.Engine) -> None:
    with Session(engine) as session:
        session.add(Line(order_id=1, position="12", text="x"))
        session.commit()
    for changed in ("\"order\" = 11, position = '2'", "\"order\" = 112, position = ''"):
        with engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE lines SET {changed}")  # noqa: S608 # constants
        with Session(engine) as session, pytest.raises(errors.InvalidCiphertextError):
            session.scalars(select(Line)).all()


def test_a_plaintext_or_rubbish_written_past_the_type_is_refused(engine: sa.Engine) -> None:
    with Session(engine) as session:
        session.add(Line(order_id=1, position="a", text="x"))
        session.commit()
    plain = sa.table("lines", sa.column("body", sa.LargeBinary))
    for value in (b"", b"x", RECORD.seal(b"x", aad=b"")):
        with engine.begin() as connection:
            connection.execute(update(plain).values(body=value))
        with Session(engine) as session, pytest.raises(errors.InvalidCiphertextError):
            session.scalars(select(Line)).all()


def test_who_nulls_a_value_makes_it_absent_and_old_values_come_back(engine: sa.Engine) -> None:
    """What the binding does not stop, as docs/columns.md says."""
    with Session(engine) as session:
        session.add(Line(order_id=1, position="a", text="x", later="old"))
        session.commit()
        (old,) = stored(engine, Line.later)
        session.get_one(Line, (1, "a")).later = "new"
        session.commit()
    plain = sa.table("lines", sa.column("later", sa.LargeBinary))
    for value, seen in ((None, None), (old, "old")):
        with engine.begin() as connection:
            connection.execute(update(plain).values(later=value))
        with Session(engine) as session:
            assert session.get_one(Line, (1, "a")).later == seen


# Records


def test_a_rewrap_of_the_record_leaves_the_values_and_they_open_with_the_new_key(engine: sa.Engine) -> None:
    store = MemoryRecordStore()
    client = KMSClient(VectorProvider())
    old, new = Keyring([client.key("alpha")]), Keyring([client.key("beta")])
    pinned = StoredRecords(old, store, context={"table": "notes"}).create().record_id
    current: list[Record] = [StoredRecords(old, store, context={"table": "notes"}).record(pinned)]

    class Mine(DeclarativeBase):
        pass

    class Note(Mine):
        __tablename__ = "notes"
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        text: Mapped[str] = mapped_column(EncryptedString(lambda: current[0]))

    Mine.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Note(id=1, text="before"))
        session.commit()
    before = stored(engine, Note.text)
    StoredRecords(old, store, context={"table": "notes"}).rewrap(pinned, to=new)
    current[0] = StoredRecords(new, store, context={"table": "notes"}).record(pinned)
    with Session(engine) as session:
        assert session.get_one(Note, 1).text == "before"
        session.add(Note(id=2, text="after"))
        session.commit()
    assert stored(engine, Note.text)[:1] == before
    assert store.generation(pinned) == 1


def test_values_of_older_records_are_read_by_the_reader(engine: sa.Engine) -> None:
    records = StoredRecords(RING, MemoryRecordStore(), context={"table": "notes"})
    current: list[Record] = [records.create()]

    class Mine(DeclarativeBase):
        pass

    class Note(Mine):
        __tablename__ = "notes"
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        text: Mapped[str] = mapped_column(EncryptedString(lambda: current[0], reader=records))

    Mine.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Note(id=1, text="under the first"))
        session.commit()
        current[0] = records.create()
        session.add(Note(id=2, text="under the second"))
        session.commit()
        assert [note.text for note in session.scalars(select(Note).order_by(Note.id))] == [
            "under the first",
            "under the second",
        ]
    first, second = stored(engine, Note.text)
    assert first is not None
    assert second is not None
    assert first[1:17] != second[1:17]


def test_a_record_for_each_tenant_keeps_them_apart(engine: sa.Engine) -> None:
    tenant: ContextVar[str] = ContextVar("tenant")
    records = {name: RING.record(context={"tenant": name}) for name in ("a", "b")}

    class Mine(DeclarativeBase):
        pass

    class Note(Mine):
        __tablename__ = "notes"
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        text: Mapped[str] = mapped_column(EncryptedString(lambda: records[tenant.get()]))

    Mine.metadata.create_all(engine)
    for number, name in enumerate(("a", "b")):
        tenant.set(name)
        with Session(engine) as session:
            session.add(Note(id=number, text=name))
            session.commit()
    with Session(engine) as session:
        assert session.get_one(Note, 1).text == "b"
        with pytest.raises(errors.InvalidCiphertextError):
            session.get_one(Note, 0)


def test_two_columns_of_one_type_object_and_a_name_that_outlives_a_rename(engine: sa.Engine) -> None:
    shared = EncryptedString(RECORD)
    metadata = sa.MetaData()
    old = sa.Table(
        "old_name",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("one", shared),
        sa.Column("two", shared),
        sa.Column("kept", EncryptedString(RECORD, bound_as="notes.kept")),
    )
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(old), {"id": 1, "one": "1", "two": "2", "kept": "3"})
        connection.exec_driver_sql("ALTER TABLE old_name RENAME TO new_name")
    new = sa.Table(
        "new_name",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("one", shared),
        sa.Column("two", shared),
        sa.Column("kept", EncryptedString(RECORD, bound_as="notes.kept")),
    )
    with engine.connect() as connection:
        row = connection.execute(select(new)).one()
        assert opened(new.c.kept, row.kept, 1) == "3"
        assert opened(old.c.two, row.two, 1) == "2"
        for column, value in ((new.c.one, row.one), (old.c.one, row.two), (new.c.one, row.kept)):
            with pytest.raises(errors.InvalidCiphertextError):
                opened(column, value, 1)


# Keys as bytes


KEYS = st.one_of(st.integers(), st.text(st.characters(exclude_categories=["Cs"])), st.binary(), st.uuids())


@given(st.lists(KEYS, min_size=1, max_size=3), st.lists(KEYS, min_size=1, max_size=3))
def test_two_keys_are_one_aad_only_if_they_are_equal(one: list[Any], two: list[Any]) -> None:
    def typed(keys: list[Any]) -> list[tuple[type, Any]]:
        return [(type(key), key) for key in keys]

    assert (aad_of(one) == aad_of(two)) == (typed(one) == typed(two))
    assert aad_of(one) == aad_of(list(one))


class Telling:
    """A sealer that stores its aad."""

    def seal(self, plaintext: Any, *, aad: Any) -> bytes:
        return bytes(aad)

    def open(self, value: Any, *, aad: Any) -> bytes:
        assert value == aad
        return b""


def aad_of(keys: list[Any]) -> bytes:
    """The aad of a row with this key, as an INSERT binds it."""
    types: dict[type, Any] = {int: sa.Integer, str: sa.String, bytes: sa.LargeBinary, uuid.UUID: sa.Uuid}
    columns: list[sa.Column[Any]] = [
        sa.Column(f"k{n}", types[type(key)], primary_key=True) for n, key in enumerate(keys)
    ]
    table = sa.Table("t", sa.MetaData(), *columns, sa.Column("c", EncryptedBytes(Telling())))
    found: list[Any] = []
    engine = sa.create_engine("sqlite://")

    @event.listens_for(engine, "before_execute")
    def see(_: Any, __: Any, ___: Any, row: Any, ____: Any) -> None:  # pyright: ignore[reportUnusedFunction] # a listener
        found.append(row["c"])
        raise KeyboardInterrupt

    with engine.connect() as connection, pytest.raises(KeyboardInterrupt):
        connection.execute(insert(table), {"c": b"", **{f"k{n}": key for n, key in enumerate(keys)}})
    engine.dispose()
    value: bytes = found[0].value
    return value


def test_key_types_that_a_database_would_store_in_another_form_are_refused(engine: sa.Engine) -> None:
    class Number(int):
        pass

    class Level(enum.IntEnum):
        ONE = 1

    kind: Any
    bad: list[Any]
    for kind, bad in (
        (sa.Integer(), [True, "1", 1.0, Number(1), Level.ONE]),
        (sa.String(50), [1, uuid.uuid4(), b"x", "\ud800"]),
        (sa.Uuid(), ["not", b"x"]),
        (sa.LargeBinary(), ["x", bytearray(b"x"), memoryview(b"x")]),
    ):
        table = sa.Table(
            "t",
            sa.MetaData(),
            sa.Column("k", kind, primary_key=True),
            sa.Column("c", EncryptedString(RECORD)),
        )
        for key in bad:
            with engine.connect() as connection, pytest.raises(UnboundValueError):
                connection.execute(insert(table), {"k": key, "c": "x"})


def test_every_key_type_comes_back_as_it_was_bound(engine: sa.Engine) -> None:
    cases: list[tuple[Any, list[Any]]] = [
        (sa.Integer(), [0, -1, 2**31 - 1]),
        (sa.BigInteger(), [2**63 - 1, -(2**63)]),
        (sa.String(50), ["", "a", "A", "ä", "a ", "0"]),
        (sa.Text(), ["x" * 1000, "%", "\n"]),
        (sa.LargeBinary(), [b"", b"\x00\xff"]),
        (sa.Uuid(), [uuid.UUID(int=0), uuid.uuid4()]),
        (sa.Uuid(as_uuid=False), [str(uuid.UUID(int=10)).upper(), uuid.UUID(int=11).hex]),
    ]
    for number, (kind, keys) in enumerate(cases):
        table = sa.Table(
            f"t{number}",
            sa.MetaData(),
            sa.Column("k", kind, primary_key=True, autoincrement=False),
            sa.Column("c", EncryptedString(RECORD)),
        )
        mapped: Any = type(f"T{number}", (), {})
        registry().map_imperatively(mapped, table)
        table.create(engine)
        with Session(engine) as session:
            for key in keys:
                one = mapped()
                one.k, one.c = key, repr(key)
                session.add(one)
            session.commit()
            session.expunge_all()
            found = session.scalars(select(mapped)).all()
            assert sorted(one.c for one in found) == sorted(repr(key) for key in keys)


def test_tables_that_cannot_work_are_refused_when_they_are_used() -> None:
    def key(kind: Any = sa.Integer, *more: Any) -> sa.Column[Any]:
        return sa.Column("k", kind, *more, primary_key=True)

    def encrypted(**options: Any) -> sa.Column[Any]:
        return sa.Column("c", EncryptedString(RECORD), **options)

    parent = sa.Table("p", sa.MetaData(), key())
    tables: dict[str, list[sa.Column[Any]]] = {
        "needs a primary key": [encrypted()],
        "ON UPDATE CASCADE": [key(sa.Integer, ForeignKey(parent.c.k, onupdate="CASCADE")), encrypted()],
        "CHAR": [key(sa.CHAR(5)), encrypted()],
        "Numeric": [key(sa.Numeric), encrypted()],
        "DateTime": [key(sa.DateTime), encrypted()],
        "Encrypted": [key(EncryptedString(RECORD))],
        "no default": [key(), encrypted(default="x")],
        "can have": [key(), encrypted(server_default="x")],
    }
    engine = sa.create_engine("sqlite://")
    for match, columns in tables.items():
        table = sa.Table("t", sa.MetaData(), *columns)
        with engine.connect() as connection, pytest.raises(errors.InvalidArgumentError, match=match):
            connection.execute(insert(table), {})
    engine.dispose()
    table = sa.Table("t", sa.MetaData(), key(), sa.Column("k2", sa.Integer, primary_key=True), encrypted())
    mappings = registry()
    part: Any = type("Part", (), {})
    mappings.map_imperatively(part, table, primary_key=[table.c.k2])
    with pytest.raises(errors.InvalidArgumentError, match="whole primary key"):
        mappings.configure()
    mappings.dispose()


def test_arguments_of_the_types_are_checked() -> None:
    with pytest.raises(TypeError, match="record"):
        EncryptedString(b"key")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="reader"):
        EncryptedBytes(RECORD, reader=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
