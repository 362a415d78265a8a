"""What the queue costs, against bare Celery with a PostgreSQL result backend in the same run.

Run with `make bench-queue`. It starts a Redis, a PostgreSQL, a bare Celery worker with one child, and a Dnnamo worker
with one slot. Each round of what is compared is interleaved with the peer's.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from sqlalchemy import make_url

from dnnamo.client import Session
from dnnamo.records import Artifact, JobSpec, Outcome
from dnnamo.runner.environment import describe
from dnnamo.settings import Settings
from dnnamo_storage import Store
from tests.servers import fresh_database, start_postgres, start_redis

ROUNDS = 60
TENSORFLOW_ROUNDS = 7
DRAINED = 200
THROUGHPUT = 1500
FEW, MANY = 100, 2000
IDLE_S = 20.0
READY_S = 10.0
"""Longer than the start of an interpreter with TensorFlow."""

EMPTY = """
{imports}
class Empty:
    def run_inference(self, n_steps=1):
        return [None] * n_steps
def __dnnamo_loader__():
    return Empty()
"""


class Bench:
    """The two systems, side by side."""

    def __init__(self, folder: Path, session: Session, worker: psutil.Process, nothing: Any) -> None:
        self.session = session
        self.worker = worker
        self.nothing = nothing
        self.specs = {
            name: _spec(folder / f"{name}_model.py", f"import {name}" if name != "plain" else "")
            for name in ("plain", "torch", "tensorflow")
        }

    def bare(self) -> float:
        """Return the seconds of a round trip through bare Celery."""
        start = time.time()
        result = self.nothing.delay()
        while not result.ready():
            time.sleep(0.0005)
        return time.time() - start

    def ours(self, name: str) -> float:
        """Return the seconds from submit to recorded result, by the database's clock, which is this machine's."""
        start = time.time()
        job = self.session.submit(self.specs[name]).wait(60)
        if job.state != "succeeded":
            raise SystemExit(f"{name}: {job.message}\n{job.log}")
        return job.record.ended.timestamp() - start

    def drain(self, name: str, count: int) -> float:
        """Return jobs a second, from the start of the first to the end of the last."""
        jobs = self.session.submit_many([self.specs[name]] * count)
        jobs[-1].wait(600)
        records = [job.record for job in jobs]
        if any(record.state != "succeeded" for record in records):
            raise SystemExit(f"{name}: not all succeeded")
        first, last = min(record.started for record in records), max(record.ended for record in records)
        return count / (last - first).total_seconds()


def _spec(path: Path, imports: str) -> JobSpec:
    path.write_text(EMPTY.format(imports=imports))
    return JobSpec(model=str(path), method="run_inference", n_steps=1, warmup=0)


@contextmanager
def process(command: list[str], environment: Mapping[str, str], log: Path) -> Iterator[psutil.Process]:
    """Run a program until the end of the block."""
    with log.open("wb") as output:
        running = subprocess.Popen(command, env={**os.environ, **environment}, stdout=output, stderr=output)
    try:
        yield psutil.Process(running.pid)
    finally:
        running.terminate()
        running.wait(60)


@contextmanager
def started() -> Iterator[Bench]:
    """Start everything."""
    with ExitStack() as running:
        folder = Path(running.enter_context(TemporaryDirectory(prefix="dnnamo-bench-")))
        folder.chmod(0o755)  # PostgreSQL runs as a user of its own where we are root
        broker = running.enter_context(start_redis(folder / "redis"))
        server = running.enter_context(start_postgres(folder / "postgres"))
        ours, theirs = (running.enter_context(fresh_database(server)) for _ in range(2))
        backend = make_url(theirs).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
        bare = {"BARE_BROKER": f"{broker.rpartition('/')[0]}/1", "BARE_BACKEND": f"db+{backend}"}
        os.environ.update(bare)
        from benchmarks.bare_celery import nothing

        celery = [sys.executable, "-m", "celery", "-A", "benchmarks.bare_celery", "worker", "--concurrency=1"]
        running.enter_context(process([*celery, "--loglevel=WARNING"], bare, folder / "celery.log"))
        locks = str(folder / "locks")  # of its own, though figures are good only where nobody else is at work
        urls = {"DNNAMO_DATABASE_URL": ours, "DNNAMO_BROKER_URL": broker}
        own = {**urls, "DNNAMO_HOME": str(folder), "DNNAMO_LOCKS": locks}
        session = Session(Settings(home=folder, database_url=ours, broker_url=broker))
        command = [str(Path(sys.executable).with_name("dnnamo")), "worker", "--slots", "1"]
        worker = running.enter_context(process(command, own, folder / "dnnamo.log"))
        yield Bench(folder, session, worker, nothing)


def main() -> None:
    """Print each figure beside its bar."""
    with started() as bench:
        bench.bare()
        for name in bench.specs:
            bench.ours(name)
        show("PyTorch runner that is warm", *latencies(bench, "torch", ROUNDS), bar_ms=40)
        show("TensorFlow interpreter ready", *latencies(bench, "tensorflow", TENSORFLOW_ROUNDS, READY_S), bar_ms=250)
        for name in ("plain", "torch"):
            bench.ours(name)
            print(f"drained by one slot, {name:<10} {bench.drain(name, DRAINED):7.1f} jobs/s   bar 25")
        throughput(bench)
        memory(bench)
        idle(bench)


def latencies(bench: Bench, name: str, rounds: int, pause_s: float = 0.0) -> tuple[float, float]:
    """Return the medians of both, in seconds."""
    ours, bare = [], []
    bench.ours(name)
    for _ in range(rounds):
        time.sleep(pause_s)
        ours.append(bench.ours(name))
        bare.append(bench.bare())
    return statistics.median(ours), statistics.median(bare)


def show(what: str, ours: float, bare: float, *, bar_ms: float) -> None:
    """Print how much longer ours took than the peer."""
    print(
        f"{what:<32} {ours * 1e3:6.1f} ms, bare Celery {bare * 1e3:5.1f} ms: {(ours - bare) * 1e3:6.1f} ms above it "
        f"({ours / bare:.1f} x)   bar {bar_ms:g} ms above"
    )


def throughput(bench: Bench) -> None:
    """Print the rate of claims and records without a runner against the tasks of bare Celery, interleaved."""
    ours, bare = [], []
    for _ in range(5):
        bare.append(rate(lambda count: bare_tasks(bench, count)))
        ours.append(rate(lambda count: claims_and_records(bench.session.store, bench.specs["plain"], count)))
    mine, theirs = statistics.median(ours), statistics.median(bare)
    print(
        f"claim and record alone           {mine:6.0f}/s, bare Celery {theirs:5.0f}/s: {mine / theirs:.2f} x   bar 1 x"
    )


def rate(do: Callable[[int], float]) -> float:
    """Return how many a second."""
    count = THROUGHPUT // 5
    return count / do(count)


def bare_tasks(bench: Bench, count: int) -> float:
    """Return the seconds that the peer's one child takes for its tasks; they are published faster than it does them."""
    start = time.perf_counter()
    results = [bench.nothing.delay() for _ in range(count)]
    while not results[-1].ready():
        time.sleep(0.0005)
    return time.perf_counter() - start


def claims_and_records(store: Store, spec: JobSpec, count: int) -> float:
    """Return the seconds for claims and records of jobs of a queue that no worker serves."""
    store.submit_many([JobSpec(model=spec.model, method=spec.method, device="gpu")] * count)
    outcome = Outcome(
        state="succeeded", environment=describe(), artifacts=[Artifact(name="log.txt", media_type="text/plain")]
    )
    start = time.perf_counter()
    for _ in range(count):
        claim = store.claim(["gpu"], worker="bench", lease_s=30)
        if claim is None or not store.record(claim, outcome, files={"log.txt": b""}):
            raise SystemExit("a claim did not hold")
    return time.perf_counter() - start


def memory(bench: Bench) -> None:
    """Print how the worker's resident memory grows with the jobs that it saw."""
    bench.drain("plain", FEW)
    few = bench.worker.memory_info().rss
    for _ in range((MANY - FEW) // 100):
        bench.drain("plain", 100)
    many = bench.worker.memory_info().rss
    print(
        f"worker's resident memory         {few / 2**20:.1f} MiB after {FEW} jobs more, {many / 2**20:.1f} MiB after "
        f"{MANY}: {many / few:.3f} x   bar 1.05 x"
    )


def idle(bench: Bench) -> None:
    """Print how much of a core a worker takes with all its processes when there is nothing to do."""
    time.sleep(READY_S)
    before = cpu_seconds(bench.worker)
    time.sleep(IDLE_S)
    print(f"idle worker                      {(cpu_seconds(bench.worker) - before) / IDLE_S:.2%} of a core   bar 1 %")


def cpu_seconds(worker: psutil.Process) -> float:
    """Return the CPU time of a process and of its children."""
    times = [each.cpu_times() for each in (worker, *worker.children(recursive=True))]
    return sum(each.user + each.system for each in times)


if __name__ == "__main__":
    main()
