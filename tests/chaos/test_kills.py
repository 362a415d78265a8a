"""Processes are killed at random while jobs run, and one job kills its worker each time."""

import math
import random
import time
from collections.abc import Callable, Sequence

from tests.chaos.bars import Row, sized, worst
from tests.chaos.cluster import Cluster, Kill
from tests.chaos.history import Attempt, History

KINDS = ("runner", "keeper", "worker")


class Killer:
    """Kills something every 1 to 3 seconds, up to a number of times, and brings dead workers back.

    Args:
        cluster: Where.
        most: How many times.
        waits: Whether what a dead worker held is taken from it by time alone.
    """

    def __init__(self, cluster: Cluster, most: float, *, waits: bool) -> None:
        self.kills: list[Kill] = []
        self._cluster = cluster
        self._most = most
        self._waits = waits
        self._random = random.Random(0)
        self._kinds: list[str] = []
        self._choose()

    def _choose(self) -> None:
        # Each kind as often as the others, in any order.
        self._kinds = self._kinds or self._random.sample(KINDS, len(KINDS))
        self._kind = self._kinds.pop()
        self._not_before = time.monotonic() + self._random.uniform(1, 3)

    def __call__(self) -> None:
        bring_back(self._cluster, waits=self._waits)
        if time.monotonic() < self._not_before or len(self.kills) >= self._most:
            return
        kill = self._random.choice(self._cluster.workers).kill_one(self._kind)
        if kill is not None:
            self.kills.append(kill)
            self._choose()

    def count(self, kind: str) -> int:
        return sum(kill.kind == kind for kill in self.kills)


def bring_back(cluster: Cluster, *, waits: bool) -> None:
    """Start dead workers anew; unless time is to take from them what they held, it is as if half a minute passed."""
    for worker in cluster.workers:
        if not worker.is_alive and not waits:
            cluster.pass_half_a_minute(worker)
    cluster.revive()


def recoveries(history: History, kills: Sequence[Kill]) -> list[float]:
    """Return for each attempt that a kill cut short the seconds until its job went on, or was over."""
    found = []
    ended = {job.id: job.ended for job in history.jobs}
    starts = {(attempt.job_id, attempt.number): attempt.started for attempt in history.attempts}
    for attempt in history.attempts:
        at = [kill.wall for kill in kills if _hit(kill, attempt)]
        went_on = starts.get((attempt.job_id, attempt.number + 1)) or ended[attempt.job_id]
        if at and went_on is not None and attempt.state != "succeeded":
            found.append(went_on - min(at))
    return found


def _hit(kill: Kill, attempt: Attempt) -> bool:
    until = attempt.ended or float("inf")
    return attempt.worker.endswith(f":{kill.worker}") and attempt.started <= kill.wall <= until


@sized(
    "jobs, amount, most, waits, bar_s",
    small=[14, 1, 6, False, 90],
    full=[2000, 0.2, math.inf, True, 45],
    minutes=60,
)
def test_kills_of_anything_lose_nothing(
    cluster: Cluster, row: Callable[[str, str], Row], jobs: int, amount: float, most: float, waits: bool, bar_s: float
) -> None:
    line = row(
        f"{jobs} jobs, SIGKILL of a random runner, keeper or worker every 1 to 3 s",
        f"0 lost, 0 recorded twice, 0 stuck; p99 recovery under {bar_s:g} s",
    )
    cluster.start_workers(2)
    for _ in range(jobs):
        cluster.submit("work", amount)
    killer = Killer(cluster, most, waits=waits)
    cluster.wait_for_all(within_s=120 + jobs, meanwhile=killer)

    history, broken = cluster.history(), cluster.violations()
    times = recoveries(history, killer.kills)
    failed = [job for job in history.jobs if job.state != "succeeded"]
    line.measured = (
        f"{' + '.join(f'{killer.count(kind)} {kind}s' for kind in KINDS)} killed, {len(times)} attempts cut short, "
        f"{len(failed)} jobs failed for good; {len(broken)} violations; "
        f"recovery p99 {worst(times):.1f} s, median {worst(times, 0.5):.1f} s"
    )
    assert broken == []
    assert {job.cause for job in failed} <= {"signal", "quarantined"}
    assert times, "no kill hit anything"
    assert worst(times) < bar_s


@sized("jobs, waits", small=[20, False], full=[1000, True], minutes=30)
def test_job_that_kills_its_worker_is_given_up(
    cluster: Cluster, row: Callable[[str, str], Row], jobs: int, waits: bool
) -> None:
    line = row(f"poison job among {jobs} good ones", "quarantined after 3; the others all done")
    cluster.start_workers(2)
    good = [cluster.submit() for _ in range(jobs // 2)]
    poison = cluster.submit("kill_worker")
    good += [cluster.submit() for _ in range(jobs // 2)]
    cluster.wait_for_all(within_s=180 + jobs, meanwhile=lambda: bring_back(cluster, waits=waits))

    verdict, others = cluster.job(poison), [cluster.job(number) for number in good]
    broken = cluster.violations()
    line.measured = (
        f"{verdict.state} ({verdict.cause}) after {len(verdict.attempts)} attempts, "
        f"{sum(job.state == 'succeeded' for job in others)} of {jobs} others done; {len(broken)} violations"
    )
    assert broken == []
    assert (verdict.cause, [attempt.state for attempt in verdict.attempts]) == ("quarantined", ["lost"] * 3)
    assert {job.state for job in others} == {"succeeded"}
