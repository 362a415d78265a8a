"""A place to run Dnnamo's commands in, as a user would: real processes, a data folder, a database, maybe a broker.

Most of what a command takes is imports. So its process is forked from one that has imported everything already
(`tests.acceptance.zygote`), and `ls` takes 50 ms instead of a second. It is a process in everything else: it has
arguments, environment, folder, streams, signals and exit code of its own. `fresh=True` starts an interpreter instead,
for tests of how one starts, of what it imports, or of variables that Python itself reads.

A test takes the fixture `embedded`, `cluster` or `place`, which is both, one after the other, and calls

    place.dnnamo("ls", "--limit", 1)              # must end with 0; what it returns has stdout and stderr
    place.dnnamo("show", 4711, code=2)            # must end with 2; code=None takes any
    place.json("ops", 3)                          # what it prints with -o json, parsed
    place.submit("run_inference", QUICK, *BRIEF)  # the job's id
    place.ended(3)                                # what `show` says once the job is over
    with place.started("run", QUICK) as run:      # goes on beside the test
        run.send_signal(signal.SIGINT)
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from dnnamo_storage import Store
from tests.acceptance.zygote import DNNAMO, Forked, zygote

PATIENCE_S = 60
EXAMPLES = Path(__file__).parents[2] / "examples"

QUICK = EXAMPLES / "bare_model.py"
"""A model that imports no framework, for tests that are about jobs."""

BRIEF = ("--steps", 1, "--warmup", 0)
"""As little as a job can do."""

Process = Forked | subprocess.Popen[bytes]


class Place:
    """One installation: where its data lies and what its environment says."""

    def __init__(self, home: Path, *, database_url: str | None = None, broker_url: str | None = None) -> None:
        self.home = home
        given = {"DNNAMO_HOME": str(home), "DNNAMO_DATABASE_URL": database_url, "DNNAMO_BROKER_URL": broker_url}
        keep = "DNNAMO_LOCKS"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DNNAMO_") or name == keep}
        self.environment = clean | {name: value for name, value in given.items() if value is not None}
        self._database_url = database_url or f"sqlite:///{home / 'dnnamo.db'}"

    def dnnamo(
        self, *words: object, code: int | None = 0, fresh: bool = False, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end and check its exit code.

        Args:
            words: What stands after `dnnamo`.
            code: The exit code that it must have; None for any.
            fresh: Whether to start an interpreter for it.
            environment: What its environment has besides this place's own.
        """
        with TemporaryFile() as output, TemporaryFile() as errors:
            with self.started(*words, output=output, errors=errors, fresh=fresh, **environment) as process:
                process.wait(PATIENCE_S)
            said = [_written(file) for file in (output, errors)]
        done = subprocess.CompletedProcess([str(word) for word in words], process.wait(), *said)
        assert code is None or done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    @contextmanager
    def started(
        self,
        *words: object,
        output: IO[bytes] | None = None,
        errors: IO[bytes] | None = None,
        fresh: bool = False,
        **environment: str,
    ) -> Iterator[Process]:
        """Run a command, in a session of its own; end it with SIGTERM at the end if it still runs.

        Args:
            words: What stands after `dnnamo`.
            output: Where its standard output goes; None for nowhere.
            errors: Where its standard error goes; None for nowhere.
            fresh: Whether to start an interpreter for it.
            environment: What its environment has besides this place's own.
        """
        with Path(os.devnull).open("wb") as nowhere:
            process = (_execute if fresh else zygote().fork)(
                [str(DNNAMO), *map(str, words)],
                environment=self.environment | environment,
                folder=self.home,
                fds=[(stream or nowhere).fileno() for stream in (output, errors)],
            )
        try:
            yield process
        finally:
            stop(process)

    def json(self, *words: object, code: int = 0) -> Any:
        """Run a command with `-o json` and return what it printed."""
        return json.loads(self.dnnamo(*words, "-o", "json", code=code).stdout)

    def submit(self, *words: object) -> int:
        """Submit a job and return the id that was printed, which must be all that was printed."""
        return int(self.dnnamo("submit", *words).stdout)

    def ended(self, job_id: int) -> Any:
        """Wait for a job and return what `show` says of it."""
        self.dnnamo("wait", job_id, code=None)
        return self.json("show", job_id)

    def file(self, name: str, text: str) -> Path:
        """Write a model file, in a folder of its own, as that goes along with a job."""
        path = self.home / "models" / name.partition(".")[0] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def store(self) -> Store:
        """Open this place's database, for a look or to make something happen that would take long."""
        return Store.open(self._database_url)

    @contextmanager
    def worker(
        self, command: Sequence[str] = ("dnnamo", "worker"), *, fresh: bool = False, **environment: str
    ) -> Iterator[Process]:
        """Run a worker process and stop it at the end if it still runs."""
        log = self.home / "worker.log"
        with (
            log.open("ab") as output,
            self.started(*command[1:], output=output, errors=output, fresh=fresh, **environment) as process,
            self.store() as store,
        ):
            until(lambda: process.poll() is not None or _is_serving(store, process.pid))
            assert process.poll() is None, log.read_text()
            yield process


def _execute(
    arguments: Sequence[str], environment: Mapping[str, str], folder: Path, fds: Sequence[int]
) -> "subprocess.Popen[bytes]":
    """Start an interpreter; takes what `fork` of the zygote takes."""
    return subprocess.Popen(
        arguments,
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=fds[0],
        stderr=fds[1],
        start_new_session=True,
    )


def _written(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


def _is_serving(store: Store, pid: int) -> bool:
    return any(worker.name.endswith(f":{pid}") for worker in store.workers(seen_within_s=PATIENCE_S))


def stop(process: Process) -> int:
    """End a process with SIGTERM and return its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


def until(is_true: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_true():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


def steps_add_up(summary: Mapping[str, Any], count: int) -> bool:
    """Whether a job's summary has times for so many steps, and a median among them."""
    steps = summary["steps"]
    times = steps["duration_ns"]
    return bool(steps["count"] == len(times) == count and min(times) <= steps["median_ns"] <= max(times))
