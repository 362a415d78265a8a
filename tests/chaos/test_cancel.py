"""A running job that does not want to end is cancelled, again and again, among jobs that nobody cancelled."""

import time
from collections.abc import Callable

from tests.chaos import processes
from tests.chaos.bars import Row, sized, worst
from tests.chaos.cluster import PATIENCE_S, Cluster
from tests.chaos.processes import until


@sized("cancels, bar_s", small=[2, 30], full=[50, 10], minutes=15)
def test_cancel_ends_the_job_that_it_names_and_no_other(
    cluster: Cluster, row: Callable[[str, str], Row], cancels: int, bar_s: float
) -> None:
    line = row(
        f"{cancels} cancels of a running job that ignores SIGTERM, others running beside it",
        f"p99 under {bar_s:g} s; never another job",
    )
    cluster.start_workers(2)
    times, others, stubborn = [], [], []
    for _ in range(cancels):
        number = cluster.submit("ignore_sigterm")
        others += [cluster.submit("ignore_sigterm", 0.5) for _ in range(4)]
        cluster.wait_until_began(number)
        (pid,) = {mark.pid for mark in cluster.lines() if mark.job == number}
        begun = time.monotonic()
        cluster.store.cancel(cluster.acknowledged[number])
        until(
            lambda: cluster.job(number).is_over and not processes.is_alive(pid),  # noqa: B023
            within_s=PATIENCE_S,
            otherwise="a cancelled job did not end",
        )
        times.append(time.monotonic() - begun)
        stubborn.append(number)
    cluster.wait_for_all(within_s=2 * PATIENCE_S)

    broken = cluster.violations()
    ended = [cluster.job(number) for number in stubborn]
    wrong = [job.id for job in map(cluster.job, others) if job.state != "succeeded" or len(job.attempts) != 1]
    line.measured = (
        f"p99 {worst(times):.1f} s, median {worst(times, 0.5):.1f} s; {len(wrong)} of {len(others)} other jobs hit; "
        f"{len(broken)} violations"
    )
    assert broken == []
    assert wrong == []
    assert {(job.state, job.cause, len(job.attempts)) for job in ended} == {("cancelled", "cancelled", 1)}
    assert worst(times) < bar_s
