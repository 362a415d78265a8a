"""The schema's version: made once, upgraded on demand, and never touched when it is not ours."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, inspect, text

from dnnamo.errors import SchemaMismatch
from dnnamo_storage import SCHEMA_REVISION, Store, check, open_engine, upgrade
from dnnamo_storage.engine import reading, writing
from dnnamo_storage.migrate import config
from dnnamo_storage.schema import VERSION_TABLE, metadata


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = open_engine(database_url)
    yield engine
    engine.dispose()


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


def test_an_older_schema_asks_for_an_upgrade(
    database_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade(engine)
    monkeypatch.setattr("dnnamo_storage.migrate.SCHEMA_REVISION", "0002")
    with pytest.raises(SchemaMismatch, match="dnnamo db upgrade"):
        Store.open(database_url)


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
