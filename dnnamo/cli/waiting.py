"""Why queued jobs wait, and what can be seen of a job while somebody waits for it."""

from collections.abc import Sequence
from datetime import UTC, datetime

from dnnamo import client, records
from dnnamo.cli.output import note, progress
from dnnamo.cli.summary import age, counted, standing

__all__ = ["Waiting", "note_waiting", "warn_if_stuck", "watch", "why_waiting", "why_waiting_here"]

DEAF_AFTER_S = 20.0
"""A worker looks for jobs every few seconds; one that let a job wait for so long without a look has some trouble."""

_FEW = 8


class Waiting(records.Record, frozen=True, kw_only=True):
    """Why the jobs of a queue wait.

    Attributes:
        queue: The queue.
        queued: How many they are.
        since: When the first of them was queued.
        reason: Why they wait, as part of a sentence.
        is_stuck: Whether none of them starts until somebody does something about it.
    """

    queue: records.Device
    queued: int
    since: datetime
    reason: str
    is_stuck: bool


def why_waiting(
    backlog: Sequence[records.Backlog], workers: Sequence[records.Worker], *, now: datetime
) -> list[Waiting]:
    """Return for each queue with queued jobs why they wait.

    Args:
        backlog: The queues with queued jobs.
        workers: The workers that are alive.
        now: The time by the clock that the workers' times are of.
    """
    return [_waiting(it, *_why(it, workers, now)) for it in backlog]


def _waiting(queue: records.Backlog, reason: str, is_stuck: bool) -> Waiting:
    return Waiting(queue=queue.device, queued=queue.queued, since=queue.since, reason=reason, is_stuck=is_stuck)


def _why(queue: records.Backlog, workers: Sequence[records.Worker], now: datetime) -> tuple[str, bool]:
    """Return why the jobs of a queue wait, and whether they wait until somebody does something."""
    device = queue.device
    serving = [worker for worker in workers if device in worker.queues]
    if not serving:
        return f"no worker serves queue {device}; `dnnamo worker --queue {device}` starts one", True
    full = [worker for worker in serving if 0 < worker.slots <= len(worker.jobs)]
    # Which queue a job that it runs is of, a worker does not say.
    shared = [it for it in serving if 0 < len(it.jobs) < it.slots and len(it.queues) > 1]
    busy = [worker for worker in serving if worker.busy and worker not in full]
    idle = [worker for worker in serving if worker.slots > 0 and worker not in full + shared + busy]
    deaf = [worker for worker in idle if _is_old(worker.polled, now) and _is_old(queue.since, now)]
    if len(deaf) < len(idle):
        free = next(worker for worker in idle if worker not in deaf)
        return f"worker {free.name} has a free slot and looks for jobs every few seconds", False
    reasons = [_full(device, full)] if full else []
    reasons += [
        f"worker {it.name} runs {_jobs(it.jobs)} in the {it.slots} slots of queues {', '.join(it.queues)}"
        for it in shared
    ]
    reasons += [f"worker {it.name} waits for a device: {'; '.join(it.busy)}" for it in busy]
    reasons += [
        f"worker {it.name} has a free slot and last took a look {age(it.polled, now)} ago; its log may say why"
        for it in deaf
    ]
    reasons += [f"worker {it.name} has set a device aside: {'; '.join(it.set_aside)}" for it in serving if it.set_aside]
    return "; ".join(reasons), not full and not shared and not busy


def _is_old(then: datetime, now: datetime) -> bool:
    return (now - then).total_seconds() > DEAF_AFTER_S


def _full(device: records.Device, workers: Sequence[records.Worker]) -> str:
    slots = sum(worker.slots for worker in workers)
    held = _jobs([job_id for worker in workers for job_id in worker.jobs])
    if slots == 1:
        return f"the only slot of queue {device} is busy with {held}"
    return f"all {slots} slots of queue {device} are busy with {held}"


def _jobs(ids: Sequence[int]) -> str:
    named = ", ".join(map(str, sorted(ids)[:_FEW]))
    more = f" and {len(ids) - _FEW} more" if len(ids) > _FEW else ""
    return f"{'job' if len(ids) == 1 else 'jobs'} {named}{more}"


def why_waiting_here() -> list[Waiting]:
    """Return for each queue of this session's database why its jobs wait."""
    here = client.session()
    backlog = here.store.backlog()
    if not here.is_embedded:
        return why_waiting(backlog, here.store.workers(), now=datetime.now(UTC))
    reason = "without a broker a job runs in the process that submits it, or in one that waits for it (`dnnamo wait`)"
    return [_waiting(it, reason, is_stuck=False) for it in backlog]


def note_waiting(queues: Sequence[Waiting]) -> None:
    """Say of each queue with queued jobs why they wait."""
    for it in queues:
        waits = "waits" if it.queued == 1 else "wait"
        note(f"{counted(it.queued, 'job')} in queue {it.queue} {waits}, the first since {age(it.since)}: {it.reason}.")


def warn_if_stuck(job: client.JobHandle) -> None:
    """Say so if a job will not start, or not succeed, until somebody does something about it."""
    device = job.spec.device
    if job.record.is_over:
        return
    if client.session().is_embedded:
        _warn_if_missing(device, job.id)
    for it in why_waiting_here():
        if it.queue == device and it.is_stuck:
            note(f"{it.reason[0].upper()}{it.reason[1:]}. Job {job.id} waits.")


def _warn_if_missing(device: records.Device, job_id: int) -> None:
    from dnnamo_workers.devices import device_classes

    if device not in device_classes():
        note(
            f"Job {job_id} asks for a {device.upper()}, and NVML sees none on this machine, where it runs as no broker "
            "is configured. Set DNNAMO_BROKER_URL to that of a cluster that has one."
        )


def watch(job: client.JobHandle, timeout: float | None = None) -> None:
    """Wait until a job is over; show how far it is, if somebody is looking.

    Raises:
        TimeoutError: If it is not over after `timeout` seconds.
    """
    with progress(f"job {job.id}") as tell:

        def look(record: records.Job) -> None:
            done = record.progress.done if record.progress else 0
            tell(standing(record) or record.state, done, record.spec.n_steps if done else None)

        job.wait(timeout, on_look=look)
