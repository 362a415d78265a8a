"""A sweep that is far larger than the queue: submitted fast, hinted at sparingly, and overtaken by what is urgent."""

import time
from collections.abc import Callable

from dnnamo_workers.app import queue_name
from tests.chaos.bars import Row, sized
from tests.chaos.cluster import Cluster
from tests.chaos.servers import Redis

SLOTS = 2
HINTS_PER_SLOT = 4


@sized(
    "jobs, least_per_s, look_s",
    small=[2_000, 500, 2],  # the bar is for a machine that does nothing else
    full=[100_000, 5_000, 20],
    minutes=10,
)
def test_large_sweep(
    cluster: Cluster, broker: Redis, row: Callable[[str, str], Row], jobs: int, least_per_s: float, look_s: float
) -> None:
    line = row(
        f"{jobs} jobs in one sweep",
        f"at least {least_per_s:,g} rows/s; a few hints per slot in Redis; an urgent job starts in the next free slot",
    )
    cluster.start_workers(SLOTS)
    specs = [cluster.spec("work", 0.05) for _ in range(jobs)]
    begun = time.monotonic()
    ids = cluster.store.submit_many(specs)
    took_s = time.monotonic() - begun
    cluster.acknowledged |= {spec.params["number"]: job_id for spec, job_id in zip(specs, ids, strict=True)}

    hints = []
    cluster.wait_until_began(specs[0].params["number"])
    until_s = time.monotonic() + look_s
    while time.monotonic() < until_s:
        hints.append(broker.client.llen(queue_name("cpu")))
        time.sleep(0.02)
    urgent = cluster.submit("work", 0.05, priority=100)
    (job,) = cluster.wait(urgent)
    history = cluster.history()
    assert job.started is not None
    before = [it for it in history.attempts if job.created.timestamp() < it.started < job.started.timestamp()]

    broken = cluster.violations(drained=False)
    line.measured = (
        f"{jobs / took_s:,.0f} rows/s; {max(hints)} hints at most for {SLOTS} slots; {len(before)} of {jobs} jobs "
        f"started before the urgent one, {(job.started - job.created).total_seconds():.2f} s after it was submitted; "
        f"{len(broken)} violations"
    )
    assert broken == []
    assert sorted(cluster.acknowledged.values()) == sorted(it.id for it in history.jobs)
    assert max(hints) <= HINTS_PER_SLOT * SLOTS
    # One a slot may have been claimed while the urgent one was being committed.
    assert len(before) <= SLOTS
    assert jobs / took_s >= least_per_s
    assert job.state == "succeeded"
