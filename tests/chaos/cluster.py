"""A cluster for one test: servers, workers that can be killed and come back, and jobs that write to a log."""

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import text

from dnnamo import records
from dnnamo.records import Job, JobSpec
from dnnamo_storage import Store
from dnnamo_workers.hinted import Hinted
from tests.chaos import log, processes
from tests.chaos.checker import violations
from tests.chaos.history import History, read_history
from tests.chaos.processes import until

__all__ = ["PATIENCE_S", "Cluster", "Kill", "Worker"]

PATIENCE_S = 60
MODEL = Path(__file__).with_name("model.py")

_MARK = "DNNAMO_CHAOS"
# What the script `dnnamo` does, whatever other installation is on PATH.
_COMMAND = [sys.executable, "-P", "-c", "from dnnamo.cli import main; main()", "worker"]

_LEASES_OVER = text(
    "UPDATE jobs SET lease_until = '2020-01-01 00:00:00.000000' WHERE state = 'running' AND EXISTS ("
    "SELECT 1 FROM attempts WHERE job_id = jobs.id AND number = jobs.attempt AND worker LIKE :worker)"
)


@dataclass(frozen=True)
class Kill:
    """A process that was killed, the worker that it belonged to, and when."""

    kind: str
    worker: int
    wall: float


class Worker:
    """A worker process, its keepers below it and their runners below them.

    Args:
        environment: What its environment has on top of this process's.
        core: CPU that it may use; workers that share one wait for each other's jobs.
        output: File that its output is appended to.
    """

    def __init__(self, environment: Mapping[str, str], *, core: int, output: Path) -> None:
        self.output = output
        self._environment = environment
        self._core = core
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "it was never started"
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def keepers(self) -> list[int]:
        return processes.children(self.pid)

    @property
    def runners(self) -> list[int]:
        return [child for keeper in self.keepers for child in processes.children(keeper)]

    def start(self) -> None:
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {self._core})  # what is started takes this over
        try:
            with self.output.open("ab") as output:
                self._process = subprocess.Popen(
                    _COMMAND,
                    env=os.environ | self._environment,
                    cwd=self.output.parent,
                    stdout=output,
                    stderr=output,
                )
        finally:
            os.sched_setaffinity(0, before)

    def kill_one(self, kind: str) -> Kill | None:
        """Kill a process of a kind, `worker`, `keeper` or `runner`; None if there is none at the moment."""
        found = {"worker": [self.pid], "keeper": self.keepers, "runner": self.runners}[kind] if self.is_alive else []
        if not found:
            return None
        kill = Kill(kind, self.pid, time.time())
        with suppress(ProcessLookupError):
            os.kill(random.choice(found), signal.SIGKILL)
        return kill

    def kill(self) -> None:
        """Kill it, stopped or not."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Cluster:
    """Jobs, workers and what became of them; a context manager that leaves no process behind.

    Args:
        folder: For everything that the test writes.
        database_url: The database, as this process reaches it; and workers, unless they are told otherwise.
        broker_url: The broker, likewise.

    Attributes:
        acknowledged: Id that the submit returned, by the number of the job.
        workers: All that were started, each the same however often it was killed and came back.
    """

    def __init__(self, folder: Path, database_url: str, broker_url: str) -> None:
        self.folder = folder
        self.log_path = folder / "log"
        self.database_url = database_url
        self.store = Store.open(database_url)
        self._hints = Hinted(self.store, broker_url)
        self.acknowledged: dict[int, int] = {}
        self.workers: list[Worker] = []
        self._numbers = count(1)
        self._mark = uuid.uuid4().hex
        self._environment = {
            "DNNAMO_HOME": str(folder),
            "DNNAMO_DATABASE_URL": database_url,
            "DNNAMO_BROKER_URL": broker_url,
            "TMPDIR": str(folder / "tmp"),  # killed workers leave theirs behind
            _MARK: self._mark,
        }
        (folder / "tmp").mkdir()
        self._exit = ExitStack()
        self._exit.callback(self.store.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._exit.close()
            if error is None:
                until(lambda: not self.processes(), within_s=15, otherwise=f"{self.processes()} did not end")
        finally:
            for pid in self.processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def processes(self) -> list[int]:
        """Return all processes of this cluster's workers and jobs, wherever they went."""
        return processes.with_mark(_MARK, self._mark)

    def start_workers(self, count: int = 1, **environment: str) -> list[Worker]:
        """Start workers with one slot, each on a core of its own, and wait until they take jobs."""
        return self._start([self._worker(environment) for _ in range(count)])

    def _worker(self, environment: Mapping[str, str]) -> Worker:
        number = len(self.workers)
        cores = sorted(os.sched_getaffinity(0))
        worker = Worker(
            self._environment | environment,
            core=cores[number % len(cores)],
            output=self.folder / f"worker-{number}.log",
        )
        self.workers.append(worker)
        self._exit.callback(worker.kill)
        return worker

    def _start(self, workers: Sequence[Worker]) -> list[Worker]:
        for worker in workers:
            worker.start()
        for worker in workers:
            until(
                lambda: not worker.is_alive or self.report_of(worker),  # noqa: B023
                within_s=PATIENCE_S,
                otherwise="a worker did not report itself",
            )
            assert worker.is_alive, worker.output.read_text()
        return list(workers)

    def report_of(self, worker: Worker) -> records.Worker | None:
        """Return what a worker last said of itself, None if that is long ago."""
        return next((it for it in self.store.workers() if it.name.endswith(f":{worker.pid}")), None)

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers that live."""
        return [worker.pid for worker in self.workers if worker.is_alive]

    def revive(self) -> None:
        """Start the workers anew that have died, as whatever looks after services does."""
        for worker in self.workers:
            if not worker.is_alive:
                worker.start()

    def spec(self, act: str = "work", amount: float = 0.0, **limits: Any) -> JobSpec:
        """Return the spec of a job of the test model, with a number of its own."""
        params = {"log": str(self.log_path), "number": next(self._numbers), "act": act, "amount": amount}
        return JobSpec(model=str(MODEL), method="run_training", params=params, n_steps=1, warmup=0, **limits)

    def submit(self, act: str = "work", amount: float = 0.0, *, hinted: bool = True, **limits: Any) -> int:
        """Store a job, and hint at it unless workers are to find it by themselves; return its number."""
        spec = self.spec(act, amount, **limits)
        number: int = spec.params["number"]
        self.acknowledged[number] = self.store.submit(spec)
        if hinted:
            self._hints.launch(self.acknowledged[number], spec.device)
        return number

    def job(self, number: int) -> Job:
        """Return a job as Dnnamo shows it."""
        return self.store.job(self.acknowledged[number])

    def wait(self, *numbers: int, within_s: float = PATIENCE_S) -> list[Job]:
        """Wait until jobs are over; return them."""
        for number in numbers:
            until(lambda: self.job(number).is_over, within_s=within_s, otherwise=f"job {number} did not end")  # noqa: B023
        return [self.job(number) for number in numbers]

    def wait_for_all(self, *, within_s: float, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Wait until no job is queued or running, doing something about every tenth of a second."""
        deadline = time.monotonic() + within_s
        while self.left():
            assert time.monotonic() < deadline, f"{self.left()} jobs are not over within {within_s:g} s"
            meanwhile()
            time.sleep(0.1)

    def left(self) -> int:
        """Return how many jobs are not over."""
        with self.store.engine.connect() as connection:
            waiting = text("SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')")
            return int(connection.scalar(waiting) or 0)

    def pass_half_a_minute(self, worker: Worker | None = None) -> None:
        """Have the leases run out that a worker holds, all by default, as if so much time had passed."""
        with self.store.engine.begin() as connection:
            connection.execute(_LEASES_OVER, {"worker": "%" if worker is None else f"%:{worker.pid}"})

    def lines(self) -> list[log.Line]:
        """Return the log so far."""
        return log.read(self.log_path)

    def began(self, number: int) -> list[int]:
        """Return the executions of a job that began."""
        return log.runs_of(self.lines(), number)

    def wait_until_began(self, number: int, *, times: int = 1, within_s: float = PATIENCE_S) -> float:
        """Wait until a job is being executed, for the `times`-th time; return when that was."""
        until(lambda: len(self.began(number)) >= times, within_s=within_s, otherwise=f"job {number} did not begin")
        marks = [line.wall for line in self.lines() if (line.job, line.event) == (number, "began")]
        return marks[times - 1]

    def history(self) -> History:
        """Return what the database recorded."""
        return read_history(self.database_url)

    def violations(self, *, drained: bool = True) -> list[str]:
        """Return the promises that were broken."""
        return violations(self.lines(), self.history(), self.acknowledged, drained=drained)
