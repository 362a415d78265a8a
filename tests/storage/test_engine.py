"""Engines from URLs, transactions, and drivers' errors in Dnnamo's words."""

import sqlite3
import stat
import sys
import threading
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, make_url, select, text
from sqlalchemy.exc import IntegrityError, ProgrammingError

from dnnamo.errors import DatabaseUnavailable, MissingExtra, UsageError
from dnnamo_storage import Store, open_engine
from dnnamo_storage.columns import db_now, dump_json, storable
from dnnamo_storage.engine import describe, reading, writing
from tests.servers import free_port

SECRET = "hunter2"


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = open_engine(database_url)
    yield engine
    engine.dispose()


def everything_shown(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "",
        "mysql://root@localhost/x",
        "postgresql+psycopg2://localhost/x",
        "postgresql://u:p@host:port/x",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:x?mode=memory&uri=true",
    ],
)
def test_a_url_that_cannot_be_used_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match="sqlite:////folder"):
        open_engine(url)


def test_a_url_that_cannot_be_parsed_is_not_shown() -> None:
    with pytest.raises(UsageError) as caught:
        open_engine(f"postgresql://user:word@host:{SECRET}/database")
    assert SECRET not in everything_shown(caught.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgresql_goes_through_psycopg(scheme: str) -> None:
    engine = open_engine(f"{scheme}://user@host/database?connect_timeout=9")
    assert engine.url.drivername == "postgresql+psycopg"
    assert engine.url.query["connect_timeout"] == "9"
    assert engine.url.query["application_name"] == "dnnamo"


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtra, match=r"dnnamo\[postgres\]") as caught:
        open_engine("postgresql://host/database")
    assert caught.value.extra == "postgres"


@pytest.mark.parametrize(
    "url", [f"postgresql://user:{SECRET}@host/db", f"postgresql://user@host/db?password={SECRET}&sslmode=require"]
)
def test_passwords_are_not_described(url: str) -> None:
    assert SECRET not in describe(make_url(url))
    assert "host" in describe(make_url(url))


def test_a_server_that_does_not_answer_is_unavailable() -> None:
    with pytest.raises(DatabaseUnavailable, match=r"127\.0\.0\.1.*Check that the server runs") as caught:
        Store.open(f"postgresql://user:{SECRET}@127.0.0.1:{free_port()}/database")
    assert SECRET not in everything_shown(caught.value)
    assert caught.value.__cause__ is not None
    assert "\n" not in str(caught.value)


def test_a_database_that_does_not_exist_is_unavailable(postgres_server: str) -> None:
    with pytest.raises(DatabaseUnavailable, match="does not exist"):
        Store.open(make_url(postgres_server).set(database="absent").render_as_string(hide_password=False))


def test_a_connection_cut_by_the_server_is_unavailable_and_the_next_one_works(postgres_url: str) -> None:
    with Store.open(postgres_url) as store:
        with pytest.raises(DatabaseUnavailable), writing(store.engine) as connection:
            connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        assert store.jobs() == []


@pytest.mark.parametrize("deaf", [False, True], ids=["heard", "asked"])
def test_a_connection_that_ended_while_nobody_used_it_is_replaced(
    postgres_url: str, deaf: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if deaf:  # as when the news of the end never came, and the connection has been idle for a while
        monkeypatch.setattr("dnnamo_storage.engine._has_input", lambda _: False)
        monkeypatch.setattr("dnnamo_storage.engine._TRUSTED_S", 0.0)
    pid = text("SELECT pg_backend_pid()")
    engine, other = open_engine(postgres_url), open_engine(postgres_url)
    with reading(engine) as one, reading(engine) as two:
        pids = [one.scalar(pid), two.scalar(pid)]
    with writing(other) as connection:
        for number in pids:
            assert connection.scalar(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": number})
    with reading(engine) as one, reading(engine) as two:
        assert not {one.scalar(pid), two.scalar(pid)} & set(pids)
    engine.dispose()
    other.dispose()


def test_a_postgresql_user_without_rights_is_told_so(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    with pytest.raises(DatabaseUnavailable, match="right to create"), writing(engine) as connection:
        connection.execute(text("SET LOCAL ROLE pg_monitor; CREATE TABLE x (id INTEGER)"))
    engine.dispose()


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, " * 100)
    with pytest.raises(DatabaseUnavailable, match="file is not a database"):
        Store.open(f"sqlite:///{path}")
    assert path.read_text().startswith("not a database")


def test_a_damaged_file_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "dnnamo.db"
    Store.open(f"sqlite:///{path}").close()
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 8192)
    with pytest.raises(DatabaseUnavailable, match="damaged"):
        Store.open(f"sqlite:///{path}")


def test_a_folder_in_the_place_of_the_file_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="unable to open"):
        Store.open(f"sqlite:///{tmp_path}")


def test_a_file_in_the_place_of_the_folder_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(DatabaseUnavailable, match="cannot be made"):
        Store.open(f"sqlite:///{tmp_path / 'data' / 'dnnamo.db'}")


def test_a_read_only_database_is_unavailable(tmp_path: Path) -> None:
    # By SQLite's own flag: root, who runs tests in containers, may write to any file.
    with Store.open(f"sqlite:///{tmp_path / 'dnnamo.db'}") as store:
        with store.engine.connect() as connection:
            connection.execute(text("PRAGMA query_only = ON"))
        with pytest.raises(DatabaseUnavailable, match=r"readonly database.*writable"):
            store.put_artifact(b"x")


def test_a_locked_file_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "dnnamo.db"
    with Store.open(f"sqlite:///{path}") as store:
        with store.engine.connect() as connection:
            connection.execute(text("PRAGMA busy_timeout = 50"))
        holder = sqlite3.connect(path)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseUnavailable, match="locked"):
            store.put_artifact(b"x")
        holder.close()


def test_a_mistake_in_a_statement_is_no_unavailable_database(engine: Engine) -> None:
    with pytest.raises(Exception, match="absent") as caught, reading(engine) as connection:
        connection.execute(text("SELECT * FROM absent"))
    assert not isinstance(caught.value, DatabaseUnavailable)


def test_a_broken_constraint_is_no_unavailable_database(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(text("CREATE TABLE t (id INTEGER NOT NULL)"))
    with pytest.raises(IntegrityError), writing(engine) as connection:
        connection.execute(text("INSERT INTO t VALUES (NULL)"))


def test_sqlite_is_set_up_to_lose_nothing(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'a' / 'b' / 'dnnamo.db'}")
    with reading(engine) as connection:
        asked = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        assert [connection.scalar(text(f"PRAGMA {name}")) for name in asked] == ["wal", 2, 1, 30_000]
    engine.dispose()
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


def test_a_relative_path_stays_where_it_was_when_the_process_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Store.open("sqlite:///dnnamo.db") as store:
        monkeypatch.chdir("/")
        assert store.jobs() == []
    assert (tmp_path / "dnnamo.db").exists()


def test_a_failed_block_is_rolled_back(engine: Engine) -> None:
    def insert_and_fail() -> None:
        with writing(engine) as connection:
            connection.execute(text("INSERT INTO t VALUES (1)"))
            raise KeyError

    with writing(engine) as connection:
        connection.execute(text("CREATE TABLE t (id INTEGER)"))
    with pytest.raises(KeyError):
        insert_and_fail()
    with reading(engine) as connection:
        assert connection.scalar(text("SELECT count(*) FROM t")) == 0


def test_a_reader_sees_the_database_of_one_moment(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(text("CREATE TABLE t (id INTEGER)"))
    with reading(engine) as reader:
        assert reader.scalar(text("SELECT count(*) FROM t")) == 0
        with writing(engine) as writer:
            writer.execute(text("INSERT INTO t VALUES (1)"))
        assert reader.scalar(text("SELECT count(*) FROM t")) == 0


def test_postgresql_readers_cannot_write_and_the_connection_can_later(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    with pytest.raises(Exception, match="read-only"), reading(engine) as connection:
        connection.execute(text("CREATE TABLE t (id INTEGER)"))
    with writing(engine) as connection:
        connection.execute(text("CREATE TABLE t (id INTEGER)"))
    with pytest.raises(ProgrammingError), writing(engine) as connection:
        connection.execute(text("CREATE TABLE t (id INTEGER)"))
    engine.dispose()


def test_writers_in_threads_wait_for_each_other(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(text("CREATE TABLE t (n INTEGER)"))
        connection.execute(text("INSERT INTO t VALUES (0)"))

    def count() -> None:
        for _ in range(10):
            with writing(engine) as connection:
                connection.execute(text("UPDATE t SET n = n + 1"))

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with reading(engine) as connection:
        assert connection.scalar(text("SELECT n FROM t")) == 80


@pytest.mark.parametrize("offset_s", [0, 30, 0.25, -5, 0.00001, 86_400.5])
def test_database_time_is_utc_with_an_offset(engine: Engine, offset_s: float) -> None:
    with reading(engine) as connection:
        now = connection.scalar(select(db_now(offset_s)))
    assert now is not None
    assert now.tzinfo is UTC
    assert (now - datetime.now(UTC)).total_seconds() == pytest.approx(offset_s, abs=2)


def test_database_time_compares(engine: Engine) -> None:
    with reading(engine) as connection:
        assert connection.scalar(select(db_now(-0.01) < db_now()))
        assert connection.scalar(select(db_now(100) > db_now(99)))


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("a\x00b", "a\ufffdb"),
        ("\ud800x\udfff", "\ufffdx\ufffd"),
        ("naïve 🦊", "naïve 🦊"),
        (float("nan"), None),
        ([float("inf"), 1.5, -0.0, 2**70, True, None], [None, 1.5, -0.0, 2**70, True, None]),
        ({"k\x00": ("a", {"b": "\x00"})}, {"k\ufffd": ["a", {"b": "\ufffd"}]}),
    ],
)
def test_what_cannot_be_stored_is_replaced(value: object, kept: object) -> None:
    assert storable(value) == kept


def test_json_is_valid_whatever_the_floats() -> None:
    assert dump_json([float("nan"), float("-inf"), "\\u0000", "\x00"]) == '[null,null,"\\\\u0000","\ufffd"]'
