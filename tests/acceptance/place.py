"""A place to run Dnnamo's commands in, as a user would: real processes, a data folder, a database, maybe a broker."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dnnamo_storage import Store

DNNAMO = Path(sys.executable).with_name("dnnamo")
PATIENCE_S = 60
EXAMPLES = Path(__file__).parents[2] / "examples"

QUICK = EXAMPLES / "bare_model.py"
"""A model that imports no framework, for tests that are about jobs."""


class Place:
    """One installation: where its data lies and what its environment says."""

    def __init__(self, home: Path, *, database_url: str | None = None, broker_url: str | None = None) -> None:
        self.home = home
        given = {"DNNAMO_HOME": str(home), "DNNAMO_DATABASE_URL": database_url, "DNNAMO_BROKER_URL": broker_url}
        keep = "DNNAMO_LOCKS"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DNNAMO_") or name == keep}
        self.environment = clean | {name: value for name, value in given.items() if value is not None}
        self._database_url = database_url or f"sqlite:///{home / 'dnnamo.db'}"

    def dnnamo(self, *words: object, code: int | None = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end and check its exit code."""
        done = subprocess.run(
            [DNNAMO, *map(str, words)],
            env=self.environment | environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert code is None or done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

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
        """Write a model file."""
        path = self.home / name
        path.write_text(text)
        return path

    def store(self) -> Store:
        """Open this place's database, for a look or to make something happen that would take long."""
        return Store.open(self._database_url)

    @contextmanager
    def worker(
        self, command: Sequence[str] = ("dnnamo", "worker"), **environment: str
    ) -> Iterator["subprocess.Popen[str]"]:
        """Run a worker process and stop it at the end if it still runs."""
        log = self.home / "worker.log"
        with log.open("a") as output:
            process = subprocess.Popen(
                [DNNAMO, *command[1:]],
                env=self.environment | environment,
                cwd=self.home,
                stdout=output,
                stderr=output,
                text=True,
            )
        try:
            until(lambda: process.poll() is not None or self._is_serving(process.pid))
            assert process.poll() is None, log.read_text()
            yield process
        finally:
            stop(process)

    def _is_serving(self, pid: int) -> bool:
        with self.store() as store:
            return any(worker.name.endswith(f":{pid}") for worker in store.workers(seen_within_s=PATIENCE_S))


def stop(process: "subprocess.Popen[str]") -> int:
    """End a process with SIGTERM and return its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


def until(is_true: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_true():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)


def steps_add_up(summary: Mapping[str, Any], count: int) -> bool:
    """Whether a job's summary has times for so many steps, and a median among them."""
    steps = summary["steps"]
    times = steps["duration_ns"]
    return steps["count"] == len(times) == count and min(times) <= steps["median_ns"] <= max(times)
