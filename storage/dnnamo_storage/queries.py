"""What can be read back: functions that take a connection in a transaction, and give records."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, func, literal, select

from dnnamo.errors import JobNotFound
from dnnamo.records import (
    Attempt,
    Backlog,
    Device,
    Environment,
    Job,
    JobSpec,
    Progress,
    Result,
    State,
    Task,
)
from dnnamo_storage.schema import attempts, environments, job_tags, jobs, results

__all__ = ["backlog", "count_queued", "environment", "find_jobs", "job", "matching", "result"]

_ATTEMPT = ("number", "worker", "state", "cause", "message", "started", "ended", "environment")
_JOB = ("id", "state", "cause", "message", "cancel_requested", "created", "started", "ended")


def job(connection: Connection, job_id: int) -> Job:
    """Return the job with its attempts.

    Raises:
        JobNotFound: If there is no such job.
    """
    found = _load(connection, select(jobs).where(jobs.c.id == job_id))
    if not found:
        raise JobNotFound(job_id)
    return found[0]


def matching(
    *, state: State | None, model: str | None, method: Task | None, tags: Sequence[str]
) -> list[ColumnElement[bool]]:
    """Return what is true of jobs that have all the tags and match the rest where it is not None."""
    wanted = {"state": state, "model": model, "method": method}
    tagged = [select(job_tags.c.job_id).where(job_tags.c.tag == tag) for tag in tags]
    return [
        *(jobs.c[name] == value for name, value in wanted.items() if value is not None),
        *(jobs.c.id.in_(ids) for ids in tagged),
    ]


def find_jobs(connection: Connection, conditions: Sequence[ColumnElement[bool]], *, limit: int) -> list[Job]:
    """Return the newest jobs of which all conditions are true, newest first."""
    return _load(connection, select(jobs).where(*conditions).order_by(jobs.c.id.desc()).limit(limit))


def _load(connection: Connection, chosen: Select[Any]) -> list[Job]:
    # The choice is sent again for the attempts rather than the ids: those may be more than a statement can take.
    by_job = _attempts(connection, chosen.with_only_columns(jobs.c.id))
    return [_job(row, by_job[row.id]) for row in connection.execute(chosen)]


def _attempts(connection: Connection, job_ids: Select[Any]) -> dict[int, list[Attempt]]:
    by_job: dict[int, list[Attempt]] = defaultdict(list)
    found = select(attempts).where(attempts.c.job_id.in_(job_ids)).order_by(attempts.c.job_id, attempts.c.number)
    for row in connection.execute(found):
        by_job[row.job_id].append(Attempt(**_fields(row, _ATTEMPT)))
    return by_job


def _job(row: Row[Any], its_attempts: list[Attempt]) -> Job:
    progress = None if row.progress is None else Progress.from_dict(row.progress)
    return Job(**_fields(row, _JOB), spec=JobSpec.from_dict(row.spec), attempts=its_attempts, progress=progress)


def _fields(row: Row[Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: row._mapping[name] for name in names}


def count_queued(connection: Connection, device: Device, limit: int) -> int:
    """Return the number of queued jobs of a device, or `limit` if there are more."""
    some = select(literal(1)).where(jobs.c.device == device, jobs.c.state == "queued").limit(limit)
    return connection.scalar(select(func.count()).select_from(some.subquery())) or 0


def backlog(connection: Connection) -> list[Backlog]:
    """Return how many jobs are queued for each device class that has any, and since when the first waits."""
    # Only columns of the index on queued jobs: ids grow with time, so that the least one is of the oldest job.
    queued = select(jobs.c.device, func.count().label("queued"), func.min(jobs.c.id).label("first"))
    waiting = queued.where(jobs.c.state == "queued").group_by(jobs.c.device).subquery()
    found = select(waiting.c.device, waiting.c.queued, jobs.c.created.label("since"))
    joined = found.join_from(waiting, jobs, jobs.c.id == waiting.c.first).order_by(waiting.c.device)
    return [Backlog(**row) for row in connection.execute(joined).mappings()]


def result(connection: Connection, job_id: int) -> Result | None:
    """Return the job's recorded result, None if there is none."""
    record = connection.scalar(select(results.c.record).where(results.c.job_id == job_id))
    return None if record is None else Result.from_dict(record)


def environment(connection: Connection, digest: str) -> Environment | None:
    """Return the environment with this digest, None if there is none."""
    record = connection.scalar(select(environments.c.record).where(environments.c.digest == digest))
    return None if record is None else Environment.from_dict(record)
