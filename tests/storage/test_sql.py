"""SQL of the user's own: it reads whatever there is, and nothing that it tries changes anything."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from sqlalchemy import func, inspect, select, text

from dnnamo.errors import DatabaseUnavailable, DnnamoError, UsageError
from dnnamo.records import Outcome
from dnnamo_storage import Store
from dnnamo_storage.engine import reading, writing
from dnnamo_storage.schema import metadata
from dnnamo_storage.sql import Rows, read_only
from tests.storage.stored import ENVIRONMENT, PROFILE, contents, submit_and_take

ATTACKS = [
    "",
    "-- SELECT 1",
    "DELETE FROM jobs",
    "/* SELECT */ DELETE FROM jobs",
    "SELECT 1; DELETE FROM jobs",
    "SELECT 1; SELECT 2",
    "WITH x AS (DELETE FROM jobs RETURNING id) SELECT * FROM x",
    "WITH x AS (UPDATE jobs SET priority = 7 RETURNING id) SELECT * FROM x",
    "WITH x AS (INSERT INTO job_tags VALUES ('t', 1) RETURNING tag) SELECT * FROM x",
    "WITH x AS (SELECT 1) DELETE FROM jobs",
    "EXPLAIN DELETE FROM jobs",
    "EXPLAIN ANALYZE DELETE FROM jobs",
    "EXPLAIN ANALYZE CREATE TABLE mine AS SELECT 1",
    "EXPLAIN (ANALYZE /* ) SELECT */) CREATE TABLE mine AS SELECT 1",
    "EXPLAIN (ANALYZE --) SELECT\n) CREATE TABLE mine AS SELECT 1",
    "SELECT * INTO mine FROM jobs",
    "SELECT * FROM jobs FOR UPDATE",
    "CREATE TABLE mine AS SELECT 1",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "VACUUM",
    "SELECT '\x00'",
    "SELECT '\ud800'",
]
ATTACKS_ON = {
    "sqlite": [
        "ATTACH DATABASE '{folder}/mine.db' AS mine",
        "VACUUM INTO '{folder}/mine.db'",
        "PRAGMA writable_schema = ON",
        "PRAGMA query_only = OFF",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA user_version = 7",
        "PRAGMA wal_checkpoint",
        "SELECT * FROM pragma_journal_mode('DELETE')",
        "WITH x AS (SELECT 1) UPDATE sqlite_master SET sql = ''",
        "SELECT load_extension('{folder}/mine.so')",
        "SELECT writefile('{folder}/mine', 'x')",
        "SELECT ?",
    ],
    "postgresql": [
        "SELECT nextval('jobs_id_seq')",
        "SELECT setval('jobs_id_seq', 7)",
        "SELECT pg_catalog.setval('jobs_id_seq', 7)",
        "SELECT \"setval\"('jobs_id_seq', 7)",
        "SELECT U&\"set\\0076al\"('jobs_id_seq', 7)",
        "SELECT SETVAL/**/('jobs_id_seq', 7)",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity",
        "SELECT pg_advisory_lock(7)",
        "SELECT pg_sleep(0)",
        "SELECT pg_read_file('/etc/hostname')",
        "SELECT pg_ls_dir('.')",
        "SELECT lo_export(1, '{folder}/mine')",
        "SELECT lo_import('/etc/hostname')",
        "SELECT query_to_xml('DELETE FROM jobs', true, false, '')",
        "SELECT set_config('transaction_read_only', 'off', false)",
        "SET transaction_read_only = off",
        "COPY jobs TO PROGRAM 'cat > {folder}/mine'",
        "COPY (SELECT 1) TO '{folder}/mine'",
        "DO $$ BEGIN DELETE FROM jobs; END $$",
        "DECLARE mine CURSOR WITH HOLD FOR SELECT 1",
        "LOCK jobs",
        "NOTIFY mine",
        "SELECT effect()",
        "SELECT $1",
    ],
}
READS = {
    "SELECT 1;": 1,
    "SELECT 1 -- one": 1,
    "/* one */ SELECT 1": 1,
    "WITH one AS (SELECT 1 AS n) SELECT n FROM one": 1,
    "VALUES (1)": 1,
    "SELECT '%s {} :name ?'": "%s {} :name ?",
    "SELECT NULL": None,
    "SELECT 9223372036854775807": 2**63 - 1,
    "SELECT 0.5": 0.5,
    "SELECT name FROM operations WHERE grain = 'kernel'": "gemm<float>",
    "SELECT sum(self_ns) FROM operations WHERE grain = 'layer'": 5,
    "SELECT data FROM artifacts": "3 bytes",
    "SELECT shapes FROM operations WHERE grain = 'shape' AND position = 0": "[[2,3],[],null]",
}
READS_ON = {
    "sqlite": {
        "PRAGMA table_info(job_tags)": 0,
        "SELECT name FROM pragma_table_info('job_tags')": "tag",
        "SELECT value FROM jobs, json_each(spec) AS e WHERE e.key = 'model'": "demo:mlp",
        "EXPLAIN SELECT 1": 0,
        "EXPLAIN QUERY PLAN SELECT id FROM jobs WHERE state = 'queued' AND id = -1": ANY,
        "SELECT random() * 0": 0,
    },
    "postgresql": {
        "( SELECT 1 )": 1,
        "TABLE hint_keys": 1,
        "SHOW transaction_read_only": "on",
        "EXPLAIN SELECT 1": "Result  (cost=0.00..0.01 rows=1 width=4)",
        "SELECT spec ->> 'model' FROM jobs": "demo:mlp",
        "SELECT ARRAY[1, 2]": "[1,2]",
        "SELECT ARRAY[0.5, 'Infinity'::numeric]": '["0.5","Infinity"]',
        "SELECT 'Infinity'::numeric": float("inf"),
        "SELECT INTERVAL '1 hour'": "1:00:00",
        "SELECT count(*) FROM jobs TABLESAMPLE SYSTEM (100)": 1,
        "SELECT TIMESTAMPTZ '2026-01-02 03:04:05+02'": "2026-01-02 01:04:05.000000",
        "SELECT random() < 2": True,
    },
}


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """A database with one job, which is profiled."""
    with Store.open(database_url) as store:
        outcome = Outcome(state="succeeded", profile=PROFILE, environment=ENVIRONMENT)
        assert store.record(submit_and_take(store), outcome, files={})
        store.put_artifact(b"abc")
        yield store


def refusal(url: str, statement: str, **options: Any) -> str:
    try:
        found = read_only(url, statement, **options)
    except UsageError as error:
        return str(error)
    pytest.fail(f"{statement!r} was not refused but gave {found}")


def tables(store: Store) -> list[str]:
    with reading(store.engine) as connection:
        return sorted(inspect(connection).get_table_names())


def test_nothing_but_reading_is_done(store: Store, database_url: str, tmp_path: Path) -> None:
    dialect = store.engine.dialect.name
    if dialect == "postgresql":
        with writing(store.engine) as connection:
            connection.execute(
                text("CREATE FUNCTION effect() RETURNS void LANGUAGE sql AS 'CREATE TABLE mine (id integer)'")
            )
    before, known, files = contents(store), tables(store), sorted(tmp_path.iterdir())
    for attack in [*ATTACKS, *ATTACKS_ON[dialect]]:
        refusal(database_url, attack.replace("{folder}", str(tmp_path)))

    assert (contents(store), tables(store), sorted(tmp_path.iterdir())) == (before, known, files)
    assert submit_and_take(store).job_id == 2


def test_what_gets_past_the_words_leaves_nothing(
    store: Store, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, known = contents(store), tables(store)
    monkeypatch.setattr("dnnamo_storage.sql._refuse_writing", lambda *_: None)
    monkeypatch.setattr("dnnamo_storage.sql._refuse_volatile", lambda *_: None)
    monkeypatch.setattr("dnnamo_storage.sql._authorize", lambda *_: 0)
    for attack in ATTACKS[2:-2]:
        with suppress(DnnamoError):
            read_only(database_url, attack)

    assert (contents(store), tables(store)) == (before, known)


def test_what_reads_is_answered(store: Store, database_url: str) -> None:
    reads = {**READS, **READS_ON[store.engine.dialect.name]}
    assert {statement: read_only(database_url, statement).rows[0][0] for statement in reads} == reads


def test_columns_and_rows_come_as_they_are(store: Store, database_url: str) -> None:
    found = read_only(database_url, "SELECT name, calls FROM operations WHERE grain = 'name' ORDER BY position")
    assert found == Rows(columns=["name", "calls"], rows=[["aten::mm", 4], ["aten::add", 1]])
    assert read_only(database_url, "SELECT id AS n FROM jobs WHERE id = 0") == Rows(columns=["n"], rows=[])
    assert Rows.from_json(found.to_json()) == found


def test_times_look_the_same_everywhere(store: Store, database_url: str) -> None:
    ((created,),) = read_only(database_url, "SELECT created FROM jobs").rows
    assert created.rstrip("0") == store.job(1).created.replace(tzinfo=None).isoformat(" ", "microseconds").rstrip("0")


def test_no_more_rows_are_returned_than_asked_for(store: Store, database_url: str) -> None:
    statement = "SELECT position FROM operations WHERE grain = 'shape' ORDER BY position"
    assert read_only(database_url, statement, limit=2) == Rows(columns=["position"], rows=[[0], [1]], more=True)
    assert read_only(database_url, statement, limit=3).more is False
    assert read_only(database_url, statement, limit=0) == Rows(columns=["position"], rows=[], more=True)


def test_a_statement_that_takes_too_long_is_given_up(store: Store, database_url: str) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    assert "longer than 0.2 s" in refusal(database_url, endless, timeout_s=0.2)


@pytest.mark.parametrize(
    ("statement", "said", "meant"),
    [
        ("SELECT * FROM operation", "operation", "Did you mean operations or graph_operations?"),
        ("SELECT * FROM kernels_of_all", "kernels_of_all", "There are artifacts, "),
        ("SELECT nam FROM operations", "nam", "name"),
        ("SELECT o.self_n FROM operations o", "self_n", "self_ns"),
        ("SELECT gibberish FROM job_tags", "gibberish", "There are job_id, tag."),
        ("SELEC", "SELEC", "SELECT"),
        ("SELECT * FROM jobs WHERE", "", "does not take the statement: "),
    ],
)
def test_a_mistake_is_told_with_what_was_meant(
    store: Store, database_url: str, statement: str, said: str, meant: str
) -> None:
    message = refusal(database_url, statement)
    assert said in message
    assert meant in message


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="no database"):
        read_only(f"sqlite:///{tmp_path / 'absent' / 'dnnamo.db'}", "SELECT 1")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no database, but long enough to look at " * 100)
    with pytest.raises(DatabaseUnavailable, match=r"notes\.txt.*choose another database"):
        read_only(f"sqlite:///{tmp_path / 'notes.txt'}", "SELECT * FROM jobs")


def test_a_server_that_does_not_answer_is_told() -> None:
    with pytest.raises(DatabaseUnavailable, match="cannot be used"):
        read_only("postgresql://user:secret@127.0.0.1:1/dnnamo", "SELECT 1")


def test_readers_do_not_hold_writers_up(store: Store, database_url: str) -> None:
    with reading(store.engine) as connection:
        connection.scalar(select(func.count()).select_from(metadata.tables["jobs"]))
        assert read_only(database_url, "SELECT count(*) FROM jobs").rows == [[1]]
        assert submit_and_take(store).job_id == 2
    assert read_only(database_url, "SELECT count(*) FROM jobs").rows == [[2]]
