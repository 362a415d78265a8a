"""The database dies in commits, its disk fills up, clocks are stepped; no submit that returned is lost."""

import mmap
import os
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from sqlalchemy import text

from dnnamo.errors import DatabaseUnavailable
from dnnamo.records import JobSpec
from tests.chaos.bars import Row, at_length, sized
from tests.chaos.cluster import PATIENCE_S, Cluster
from tests.chaos.processes import until
from tests.chaos.servers import Postgres, Redis

BAR = "0 acknowledged submits lost"


class Submitter(threading.Thread):
    """Submits jobs one after the other, each again with the same key until it is acknowledged.

    Attributes:
        begun: When the submit that it waits for was begun, None between two of them.
        refused: When each submit that raised was begun, and when it raised.
        is_last: Set to have it end with the submit that it waits for.
        is_over: Set to have it give that up too.
    """

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(name="submitter")
        self.begun: float | None = None
        self.refused: list[tuple[float, float]] = []
        self.is_last = threading.Event()
        self.is_over = threading.Event()
        self._cluster = cluster

    def run(self) -> None:
        while not self.is_last.is_set():
            spec = self._cluster.spec()
            while not self.is_over.wait(0.05) and not self._submit(spec):  # slowly, or the workers would never be done
                pass

    def _submit(self, spec: JobSpec) -> bool:
        number = spec.params["number"]
        begun = self.begun = time.monotonic()
        try:
            self._cluster.acknowledged[number] = self._cluster.store.submit(spec, key=f"submit {number}")
        except DatabaseUnavailable:
            self.refused.append((begun, time.monotonic()))
        self.begun = None
        return number in self._cluster.acknowledged


class Submitters:
    """Submits on four threads during the block; at its end the last submit of each has been acknowledged."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._all = [Submitter(cluster) for _ in range(4)]

    def __enter__(self) -> Self:
        for submitter in self._all:
            submitter.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for submitter in self._all:
            submitter.is_last.set()
        for submitter in self._all:
            submitter.join(PATIENCE_S)
            submitter.is_over.set()
            submitter.join()

    @property
    def refused(self) -> list[tuple[float, float]]:
        """When each submit that raised was begun, and when it raised."""
        return [times for submitter in self._all for times in submitter.refused]

    def cut_off(self, at: Sequence[float]) -> int:
        """Return how many submits were going on at these times, and raised."""
        return sum(begun < kill < raised for begun, raised in self.refused for kill in at)

    def go_on(self, count: int = 20) -> None:
        """Wait until some more submits were acknowledged."""
        enough = len(self._cluster.acknowledged) + count
        until(lambda: len(self._cluster.acknowledged) >= enough, within_s=PATIENCE_S, otherwise="no submits")

    def wait_for_commit(self) -> None:
        """Wait until one waits for its commit, which begins milliseconds after it and takes a tenth of a second.

        Soon after it began, as a kill takes some of that tenth on a machine that is busy with others.
        """

        def is_in_commit() -> bool:
            begun = [submitter.begun for submitter in self._all]
            return any(at is not None and 0.01 < time.monotonic() - at < 0.04 for at in begun)

        until(is_in_commit, within_s=PATIENCE_S, otherwise="no commit")

    def wait_for_refusals(self) -> None:
        """Wait until some more submits were refused."""
        enough = len(self.refused) + 10
        until(lambda: len(self.refused) >= enough, within_s=PATIENCE_S, otherwise="no submit was refused")


@sized("kills, apart", small=[2, 5], full=[20, 20], minutes=15)
def test_database_killed_in_commits_loses_nothing(
    folder: Path, broker: Redis, row: Callable[[str, str], Row], kills: int, apart: int
) -> None:
    line = row(f"SIGKILL of all of PostgreSQL in a commit, {kills} times, with submits and workers going on", BAR)
    # Each commit waits 0.1 s before it is written, so that there is hardly a moment without one.
    settings = ["commit_delay = 100000", "commit_siblings = 0"]
    with (
        Postgres(folder / "postgres", settings=settings) as postgres,
        Cluster(folder, postgres.url, broker.url) as cluster,
    ):
        pids = [worker.pid for worker in cluster.start_workers(2)]
        at: list[float] = []
        with Submitters(cluster) as submitters:
            # On a machine that is busy with others a kill may come when the commit is over.
            while len(at) < kills or (not submitters.cut_off(at) and len(at) < 3 * kills):
                submitters.go_on(apart)
                submitters.wait_for_commit()
                at.append(time.monotonic())
                postgres.kill()
                time.sleep(0.3)
                postgres.start()
        postgres.set(commit_delay=0)  # what is left need not take as long
        cluster.wait_for_all(within_s=PATIENCE_S + len(cluster.acknowledged))

        broken, jobs = cluster.violations(), cluster.history().jobs
        done = sum(job.state == "succeeded" for job in jobs)
        cut_off = submitters.cut_off(at)
        line.measured = (
            f"{len(cluster.acknowledged)} submits acknowledged, {cut_off} cut off by a kill and made again, "
            f"{len(submitters.refused) - cut_off} refused meanwhile; {len(jobs)} jobs, {done} done; "
            f"{len(broken)} violations"
        )
        assert broken == []
        assert cut_off > 0
        assert len(jobs) == len(cluster.acknowledged)
        assert {job.state for job in jobs} == {"succeeded"}
        assert cluster.pids == pids


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 192 MiB."""
    place = folder / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=192m,mode=755", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"A disk to fill needs a tmpfs, which this user may not mount: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Leave no room on a disk during the block."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    try:
        yield
    finally:
        ballast.unlink()


@pytest.mark.parametrize("times", [pytest.param(5, id="full", marks=at_length(10))])
def test_full_disk_under_postgresql_loses_nothing(
    folder: Path, small_disk: Path, broker: Redis, row: Callable[[str, str], Row], times: int
) -> None:
    line = row(f"PostgreSQL's disk full, {times} times, with submits and workers going on", BAR)
    settings = ["min_wal_size = 32MB", "max_wal_size = 48MB"]
    with (
        Postgres(small_disk / "postgres", settings=settings) as postgres,
        Cluster(folder, postgres.url, broker.url) as cluster,
    ):
        pids = [worker.pid for worker in cluster.start_workers()]
        with Submitters(cluster) as submitters:
            for _ in range(times):
                submitters.go_on()
                with filled(small_disk):
                    submitters.wait_for_refusals()
                postgres.start()  # it ends where it cannot write its log
        cluster.wait_for_all(within_s=2 * PATIENCE_S + len(cluster.acknowledged))

        broken, jobs = cluster.violations(), cluster.history().jobs
        line.measured = (
            f"{len(cluster.acknowledged)} submits acknowledged, {len(submitters.refused)} refused and "
            f"made again; {len(jobs)} jobs, {sum(job.state == 'succeeded' for job in jobs)} done; "
            f"{len(broken)} violations"
        )
        assert broken == []
        assert {job.state for job in jobs} == {"succeeded"}
        assert cluster.pids == pids


@sized("times", small=[1], full=[5], minutes=5)
def test_full_disk_under_sqlite_loses_nothing(
    folder: Path, small_disk: Path, broker: Redis, row: Callable[[str, str], Row], times: int
) -> None:
    line = row(f"SQLite's disk full, {times} times, with submits going on", BAR)
    with Cluster(folder, f"sqlite:///{small_disk / 'dnnamo.db'}", broker.url) as cluster:
        with Submitters(cluster) as submitters:
            for _ in range(times):
                submitters.go_on()
                with filled(small_disk):
                    submitters.wait_for_refusals()
        broken, jobs = cluster.violations(drained=False), cluster.history().jobs
        line.measured = (
            f"{len(cluster.acknowledged)} submits acknowledged, {len(submitters.refused)} refused and "
            f"made again; {len(jobs)} jobs; {len(broken)} violations"
        )
        assert broken == []
        assert len(jobs) == len(cluster.acknowledged)


CLOCK = """
import mmap, os, struct, time

_fd = os.open(os.environ["DNNAMO_CHAOS_CLOCK"], os.O_RDONLY)
_offset = mmap.mmap(_fd, 8, prot=mmap.PROT_READ)
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + struct.unpack("d", _offset[:8])[0]
time.time_ns = lambda: _time_ns() + int(struct.unpack("d", _offset[:8])[0] * 1e9)
"""
"""What Python runs at its start, under the name `sitecustomize`."""


class Clock:
    """A clock that can be stepped, for processes with these variables in their environment."""

    def __init__(self, folder: Path) -> None:
        place = folder / "clock"
        place.mkdir()
        (place / "sitecustomize.py").write_text(CLOCK)
        file = place / "offset"
        file.write_bytes(bytes(8))
        self._path = file
        self.environment = {
            "DNNAMO_CHAOS_CLOCK": str(file),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(place), os.environ.get("PYTHONPATH")])),
        }

    def step_to(self, offset_s: float) -> None:
        with self._path.open("r+b") as file, mmap.mmap(file.fileno(), 8) as offset:
            offset[:8] = struct.pack("d", offset_s)


HOUR_S = 3600.0


@sized("jobs", small=[10], full=[300], minutes=10)
def test_workers_clock_stepped_an_hour_changes_nothing(
    cluster: Cluster, row: Callable[[str, str], Row], jobs: int
) -> None:
    line = row(
        f"a worker's clock stepped an hour ahead and back, twice, in the middle of {jobs} jobs",
        "0 acknowledged submits lost, no lease either",
    )
    clock = Clock(cluster.folder)
    clock.step_to(-HOUR_S)
    pids = [worker.pid for worker in cluster.start_workers(**clock.environment) + cluster.start_workers()]
    # Longer than a worker's rounds, so that leases are renewed and others looked at with the clock wrong.
    long = [cluster.submit("work", 7), cluster.submit("work", 7)]
    numbers = [cluster.submit("work", 0.05) for _ in range(jobs)]
    for offset_s in (HOUR_S, -HOUR_S, HOUR_S, 0.0):
        time.sleep(1.5)
        clock.step_to(offset_s)
    cluster.wait_for_all(within_s=PATIENCE_S + jobs)
    clock.step_to(HOUR_S)
    begun = time.time()
    again = cluster.wait_until_began(cluster.submit()) - begun
    cluster.wait_for_all(within_s=PATIENCE_S)

    history, broken = cluster.history(), cluster.violations()
    line.measured = (
        f"{sum(job.state == 'succeeded' for job in history.jobs)} of {len(history.jobs)} jobs done in "
        f"{len(history.attempts)} attempts; next job began after {again:.1f} s; {len(broken)} violations"
    )
    assert broken == []
    assert [attempt.state for attempt in history.attempts] == ["succeeded"] * (len(numbers) + len(long) + 1)
    assert cluster.pids == pids


@pytest.mark.parametrize(
    ("hours", "jobs"),
    [
        pytest.param(1, 10, id="ahead-small"),
        pytest.param(1, 300, id="ahead-full", marks=at_length(10)),
        pytest.param(-1, 300, id="back-full", marks=at_length(10)),
    ],
)
def test_databases_clock_stepped_an_hour_loses_nothing(
    cluster: Cluster, row: Callable[[str, str], Row], hours: int, jobs: int
) -> None:
    line = row(
        f"the database's clock stepped an hour {'ahead' if hours > 0 else 'back'} in the middle of {jobs} jobs", BAR
    )
    cluster.start_workers(2)
    running = [cluster.submit("work", 4), cluster.submit("work", 4)]
    for _ in range(jobs):
        cluster.submit("work", 0.05)
    for number in running:
        cluster.wait_until_began(number)
    # All that a database's clock is good for is comparisons with times that it told before; so those are stepped.
    with cluster.store.engine.begin() as connection:
        for table, column in (("jobs", "lease_until"), ("workers", "seen"), ("workers", "polled")):
            connection.execute(text(f"UPDATE {table} SET {column} = {column} - make_interval(hours => {hours})"))
    cluster.wait_for_all(within_s=2 * PATIENCE_S + jobs)

    history, broken = cluster.history(), cluster.violations()
    lost = sum(attempt.state == "lost" for attempt in history.attempts)
    line.measured = (
        f"{sum(job.state == 'succeeded' for job in history.jobs)} of {len(history.jobs)} jobs done, {lost} attempts "
        f"taken for lost and made again; {len(broken)} violations"
    )
    assert broken == []
    assert {job.state for job in history.jobs} == {"succeeded"}
