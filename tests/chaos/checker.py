"""Compares what the jobs wrote down with what the database recorded, and says in words where they disagree.

It proves "one outcome a job, attempts in order": every submit that was acknowledged is a job; every job ended once;
its attempts are numbered from 1, one after the other in time, the last one alone with an outcome; and the outcome that
counts is the one of an execution which the log saw from beginning to end within that attempt.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

from tests.chaos.history import Attempt, History, Job, Result
from tests.chaos.log import Line

__all__ = ["MOST_CRASHES", "MOST_LOSSES", "violations"]

T = TypeVar("T")
K = TypeVar("K")

MOST_LOSSES = 3
MOST_CRASHES = 2
"""Attempts that may end by a signal, or without memory: one more after the first."""

_CRASHES = ("signal", "oom_host", "oom_device")
_SLACK_S = 0.005
"""The log's times are microseconds apart from the database's, and SQLite cuts off below a millisecond."""


def violations(
    lines: Sequence[Line], history: History, acknowledged: Mapping[int, int], *, drained: bool = True
) -> list[str]:
    """Return every promise that was broken, one sentence each.

    Args:
        lines: The log of the test jobs.
        history: The rows of the database.
        acknowledged: Id that the submit returned, by the number of the job.
        drained: Whether everything must be over by now.
    """
    attempts = _grouped(history.attempts, lambda attempt: attempt.job_id)
    results = _grouped(history.results, lambda result: result.job_id)
    lines_of = _grouped(lines, lambda line: line.job)
    found = [*_submits(history, acknowledged), *_runs(lines, {job.number: job for job in history.jobs}, attempts)]
    for job in history.jobs:
        found += _attempts_in_order(job, attempts[job.id])
        found += _one_outcome(job, attempts[job.id], results[job.id], drained=drained)
        found += _retries(job, attempts[job.id])
        found += _result_of_a_run(job, attempts[job.id], results[job.id], lines_of[job.number])
    return found


def _grouped(rows: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    groups = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return groups


def _submits(history: History, acknowledged: Mapping[int, int]) -> Iterator[str]:
    known = {job.id: job.number for job in history.jobs}
    for number, job_id in acknowledged.items():
        if job_id not in known:
            yield f"lost: submit {number} was acknowledged as job {job_id}, which does not exist"
        elif known[job_id] != number:
            yield f"mixed up: submit {number} was acknowledged as job {job_id}, which is submit {known[job_id]}"
    for number, count in Counter(known.values()).items():
        if count > 1:
            yield f"doubled: submit {number} became {count} jobs"


def _attempts_in_order(job: Job, attempts: Sequence[Attempt]) -> Iterator[str]:
    numbers = [attempt.number for attempt in attempts]
    if numbers != list(range(1, len(attempts) + 1)) or job.attempt != len(attempts):
        yield f"misnumbered: job {job.id} counts {job.attempt} attempts, and there are those numbered {numbers}"
    for attempt in attempts:
        if attempt.ended is not None and attempt.ended < attempt.started:
            yield f"backwards: attempt {attempt.number} of job {job.id} ended before it started"
    for earlier, later in pairwise(attempts):
        if earlier.ended is None or earlier.ended > later.started:
            yield f"overlap: attempt {later.number} of job {job.id} started before attempt {earlier.number} had ended"


def _one_outcome(job: Job, attempts: Sequence[Attempt], results: Sequence[Result], *, drained: bool) -> Iterator[str]:
    is_over = job.state in ("succeeded", "failed", "cancelled")
    if drained and not is_over:
        yield f"stuck: job {job.id} is {job.state}"
    running = [attempt.number for attempt in attempts if attempt.state == "running"]
    if running != ([job.attempt] if job.state == "running" else []):
        yield f"undead: job {job.id} is {job.state} and its attempts {running} count as running"
    good = [attempt.number for attempt in attempts if attempt.state == "succeeded"]
    if good != ([job.attempt] if job.state == "succeeded" else []):
        yield f"recorded twice or wrongly: job {job.id} is {job.state} and its attempts {good} count as succeeded"
    if [result.attempt for result in results] != good:
        yield f"recorded twice or wrongly: job {job.id} has results of attempts {[it.attempt for it in results]}"
    if is_over and job.cause != "quarantined" and attempts and not _agree(job, attempts[-1]):
        yield f"contradiction: job {job.id} is {job.state} ({job.cause}), its last attempt {attempts[-1].state}"


def _agree(job: Job, last: Attempt) -> bool:
    if job.state == "cancelled":  # between two attempts, maybe
        return last.state in ("cancelled", "lost", "handed_back", "failed")
    return (job.state, job.cause) == (last.state, last.cause)


def _retries(job: Job, attempts: Sequence[Attempt]) -> Iterator[str]:
    lost = sum(attempt.state == "lost" for attempt in attempts)
    if lost > MOST_LOSSES or (job.cause == "quarantined") != (lost == MOST_LOSSES and job.state == "failed"):
        yield f"quarantine: job {job.id} is {job.state} ({job.cause}) after {lost} lost attempts"
    crashed = sum(attempt.cause in _CRASHES for attempt in attempts)
    if crashed > MOST_CRASHES:
        yield f"retried too often: job {job.id} crashed in {crashed} attempts"


def _runs(
    lines: Sequence[Line], by_number: Mapping[int | None, Job], attempts: Mapping[int, Sequence[Attempt]]
) -> Iterator[str]:
    """Every execution has a claim, and a claim one execution."""
    began = {line.run: line for line in lines if line.event == "began"}
    for line in lines:
        if line.event == "ended" and line.run not in began:
            yield f"headless: execution {line.run} of submit {line.job} ended and never began"
    claims: Counter[tuple[int, int]] = Counter()
    for run, line in began.items():
        job = by_number.get(line.job)
        if job is None:
            yield f"unasked: execution {run} is of submit {line.job}, which is no job"
            continue
        its = [attempt.number for attempt in attempts[job.id] if _covers(attempt, line.wall)]
        if not its:
            yield f"unclaimed: execution {run} of job {job.id} began outside of all attempts"
        claims.update((job.id, number) for number in its)
    for (job_id, number), count in claims.items():
        if count > 1:
            yield f"executed twice: attempt {number} of job {job_id} was {count} executions"


def _covers(attempt: Attempt, time: float) -> bool:
    until = float("inf") if attempt.ended is None else attempt.ended
    return attempt.started - _SLACK_S <= time <= until + _SLACK_S


def _result_of_a_run(
    job: Job, attempts: Sequence[Attempt], results: Sequence[Result], lines: Sequence[Line]
) -> Iterator[str]:
    for result in results:
        attempt = next((attempt for attempt in attempts if attempt.number == result.attempt), None)
        marks = {line.event: line.wall for line in lines if line.run == result.run}
        if not {"began", "ended"} <= marks.keys():
            yield f"made up: the result of job {job.id} is execution {result.run}'s, which the log did not see end"
        elif attempt is None or not (_covers(attempt, marks["began"]) and _covers(attempt, marks["ended"])):
            yield f"stale: the result of job {job.id} is execution {result.run}'s, not attempt {result.attempt}'s"
