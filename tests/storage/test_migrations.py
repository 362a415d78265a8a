"""The schema's version: made once, upgraded on demand, and never touched when it is not ours."""

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, MetaData, inspect, select, text

from dnnamo.errors import SchemaMismatch
from dnnamo_storage import SCHEMA_REVISION, Store, check, open_engine, upgrade
from dnnamo_storage.engine import reading, writing
from dnnamo_storage.migrate import config
from dnnamo_storage.schema import VERSION_TABLE, metadata
from tests.storage.stored import PROFILE, RESULT, SPEC, take

FIRST_SCHEMA = Path(__file__).parent / "data" / "schema_0001.sql"
"""A SQLite database as the first released schema kept it, with a few rows in each table."""


@contextmanager
def opened(url: str) -> Iterator[Engine]:
    engine = open_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    with opened(database_url) as engine:
        yield engine


@pytest.fixture
def old(engine: Engine, tmp_path: Path) -> Engine:
    """The database, filled as the first Dnnamo left it."""
    if engine.dialect.name == "sqlite":
        load_first_schema(Path(str(engine.url.database)))
    else:
        load_first_schema(tmp_path / "first.db")
        with opened(f"sqlite:///{tmp_path / 'first.db'}") as first:
            copy_first_schema(rows(first), engine)
    return engine


def load_first_schema(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(FIRST_SCHEMA.read_text())


def copy_first_schema(kept: dict[str, list[dict[str, Any]]], engine: Engine) -> None:
    from alembic import command

    with writing(engine) as connection:
        command.upgrade(config(connection), "0001")
        reflected = MetaData()
        reflected.reflect(connection)
        del kept[VERSION_TABLE]
        for table in reflected.sorted_tables:
            for row in kept.get(table.name, ()):
                connection.execute(table.insert(), {name: in_utc(value) for name, value in row.items()})
        connection.execute(text("SELECT setval(pg_get_serial_sequence('jobs', 'id'), max(id)) FROM jobs"))


def in_utc(value: Any) -> Any:
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) else value


def run(engine: Engine, statement: str) -> None:
    with writing(engine) as connection:
        connection.execute(text(statement))


def set_revision(engine: Engine, revision: str) -> None:
    run(engine, f"UPDATE {VERSION_TABLE} SET version_num = '{revision}'")


def tables(engine: Engine) -> set[str]:
    with reading(engine) as connection:
        return set(inspect(connection).get_table_names())


def shape(engine: Engine) -> dict[str, Any]:
    """All that can be read back of a schema, checks and partial indexes included, which Alembic does not compare."""
    with reading(engine) as connection:
        inspector = inspect(connection)
        return {
            name: {
                "columns": [{**column, "type": repr(column["type"])} for column in inspector.get_columns(name)],
                "key": inspector.get_pk_constraint(name),
                "foreign": sorted(inspector.get_foreign_keys(name), key=str),
                "unique": sorted(inspector.get_unique_constraints(name), key=str),
                "checks": sorted(inspector.get_check_constraints(name), key=str),
                "indexes": sorted(inspector.get_indexes(name), key=str),
            }
            for name in metadata.tables
        }


def rows(engine: Engine) -> dict[str, list[dict[str, Any]]]:
    """All rows of all tables, as the database describes them."""
    with reading(engine) as connection:
        reflected = MetaData()
        reflected.reflect(connection)
        return {
            table.name: [dict(row) for row in connection.execute(select(table).order_by(*table.primary_key)).mappings()]
            for table in reflected.sorted_tables
        }


def test_revision_is_alembics_head() -> None:
    from alembic.script import ScriptDirectory

    assert ScriptDirectory.from_config(config()).get_heads() == [SCHEMA_REVISION]


def test_migrations_make_what_the_tables_say(engine: Engine) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    upgrade(engine)
    with writing(engine) as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []


def test_migrations_make_the_same_as_create_all(engine: Engine) -> None:
    upgrade(engine)
    migrated = shape(engine)
    with writing(engine) as connection:
        metadata.drop_all(connection)
        metadata.create_all(connection)

    assert migrated == shape(engine)


def test_an_empty_database_gets_its_tables_when_it_is_opened(database_url: str, engine: Engine) -> None:
    assert check(engine) is False
    Store.open(database_url).close()

    assert check(engine) is True
    assert tables(engine) == {*metadata.tables, VERSION_TABLE}


def test_a_database_is_left_alone_the_second_time(database_url: str, engine: Engine) -> None:
    Store.open(database_url).close()
    before = shape(engine)
    Store.open(database_url).close()
    upgrade(engine)

    assert shape(engine) == before


def test_opening_a_current_database_does_not_import_alembic(database_url: str) -> None:
    Store.open(database_url).close()
    code = (
        "import sys; from dnnamo_storage import Store; Store.open(sys.argv[1]).close(); print('alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, database_url], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"


def test_processes_that_race_to_make_the_tables_all_succeed(database_url: str) -> None:
    code = "import sys; from dnnamo_storage import Store; sys.stdin.read(); Store.open(sys.argv[1]).close()"
    command = [sys.executable, "-W", "error", "-c", code, database_url]
    racers = [subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    said = [racer.communicate() for racer in racers]

    assert [(racer.returncode, err) for racer, (_, err) in zip(racers, said, strict=True)] == [(0, b"")] * 3


def test_threads_that_race_to_make_the_tables_all_succeed(database_url: str) -> None:
    start = threading.Barrier(6)
    errors: list[BaseException] = []

    def open_store() -> None:
        start.wait()
        try:
            Store.open(database_url).close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=open_store) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []


def test_an_older_schema_asks_for_an_upgrade(database_url: str, old: Engine) -> None:
    before = rows(old)
    with pytest.raises(SchemaMismatch, match="dnnamo db upgrade"):
        Store.open(database_url)

    assert rows(old) == before


def test_an_upgrade_from_the_first_schema_keeps_all_rows(database_url: str, old: Engine) -> None:
    before = rows(old)
    upgrade(old)

    after = rows(old)
    kept = {name: [{column: row[column] for column in before[name][0]} for row in after[name]] for name in before}
    before[VERSION_TABLE] = [{"version_num": SCHEMA_REVISION}]
    assert kept == before
    assert all(before.values())
    with Store.open(database_url) as store:
        assert store.job(1).spec.params == {"width": 2**40, "layers": [1, 2]}
        assert store.job(1).spec.tags == []
        assert store.result(1) == RESULT
        assert store.profile(1) == PROFILE
        assert store.submit(SPEC, key="first") == 1
        assert [job.state for job in store.jobs()] == ["cancelled", "running", "queued", "failed", "succeeded"]
        assert take(store).job_id == 3
        assert store.reap() == [4]
        (worker,) = store.workers(seen_within_s=1e9)
        assert (worker.name, worker.polled, worker.jobs) == ("node7:42", worker.seen, [])


def test_an_upgraded_schema_is_the_same_as_a_new_one(old: Engine) -> None:
    upgrade(old)
    upgraded = shape(old)
    with writing(old) as connection:
        metadata.drop_all(connection)
        metadata.create_all(connection)

    assert upgraded == shape(old)


def test_each_database_gets_a_hint_key_of_its_own(database_url: str, old: Engine, tmp_path: Path) -> None:
    upgrade(old)
    with Store.open(database_url) as upgraded, Store.open(f"sqlite:///{tmp_path / 'other.db'}") as other:
        assert len(upgraded.hint_key()) == len(other.hint_key()) == 32
        assert upgraded.hint_key() == upgraded.hint_key() != other.hint_key()


@pytest.mark.parametrize("revision", ["9999", "from-the-future"])
def test_an_unknown_revision_is_refused(database_url: str, engine: Engine, revision: str) -> None:
    upgrade(engine)
    set_revision(engine, revision)

    with pytest.raises(SchemaMismatch, match="newer Dnnamo"):
        Store.open(database_url)
    with pytest.raises(SchemaMismatch, match="newer Dnnamo"):
        upgrade(engine)


def test_an_emptied_version_table_is_refused(database_url: str, engine: Engine) -> None:
    upgrade(engine)
    run(engine, f"DELETE FROM {VERSION_TABLE}")

    with pytest.raises(SchemaMismatch):
        Store.open(database_url)


def test_somebody_elses_database_is_not_touched(database_url: str, engine: Engine) -> None:
    run(engine, "CREATE TABLE invoices (id INTEGER)")

    with pytest.raises(SchemaMismatch, match="invoices"):
        Store.open(database_url)
    with pytest.raises(SchemaMismatch, match="invoices"):
        upgrade(engine)
    assert tables(engine) == {"invoices"}


def test_a_failed_upgrade_leaves_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("pulled the plug")

    monkeypatch.setattr("alembic.runtime.migration.HeadMaintainer.update_to_step", fail)
    with pytest.raises(RuntimeError, match="pulled the plug"):
        upgrade(engine)

    assert tables(engine) == set()


def test_migrations_leave_the_callers_logging_alone(engine: Engine) -> None:
    import logging

    before = (logging.root.level, list(logging.root.handlers), logging.getLogger("alembic").level)
    upgrade(engine)

    assert (logging.root.level, list(logging.root.handlers), logging.getLogger("alembic").level) == before
