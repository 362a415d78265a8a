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
from dnnamo.records import Operation, Outcome, Profile, ProfiledStep
from dnnamo_storage import SCHEMA_REVISION, Store, check, open_engine, upgrade
from dnnamo_storage.engine import reading, writing
from dnnamo_storage.migrate import config
from dnnamo_storage.schema import VERSION_TABLE, metadata, operations, profile_steps, profiles
from tests.graphs.drawn import GRAPH
from tests.intermediates.given import INTERMEDIATES
from tests.storage.stored import HUGE, PROFILE, RESULT, SPEC, take

DATA = Path(__file__).parent / "data"
"""For each schema before this one a SQLite database as it kept it, with a few rows in each table."""

OLD_STORE = (
    "Stored by an older Dnnamo, which kept no event table.",
    "Its span, and all of its steps but their wall times, are unknown and shown as 0.",
)


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


@pytest.fixture(params=["0001", "0002", "0003", "0004"])
def revision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def old(engine: Engine, revision: str, tmp_path: Path) -> Engine:
    """The database, filled as an older Dnnamo left it."""
    if engine.dialect.name == "sqlite":
        load(revision, Path(str(engine.url.database)))
    else:
        load(revision, tmp_path / "old.db")
        with opened(f"sqlite:///{tmp_path / 'old.db'}") as kept:
            copy(rows(kept), engine, revision)
    return engine


def load(revision: str, path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((DATA / f"schema_{revision}.sql").read_text())


def copy(kept: dict[str, list[dict[str, Any]]], engine: Engine, revision: str) -> None:
    from alembic import command

    with writing(engine) as connection:
        command.upgrade(config(connection), revision)
        reflected = MetaData()
        reflected.reflect(connection)
        del kept[VERSION_TABLE]
        for table in reflected.sorted_tables:
            if table.name in kept:
                connection.execute(table.delete())
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
                "indexes": sorted((plain(index) for index in inspector.get_indexes(name)), key=str),
            }
            for name in metadata.tables
        }


def plain(index: Any) -> dict[str, Any]:
    # The condition of a partial index is an object that is equal to none but itself.
    options = {name: str(value) for name, value in index.get("dialect_options", {}).items()}
    return {**index, "dialect_options": options}


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


def test_an_upgrade_keeps_all_rows(old: Engine, revision: str) -> None:
    before = rows(old)
    assert all(before.values())
    upgrade(old)

    after = rows(old)
    before[VERSION_TABLE] = [{"version_num": SCHEMA_REVISION}]
    if revision >= "0003":
        assert {name: after[name] for name in before} == before
        return
    after["operations"] = [row for row in after["operations"] if row["grain"] == "shape"]
    times = {row["job_id"]: [step["wall_ns"] for step in after["profile_steps"]] for row in after["profile_steps"]}
    after["profiles"] = [{**row, "step_ns": times.get(row["job_id"], [])} for row in after["profiles"]]
    kept = {name: [{column: row[column] for column in before[name][0]} for row in after[name]] for name in before}
    assert kept == before


@pytest.mark.parametrize("revision", ["0001"], indirect=True)
def test_the_first_schema_is_in_use_again_after_an_upgrade(database_url: str, old: Engine) -> None:
    upgrade(old)
    with Store.open(database_url) as store:
        assert store.job(1).spec.params == {"width": 2**40, "layers": [1, 2]}
        assert store.job(1).spec.tags == []
        assert store.result(1) == RESULT
        assert store.submit(SPEC, key="first") == 1
        assert [job.state for job in store.jobs()] == ["cancelled", "running", "queued", "failed", "succeeded"]
        assert take(store).job_id == 3
        assert store.reap() == [4]
        (worker,) = store.workers(seen_within_s=1e9)
        assert (worker.name, worker.polled, worker.jobs) == ("node7:42", worker.seen, [])


@pytest.mark.parametrize("revision", ["0002"], indirect=True)
def test_the_second_schema_is_in_use_again_after_an_upgrade(database_url: str, old: Engine) -> None:
    upgrade(old)
    with Store.open(database_url) as store:
        assert [job.id for job in store.jobs(tags=["nightly"])] == [2, 1]
        result = store.result(1)
        assert result is not None
        assert result.evidence is not None
        assert result.evidence.verdict == "tainted"
        assert store.job(3).attempts[1].cause == "oom_host"
        assert store.reap() == [4]
        assert take(store).job_id == 3
        (worker,) = store.workers(seen_within_s=1e9)
        assert worker.set_aside == ["GPU-2: 3 GiB were left behind"]


@pytest.mark.parametrize("revision", ["0003"], indirect=True)
def test_the_third_schema_is_in_use_again_after_an_upgrade(database_url: str, old: Engine) -> None:
    upgrade(old)
    with Store.open(database_url) as store:
        assert store.profile(1) == PROFILE
        assert store.job(2).spec.method == "import_trace"
        assert (store.job(4).spec.method, store.graph(4)) == ("get_training_graph", None)
        (graph,) = store.artifacts(4)
        assert store.read_artifact(graph.digest) == b"class GraphModule: ...\n"
        assert store.reap() == [5]
        assert take(store).job_id == 3
        claim = take(store)
        assert store.record(claim, Outcome(state="succeeded", graph=GRAPH), files={})
        assert store.graph(claim.job_id) == GRAPH


@pytest.mark.parametrize("revision", ["0004"], indirect=True)
def test_the_fourth_schema_is_in_use_again_after_an_upgrade(database_url: str, old: Engine) -> None:
    upgrade(old)
    with Store.open(database_url) as store:
        assert store.graph(7) == GRAPH
        assert (store.job(8).spec.values, store.intermediates(8)) == (False, [])
        (kept,) = store.artifacts(8)
        assert store.read_artifact(kept.digest) == b"not really"
        assert store.reap() == [5]
        claim = take(store)
        assert store.record(claim, Outcome(state="succeeded", intermediates=INTERMEDIATES), files={})
        assert store.intermediates(claim.job_id) == INTERMEDIATES


@pytest.mark.parametrize("revision", ["0001", "0002"], indirect=True)
def test_an_old_profile_with_steps_is_read_as_far_as_it_tells(database_url: str, old: Engine) -> None:
    upgrade(old)
    with Store.open(database_url) as store:
        assert store.profile(1) == Profile(
            source="kineto",
            events=0,
            span_ns=0,
            steps=[
                ProfiledStep(number=number, wall_ns=wall_ns, covered_ns=0, calls=0, self_ns=0)
                for number, wall_ns in enumerate((10, 30))
            ],
            covered_ns=20,
            operations={
                "name": [
                    Operation(name="aten::mm", calls=4, self_ns=HUGE, total_ns=HUGE, **launched(HUGE)),
                    Operation(name="aten::add", calls=1, self_ns=5, total_ns=7),
                ],
                "shape": [
                    Operation(
                        name="aten::mm",
                        calls=3,
                        self_ns=HUGE,
                        total_ns=HUGE,
                        shapes=[[2, 3], [], None],
                        **launched(HUGE),
                    ),
                    Operation(name="aten::add", calls=1, self_ns=5, total_ns=7),
                    Operation(name="aten::mm", calls=1, self_ns=1, total_ns=1, shapes=[[1, 1]]),
                ],
            },
            verdict="degraded",
            reasons=list(OLD_STORE),
        )


@pytest.mark.parametrize("revision", ["0002"], indirect=True)
def test_old_operations_are_summed_up_by_name(database_url: str, old: Engine) -> None:
    upgrade(old)
    with Store.open(database_url) as store:
        assert store.operations(2, "name") == [
            Operation(name="MatMul", calls=4, self_ns=60, total_ns=61, **launched(11)),
            Operation(name="Conv2D", calls=2, self_ns=40, total_ns=60, **launched(30)),
            Operation(name="Kernel_" + "ä" * 3000, calls=1, self_ns=0, total_ns=0, **launched(9)),
            Operation(name="NoOp", calls=1, self_ns=0, total_ns=0),
        ]
        assert len(store.operations(2, "shape")) == 5
        summary = store.profile_summary(2)
        assert summary is not None
        assert (summary.source, summary.steps, summary.covered_ns, summary.coverage) == ("xspace", [], 70, None)
    with reading(old) as connection:
        for unknown in (operations.c.device_total_ns, profile_steps.c.calls, profiles.c.span_ns):
            assert set(connection.scalars(select(unknown))) == {None}


def launched(device_ns: int) -> dict[str, int]:
    return {"device_ns": device_ns, "device_total_ns": device_ns}


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
