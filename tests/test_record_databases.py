"""The record store of SQLAlchemy: processes, isolation levels, rights, faults."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from anykms import RecordStore, SQLAlchemyRecordStore, SQLiteRecordStore, errors
from anykms.database import Database
from anykms.envelope.sqlstore import tables

ONE, TWO = b"1" * 16, b"2" * 16
WORKER = """
import sys
from anykms import SQLAlchemyRecordStore, errors
url, number = sys.argv[1], int(sys.argv[2])
won = 0
with SQLAlchemyRecordStore(url) as store:
    for step in range(20):
        record_id = step.to_bytes(16)
        try:
            store.add(record_id, b"%d" % number)
            won += 1
        except errors.ConflictError:
            pass
        store.saw_generation(bytes(16), 100 * step + number)
        assert store.generation(bytes(16)) >= 100 * step + number
print(won)
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/records.db"
    found: str = request.getfixturevalue("postgresql_url")
    return found


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    made = sa.create_engine(url)
    yield made
    made.dispose()


def test_processes_share_it(url: str) -> None:
    command = [sys.executable, "-W", "error", "-c", WORKER, url]
    running = [
        subprocess.Popen([*command, str(number)], stdout=subprocess.PIPE, text=True)  # noqa: S603 # ourselves
        for number in range(3)
    ]
    won = [int(process.communicate()[0]) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert sum(won) == 20
    with SQLAlchemyRecordStore(url) as store:
        assert store.generation(bytes(16)) == 1902


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_the_isolation_level_of_the_database_does_not_matter(postgresql_url: str, level: str) -> None:
    engine = sa.create_engine(postgresql_url, isolation_level=level)
    name = engine.url.database
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(
            f"ALTER DATABASE {name} SET default_transaction_isolation = '{level.lower()}'"
        )
    engine.dispose()
    with SQLAlchemyRecordStore(engine) as store:
        store.add(ONE, b"0")

        def work(number: int) -> int:
            won = 0
            for step in range(10):
                store.saw_generation(ONE, 10 * step + number)
                while True:
                    old = store.get(ONE)
                    assert old is not None
                    try:
                        store.advance(
                            ONE, b"%d" % (int(old) + 1), expected=old, generation=100 + int(old) + 1
                        )
                    except errors.ConflictError:
                        continue
                    won += 1
                    break
            return won

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(work, range(4))) == 40
        assert (store.get(ONE), store.generation(ONE)) == (b"40", 140)
    engine.dispose()


def test_advance_swaps_and_notes_or_does_neither(url: str) -> None:
    with SQLAlchemyRecordStore(url) as store:
        store.add(ONE, b"first")
        with pytest.raises(errors.ConflictError):
            store.advance(ONE, b"third", expected=b"second", generation=7)
        with pytest.raises(errors.ConflictError):
            store.advance(TWO, b"third", expected=b"first", generation=7)
        assert (store.get(ONE), store.generation(ONE), store.generation(TWO)) == (b"first", 0, 0)
        store.advance(ONE, b"second", expected=b"first", generation=7)
        store.advance(ONE, b"third", expected=b"second", generation=3)
        assert (store.get(ONE), store.generation(ONE)) == (b"third", 7)


def test_generations_may_be_in_another_database(url: str, tmp_path: Path) -> None:
    elsewhere = f"sqlite:///{tmp_path}/generations.db"
    with SQLAlchemyRecordStore(url, generations=elsewhere) as store:
        store.add(ONE, b"first")
        store.advance(ONE, b"second", expected=b"first", generation=5)
    with sa.create_engine(elsewhere).connect() as connection:
        assert sa.inspect(connection).get_table_names() == ["anykms_generations"]
    with SQLAlchemyRecordStore(url, generations=elsewhere) as store:
        assert store.generation(ONE) == 5
    with SQLAlchemyRecordStore(url) as alone:
        assert (alone.get(ONE), alone.generation(ONE)) == (b"second", 0)


def test_a_file_of_the_sqlite_store_is_the_same_tables(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    with SQLiteRecordStore(path) as plain, SQLAlchemyRecordStore(f"sqlite:///{path}") as store:
        assert isinstance(store, RecordStore)
        plain.add(ONE, b"x")
        plain.saw_generation(ONE, 4)
        store.advance(ONE, b"y", expected=b"x", generation=5)
        assert (store.generation(TWO), plain.get(ONE), plain.generation(ONE)) == (0, b"y", 5)


def test_who_may_write_the_records_cannot_lower_a_generation(postgresql_url: str) -> None:
    """The rights and the trigger that docs/records.md recommends."""
    owner = sa.create_engine(postgresql_url)
    with owner.begin() as connection:
        for table in tables():
            table.create(connection)
        connection.exec_driver_sql(_NEVER_LOWER)
        for role in ("records_writer", "application"):
            # Roles belong to the whole server, and other tests of this process may have made them.
            connection.exec_driver_sql(
                f"DO $$ BEGIN CREATE ROLE {role} LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
            )
        connection.exec_driver_sql("GRANT ALL ON anykms_records TO records_writer")
        connection.exec_driver_sql(
            "GRANT SELECT, INSERT, UPDATE ON anykms_records, anykms_generations TO application"
        )
    owner.dispose()
    url = sa.make_url(postgresql_url)
    with (
        SQLAlchemyRecordStore(url.set(username="application"), create=False) as application,
        SQLAlchemyRecordStore(url.set(username="records_writer"), create=False) as writer,
    ):
        application.add(ONE, b"first")
        application.advance(ONE, b"second", expected=b"first", generation=1)
        writer.replace(ONE, b"first", expected=b"second")
        with pytest.raises(errors.PermissionDeniedError):
            writer.saw_generation(ONE, 0)
        with pytest.raises(errors.PermissionDeniedError):
            writer.generation(ONE)
        assert application.generation(ONE) == 1
        attacker = sa.create_engine(url.set(username="application"))
        for attack in ("UPDATE anykms_generations SET highest = 0", "DELETE FROM anykms_generations"):
            with pytest.raises(exc.DBAPIError), attacker.begin() as connection:
                connection.exec_driver_sql(attack)
        attacker.dispose()
        assert application.generation(ONE) == 1


_NEVER_LOWER = """
CREATE FUNCTION anykms_never_lower() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.record_id <> OLD.record_id OR NEW.highest < OLD.highest THEN
        RAISE EXCEPTION 'a generation only rises';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER anykms_never_lower BEFORE UPDATE ON anykms_generations
    FOR EACH ROW EXECUTE FUNCTION anykms_never_lower();
"""


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_it_works_on_both_sides_of_a_fork(url: str) -> None:
    with SQLAlchemyRecordStore(url) as store:
        store.add(ONE, b"parent")
        child = os.fork()
        if child == 0:
            try:
                store.add(TWO, store.get(ONE) or b"")
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert store.get(TWO) == b"parent"
        store.add(b"3" * 16, b"still")


def test_a_transaction_that_was_undone_is_run_again(engine: sa.Engine) -> None:
    """A serialization failure, as PostgreSQL reports one."""

    class Undone(exc.OperationalError):
        pass

    class DriverError(Exception):
        sqlstate = "40001"

    attempts: list[bool] = []

    def work(connection: sa.Connection) -> str:
        attempts.append(connection.in_transaction())
        if len(attempts) < 3:
            raise Undone("UPDATE", {}, DriverError())
        return "done"

    database = Database(engine)
    assert database.run(work) == "done"
    assert len(attempts) == 3

    def never(connection: sa.Connection) -> None:
        attempts.append(True)
        raise Undone("UPDATE", {}, DriverError("again"))

    attempts.clear()
    with pytest.raises(errors.UnavailableError, match="again"):
        database.run(never)
    assert len(attempts) == 8


# Faults


def test_what_is_no_database_is_refused_without_its_password() -> None:
    for bad in (
        "postgresql//u:hunter2@h/d",
        "nothing://u:hunter2@h/d",
        "postgresql://u@h:hunter2/d",
        "sqlite://",
        "sqlite+aiosqlite:///x.db",
        "",
    ):
        with pytest.raises(errors.InvalidArgumentError) as caught:
            SQLAlchemyRecordStore(bad)
        assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
    with pytest.raises(TypeError):
        SQLAlchemyRecordStore(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_database_that_cannot_be_used_is_unavailable(tmp_path: Path) -> None:
    for url in (f"sqlite:///{tmp_path}/missing/records.db", f"postgresql://u:hunter2@/d?host={tmp_path}"):
        with pytest.raises(errors.UnavailableError) as caught:
            SQLAlchemyRecordStore(url)
        assert "hunter2" not in f"{caught.value} {caught.value.__cause__}"
    with (
        pytest.raises(errors.UnavailableError),
        SQLAlchemyRecordStore(f"sqlite:///{tmp_path}/empty.db", create=False) as store,
    ):
        store.get(ONE)
    path = tmp_path / "text.db"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(errors.IntegrityError):
        SQLAlchemyRecordStore(f"sqlite:///{path}")


def test_a_driver_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(errors.InvalidArgumentError, match="psycopg2"):
        SQLAlchemyRecordStore("postgresql+psycopg2://h/d")


def test_a_place_has_no_credentials_and_tells_servers_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Database("postgresql://u:hunter2@db.example:5433/shop?password=x").place == (
        "postgresql://db.example:5433/shop"
    )
    assert Database("postgresql://u@/shop?host=/run/pg").place == "postgresql://%2Frun%2Fpg/shop"
    assert Database("sqlite:///a.db").place == f"sqlite:///{tmp_path}/a.db"
    database = Database(f"sqlite:///{tmp_path}/a.db")
    assert pickle.loads(pickle.dumps(database)).place == database.place  # noqa: S301 # our own
    with pytest.raises(TypeError, match="URL"):
        pickle.dumps(Database(sa.create_engine("sqlite://")))
