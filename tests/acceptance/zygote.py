"""Runs `dnnamo` commands as processes of their own, without the second that an interpreter takes for its imports.

This file is a program too. It has imported once what commands import, and forks for each command. What it forks runs
`dnnamo.cli.main` to its end; arguments, environment, folder, streams, session and exit code are its own.
"""

import atexit
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["DNNAMO", "Forked", "zygote"]

DNNAMO = Path(sys.executable).with_name("dnnamo")
"""The program as it is installed."""

# What commands import, as far as it takes long.
_AHEAD = [
    "alembic.command",
    "celery.apps.worker",
    "celery.concurrency",
    "celery.worker.consumer",
    "celery.worker.strategy",
    "dnnamo.cli",
    "dnnamo.client",
    "dnnamo_storage",
    "dnnamo_workers.embedded",
    "dnnamo_workers.hinted",
    "dnnamo_workers.pool",
    "dnnamo_workers.worker",
    "kombu.transport.redis",
    "psycopg",
    "pyarrow.parquet",
    "rich.progress",
    "rich.table",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite",
    "typer.rich_utils",
]
# A process with several threads cannot be forked safely, and OpenBLAS and Arrow's allocator start some on import.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}

_MESSAGE_BYTES = 1 << 17


class Forked:
    """A process that the zygote has forked; does what `subprocess.Popen` does, as far as tests need it."""

    def __init__(self, zygote: "_Zygote", pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._zygote = zygote
        self._ended = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self._returned(0)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code once it has ended.

        Raises:
            subprocess.TimeoutExpired: If it has not by then.
        """
        code = self._returned(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("dnnamo", timeout or 0)
        return code

    def _returned(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._ended], [], [], timeout)[0]:
            os.close(self._ended)
            self.returncode = int(self._zygote.ask(wait=self.pid))
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Signal it, unless it has been waited for."""
        if self.returncode is None:
            os.kill(self.pid, number)  # until it is waited for, its id is nobody else's

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


class _Zygote:
    """The process that forks, from this end. Thread-safe."""

    def __init__(self) -> None:
        self._asking = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=os.environ | _ONE_THREAD,
            )

    def ask(self, fds: Sequence[int] = (), **question: Any) -> Any:
        """Return its answer."""
        with self._asking:
            socket.send_fds(self._control, [json.dumps(question).encode()], fds)
            answer = self._control.recv(_MESSAGE_BYTES)
        assert answer, "the zygote is gone"
        return json.loads(answer)

    def fork(
        self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path, fds: Sequence[int]
    ) -> Forked:
        """Run a command.

        Args:
            arguments: Beginning with the program's name.
            environment: The whole of it.
            folder: Where it runs.
            fds: Standard output and error.
        """
        pid = self.ask(fds, arguments=arguments, environment=dict(environment), folder=str(folder))
        return Forked(self, pid)

    def close(self) -> None:
        """End it, with nothing that it has forked."""
        self._control.close()
        self._process.wait()


@cache
def zygote() -> _Zygote:
    """Return the one of this session, started when it is first needed."""
    started = _Zygote()
    atexit.register(started.close)
    return started


def _serve(control: socket.socket) -> bool:
    """Fork for each command until nobody asks any more; return whether this is a process that was forked."""
    while True:
        message, fds, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, 2)
        if not message:
            return False
        asked = json.loads(message)
        if "wait" in asked:
            answer = os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                _become(asked, fds)
                return True
        for fd in fds:
            os.close(fd)
        control.send(json.dumps(answer).encode())


def _become(asked: Mapping[str, Any], fds: Sequence[int]) -> None:
    """Make this process what a shell would have started."""
    os.setsid()
    for number, fd in enumerate(fds, start=1):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = asked["arguments"]


def _main() -> None:
    with socket.socket(fileno=int(sys.argv[1])) as control:
        control.set_inheritable(False)
        for name in _AHEAD:
            with suppress(ImportError):  # what is not installed is left to the command that needs it
                import_module(name)
        gc.collect()
        gc.freeze()  # what is here stays in pages that the processes share
        assert len(list(Path("/proc/self/task").iterdir())) == 1
        is_forked = _serve(control)
    if is_forked:
        _run()


def _run() -> None:
    from dnnamo.cli import main

    try:
        main()
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise
        # What an interpreter does at its end, but for taking its objects apart: that would copy all shared pages.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code or 0)


if __name__ == "__main__":
    _main()
