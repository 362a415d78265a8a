from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dnnamo.cli.waiting import DEAF_AFTER_S, why_waiting
from dnnamo.records import Backlog, Worker

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CPU = Backlog(device="cpu", queued=3, since=NOW - timedelta(minutes=2))
GPU = Backlog(device="gpu", queued=1, since=NOW - timedelta(seconds=7))


def worker(name: str = "w", *, polled_s: float = 1, **fields: Any) -> Worker:
    """A worker for CPU jobs with one free slot, unless told otherwise."""
    given = {"queues": ["cpu"], "slots": 1, "started": NOW, "polled": NOW - timedelta(seconds=polled_s), "seen": NOW}
    return Worker(name=name, **{**given, **fields})


REASONS = {
    "no worker": ([], "no worker serves queue cpu", True),
    "workers of another queue": ([worker(queues=["gpu"])], "no worker serves queue cpu", True),
    "a free slot": ([worker("busy", jobs=[1]), worker("idle")], "worker idle has a free slot", False),
    "one slot": ([worker(jobs=[7])], "the only slot of queue cpu is busy with job 7", False),
    "some slots": (
        [worker("a", slots=2, jobs=[4, 3]), worker("b", jobs=[9])],
        "all 3 slots of queue cpu are busy with jobs 3, 4, 9",
        False,
    ),
    "many slots": (
        [worker(slots=20, jobs=list(range(1, 21)))],
        "all 20 slots of queue cpu are busy with jobs 1, 2, 3, 4, 5, 6, 7, 8 and 12 more",
        False,
    ),
    "a worker that does not look": (
        [worker(polled_s=40)],
        "worker w has a free slot and last took a look 40 s ago; its log may say why",
        True,
    ),
    "one that looked just in time": ([worker(polled_s=DEAF_AFTER_S)], "worker w has a free slot and looks", False),
    "one busy, one deaf": (
        [worker("a", jobs=[5]), worker("b", polled_s=70)],
        "the only slot of queue cpu is busy with job 5; worker b has a free slot and last took a look 1 min ago",
        False,
    ),
    "one that serves other queues too": (
        [worker(queues=["cpu", "gpu"], slots=2, jobs=[5], polled_s=70)],
        "worker w runs job 5 in the 2 slots of queues cpu, gpu",
        False,
    ),
    "one of several queues that is idle": ([worker(queues=["cpu", "gpu"], slots=2)], "worker w has a free slot", False),
    "one of several queues that is full": (
        [worker(queues=["cpu", "gpu"], slots=2, jobs=[5, 6])],
        "all 2 slots of queue cpu are busy with jobs 5, 6",
        False,
    ),
    "a device that somebody else uses": (
        [worker(polled_s=40, busy=["core 0 is used by other:7 (process 7), for 12 s"])],
        "worker w waits for a device: core 0 is used by other:7 (process 7), for 12 s",
        False,
    ),
    "its only device set aside": (
        [worker(slots=0, set_aside=["GPU-5b2f… does not answer"], polled_s=70)],
        "worker w has set a device aside: GPU-5b2f… does not answer",
        True,
    ),
    "one of two devices set aside": (
        [worker(jobs=[5], set_aside=["GPU-5b2f… does not answer"])],
        "the only slot of queue cpu is busy with job 5; worker w has set a device aside: GPU-5b2f… does not answer",
        False,
    ),
}


@pytest.mark.parametrize("case", REASONS)
def test_the_reason_why_a_queue_waits_is_told(case):
    workers, says, is_stuck = REASONS[case]

    (found,) = why_waiting([CPU], workers, now=NOW)

    assert found.reason.startswith(says)
    assert found.is_stuck is is_stuck
    assert (found.queue, found.queued, found.since) == ("cpu", 3, CPU.since)


def test_each_queue_has_its_own_reason():
    cpu, gpu = why_waiting([CPU, GPU], [worker(jobs=[1])], now=NOW)

    assert cpu.reason == "the only slot of queue cpu is busy with job 1"
    assert gpu.reason == "no worker serves queue gpu; `dnnamo worker --queue gpu` starts one"


def test_nothing_queued_waits_for_nothing():
    assert why_waiting([], [worker()], now=NOW) == []


def test_a_job_that_has_only_just_come_waits_for_the_next_look():
    (found,) = why_waiting([GPU], [worker(queues=["gpu"], polled_s=600)], now=NOW)

    assert found.reason == "worker w has a free slot and looks for jobs every few seconds"
    assert not found.is_stuck
