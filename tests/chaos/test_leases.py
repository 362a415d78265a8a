"""A worker falls silent past its lease, the job runs elsewhere, and then the worker comes back."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from time import time

import pytest

from tests.chaos import processes
from tests.chaos.bars import Row, at_length
from tests.chaos.cluster import PATIENCE_S, Cluster, Worker
from tests.chaos.history import select
from tests.chaos.processes import until
from tests.chaos.proxy import Proxy
from tests.chaos.servers import Postgres

OF_ALL = [
    f"SELECT * FROM {table}"
    for table in ("jobs", "attempts", "results", "profiles", "operations", "attempt_artifacts", "artifacts")
]
OF_FIRST_ATTEMPTS = [
    "SELECT * FROM attempts WHERE number = 1",
    "SELECT * FROM results WHERE attempt = 1",
    "SELECT * FROM attempt_artifacts WHERE attempt = 1",
]
LEASE_S = 30

Silence = Callable[[Worker, Proxy], AbstractContextManager[None]]
"""Makes a worker fall silent during the block; its docstring says how."""


@contextmanager
def stopped(worker: Worker, proxy: Proxy) -> Iterator[None]:
    """SIGSTOP of a worker"""  # the job goes on, and ends
    with _stopped([worker.pid]):
        yield


@contextmanager
def stopped_with_its_job(worker: Worker, proxy: Proxy) -> Iterator[None]:
    """SIGSTOP of a worker with its keeper and runner"""  # the job goes on afterwards
    with _stopped([worker.pid, *processes.descendants(worker.pid)]):
        yield


@contextmanager
def _stopped(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def cut_off(worker: Worker, proxy: Proxy) -> Iterator[None]:
    """worker cut off from the database"""
    proxy.cut()
    yield
    proxy.heal()


@contextmanager
def half_open(worker: Worker, proxy: Proxy) -> Iterator[None]:
    """worker's connections to the database half-open"""  # and ended long after
    proxy.stall()
    yield
    proxy.cut()
    proxy.heal()


@pytest.fixture
def proxy(postgres: Postgres) -> Iterator[Proxy]:
    with Proxy(postgres.port) as running:
        yield running


@pytest.mark.parametrize(
    ("silence", "wakes", "seconds", "waits"),
    [
        pytest.param(stopped, "meanwhile", 3, False, id="small"),
        *(
            pytest.param(silence, wakes, 8, True, id=f"{silence.__name__}-{wakes}", marks=at_length(5))
            for silence, wakes in (
                (stopped, "meanwhile"),
                (stopped, "afterwards"),
                (stopped_with_its_job, "meanwhile"),
                (cut_off, "meanwhile"),
                (cut_off, "afterwards"),
                (half_open, "meanwhile"),
            )
        ),
    ],
)
def test_worker_that_comes_back_after_its_lease_changes_nothing(
    cluster: Cluster,
    proxy: Proxy,
    row: Callable[[str, str], Row],
    silence: Silence,
    wakes: str,
    seconds: float,
    waits: bool,
) -> None:
    line = row(f"{silence.__doc__} past its lease, job reruns elsewhere, it comes back {wakes}", "0 stale writes")
    url = cluster.database_url.replace(f":{proxy.target_port}/", f":{proxy.port}/")
    (silent,) = cluster.start_workers(DNNAMO_DATABASE_URL=url)
    # The stale attempt fails and the other one does not: the opposite outcome, and none that a result's key keeps out.
    number = cluster.submit("fail_at_first", seconds)
    cluster.wait_until_began(number)
    with silence(silent, proxy):
        if not waits:
            cluster.pass_half_a_minute()
        cluster.start_workers()
        cluster.wait_until_began(number, times=2, within_s=LEASE_S + PATIENCE_S)
        if wakes == "afterwards":
            cluster.wait(number)
        before = rows(cluster, wakes)
    woke = time()
    until(lambda: is_done_with(cluster, silent, number, woke), within_s=2 * PATIENCE_S, otherwise="it is still away")
    cluster.wait(number)

    changed = sum(content != now for content, now in zip(before, rows(cluster, wakes), strict=True))
    job, broken = cluster.job(number), cluster.violations()
    line.measured = (
        f"{' then '.join(attempt.state for attempt in job.attempts)}; {len(cluster.began(number))} executions; "
        f"{changed} tables changed after it came back; {len(broken)} violations"
    )
    assert broken == []
    assert changed == 0
    assert [attempt.state for attempt in job.attempts] == ["lost", "succeeded"]
    assert len(cluster.began(number)) == 2


def rows(cluster: Cluster, wakes: str) -> list[list[tuple[object, ...]]]:
    """Return all that tells of jobs, or of their first attempts alone while others may write rightly."""
    return select(cluster.database_url, *(OF_ALL if wakes == "afterwards" else OF_FIRST_ATTEMPTS))


def is_done_with(cluster: Cluster, worker: Worker, number: int, woke: float) -> bool:
    """Whether a worker has reported itself since it woke, and holds the job no more."""
    said = cluster.report_of(worker)
    return said is not None and said.seen.timestamp() > woke and cluster.acknowledged[number] not in said.jobs
