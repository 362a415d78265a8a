"""User code does its worst: the cause is told, the worker lives, nothing is left, and the next job runs."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest

from tests.chaos import processes
from tests.chaos.bars import Row, at_length, sized
from tests.chaos.cluster import Cluster, Worker
from tests.chaos.servers import Redis

MB = 10**6


class Fault(NamedTuple):
    """What a job does, and what must be recorded of it: state, cause, attempts, and words of the message."""

    act: str
    amount: float = 0.0
    limits: dict[str, Any] = {}
    cause: str | None = None
    attempts: int = 1
    said: str = ""


FAULTS = {
    "segmentation fault": Fault("segfault", cause="signal", attempts=2, said="SIGSEGV"),
    "abort": Fault("abort", cause="signal", attempts=2, said="SIGABRT"),
    "os._exit": Fault("leave", cause="user_error", said="code 3"),
    "exception": Fault("fail", cause="user_error", said="as it was told to"),
    "fork bomb": Fault("bomb", 400, cause="process_limit", said="of 50"),
    "10 GB of stdout": Fault("flood", 10_000 * MB, cause="output_limit", said="of 95.37 MiB"),
    "double-fork daemon": Fault("daemonize"),
    "child in a session of its own": Fault("start_child"),
    "held GIL": Fault("hold_gil", limits={"timeout_s": 2}, cause="timeout", said="2 s"),
    "ignored SIGTERM": Fault("ignore_sigterm", limits={"timeout_s": 2}, cause="timeout", said="2 s"),
    "host memory": Fault(
        "eat_memory", 1000 * MB, {"memory_bytes": 300 * MB}, cause="oom_host", attempts=2, said="of 286.10 MiB"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Cluster, Worker]]:
    """One worker for all faults, one after the other; it must outlive them."""
    with ExitStack() as running:
        folder = Path(running.enter_context(TemporaryDirectory(prefix="dnnamo-chaos-")))
        broker = running.enter_context(Redis(folder))
        cluster = running.enter_context(Cluster(folder, f"sqlite:///{folder / 'dnnamo.db'}", broker.url))
        (worker,) = cluster.start_workers(DNNAMO_OUTPUT_LIMIT="100MB", DNNAMO_PROCESS_LIMIT="50")
        yield cluster, worker


@sized("times", small=[1], full=[5], minutes=5)
@pytest.mark.parametrize("name", FAULTS)
def test_user_code_at_its_worst(
    shared: tuple[Cluster, Worker], row: Callable[[str, str], Row], name: str, times: int
) -> None:
    line = row(
        f"runner: {name}, {times} times",
        "the right cause every time; supervisor alive; no process left; next job within 10 s",
    )
    (cluster, worker), fault = shared, FAULTS[name]
    gaps, endings, left = [], [], []
    for _ in range(times):
        number = cluster.submit(fault.act, fault.amount, **fault.limits)
        after = cluster.submit()
        job, _ = cluster.wait(number, after)
        began = cluster.wait_until_began(after)
        assert job.ended is not None
        gaps.append(began - job.ended.timestamp())
        endings.append((job.state, job.cause, len(job.attempts), fault.said in (job.message or "")))
        left += processes_of(cluster, number)

    broken = cluster.violations()
    line.measured = (
        f"{endings[0][0]} ({endings[0][1]}) after {endings[0][2]} attempts, worker "
        f"{'alive' if worker.is_alive else 'DEAD'}, {len(left)} processes left, next job began "
        f"after {max(gaps):.2f} s; {len(broken)} violations"
    )
    state = "failed" if fault.cause else "succeeded"
    assert endings == [(state, fault.cause, fault.attempts, True)] * times, cluster.job(number).message
    assert left == []
    assert max(gaps) < 10
    assert worker.is_alive
    assert broken == []


def processes_of(cluster: Cluster, number: int) -> list[int]:
    """Return the living processes that a job started, by what they are called and by what the log says of them."""
    lines = [line for line in cluster.lines() if line.job == number]
    told = [line.pid for line in lines if line.event == "child" and processes.is_alive(line.pid)]
    return [*told, *(pid for run in {line.run for line in lines} for pid in processes.named(f"dn-{run:012x}"))]


@pytest.mark.parametrize("bytes_written", [pytest.param(10_000 * MB, id="full", marks=at_length(5))])
def test_output_within_its_limit_costs_no_memory(
    shared: tuple[Cluster, Worker], row: Callable[[str, str], Row], bytes_written: int
) -> None:
    line = row(f"runner: {bytes_written // MB} MB of stdout, and its limit is twice that", "done; worker under 300 MB")
    cluster, worker = shared
    (job,) = cluster.wait(cluster.submit("flood", bytes_written, output_bytes=2 * bytes_written), within_s=200)
    peak = processes.peak_bytes(worker.pid)
    line.measured = f"{job.state}; worker at most {peak / MB:.0f} MB"
    assert job.state == "succeeded"
    assert peak < 300 * MB
