"""The life of a job: every change of state, each a function that takes a connection in a writing transaction.

All of them lock the job's row before they touch another table's, so that no two wait for each other for ever.
"""

import json
import secrets
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Update, and_, func, insert, null, select, update

from dnnamo.errors import JobNotFound, UsageError
from dnnamo.records import AttemptState, Cause, Claim, Device, JobSpec, Record, State
from dnnamo_storage.columns import db_now, storable
from dnnamo_storage.inserts import insert_or_ignore
from dnnamo_storage.schema import attempts, jobs

__all__ = [
    "MAX_LOSSES",
    "Renewal",
    "cancel",
    "claim_next",
    "end_attempt",
    "end_job",
    "hand_back",
    "reap",
    "renew",
    "submit",
]

MAX_LOSSES = 3
"""Lost attempts after which a job is not tried again."""

_LARGEST = 2**63 - 1
_CANCELLED = {"state": "cancelled", "cause": "cancelled", "ended": db_now()}


class Renewal(Record, frozen=True, kw_only=True):
    """What a worker learns when it renews its lease.

    Attributes:
        current: Whether the claim still holds; if not, nothing that the attempt does counts any more.
        cancel_requested: Whether someone wants the job to stop.
    """

    current: bool
    cancel_requested: bool


def submit(connection: Connection, spec: JobSpec, key: str | None) -> int:
    """Insert a queued job, unless one has the key already; return its id.

    Raises:
        UsageError: If the spec holds what a database cannot keep as it is.
    """
    _refuse_unstorable(spec)
    row = {**_columns(spec), "key": key, "state": "queued", "cancel_requested": False, "attempt": 0}
    new = connection.scalar(insert_or_ignore(connection, jobs).values(**row, created=db_now()).returning(jobs.c.id))
    return int(new if new is not None else connection.scalars(select(jobs.c.id).where(jobs.c.key == key)).one())


def _columns(spec: JobSpec) -> dict[str, Any]:
    queried = ("model", "method", "device", "priority", "n_steps", "params")
    return {**{name: getattr(spec, name) for name in queried}, "spec": spec.to_dict()}


def _refuse_unstorable(spec: JobSpec) -> None:
    # Replaced characters will do in a message; in what decides what a job does they would make it do something else.
    if spec.n_steps > _LARGEST:
        raise UsageError(f"steps is {spec.n_steps}; it must fit in 64 bits.")
    try:
        data = spec.to_dict()
        kept = json.dumps(storable(data)) == json.dumps(data)
    except (TypeError, ValueError) as error:
        raise UsageError(f"The parameters of {spec.model!r} must be JSON values: {error}.") from error
    if not kept:
        raise UsageError(
            f"The model reference or a parameter of {spec.model!r} has a NUL character, half of a surrogate pair, or a "
            "number that is infinite or NaN, which a database cannot keep."
        )


def claim_next(
    connection: Connection, devices: Sequence[Device], *, worker: str, lease_s: float, job_id: int | None
) -> Claim | None:
    """Begin the next attempt at the first queued job of `devices`, or at `job_id` if it is one of them."""
    row = connection.execute(_next_queued(devices, job_id)).first()
    if row is None:
        return None
    claim = Claim(job_id=row.id, attempt=row.attempt + 1, token=secrets.token_hex(16), spec=JobSpec.from_dict(row.spec))
    connection.execute(_begin(claim, lease_s))
    connection.execute(
        insert(attempts).values(
            job_id=claim.job_id,
            number=claim.attempt,
            token=claim.token,
            worker=worker,
            state="running",
            started=db_now(),
        )
    )
    return claim


def _next_queued(devices: Sequence[Device], job_id: int | None) -> Select[Any]:
    found = select(jobs.c.id, jobs.c.attempt, jobs.c.spec).where(jobs.c.device.in_(devices), jobs.c.state == "queued")
    if job_id is not None:
        return found.where(jobs.c.id == job_id).with_for_update(key_share=True)
    first = found.order_by(jobs.c.priority.desc(), jobs.c.id).limit(1)
    return first.with_for_update(key_share=True, skip_locked=True)


def _begin(claim: Claim, lease_s: float) -> Update:
    return (
        update(jobs)
        .where(jobs.c.id == claim.job_id)
        .values(
            state="running",
            attempt=claim.attempt,
            token=claim.token,
            lease_until=db_now(lease_s),
            started=func.coalesce(jobs.c.started, db_now()),
        )
    )


def _is_current(claim: Claim) -> ColumnElement[bool]:
    """Return the fence: true of the job's row while the claim holds."""
    return and_(
        jobs.c.id == claim.job_id,
        jobs.c.state == "running",
        jobs.c.attempt == claim.attempt,
        jobs.c.token == claim.token,
    )


def renew(connection: Connection, claim: Claim, lease_s: float) -> Renewal:
    """Extend the lease if the claim holds."""
    fenced = update(jobs).where(_is_current(claim)).values(lease_until=db_now(lease_s))
    row = connection.execute(fenced.returning(jobs.c.cancel_requested)).first()
    return Renewal(current=row is not None, cancel_requested=row is not None and row.cancel_requested)


def end_job(connection: Connection, claim: Claim, *, state: State, cause: Cause | None, message: str | None) -> bool:
    """End the job if the claim holds; otherwise only make sure that its attempt does not look alive."""
    fenced = update(jobs).where(_is_current(claim))
    if connection.execute(fenced.values(**_released(state), cause=cause, message=message, ended=db_now())).rowcount:
        return True
    stale = update(attempts).where(attempts.c.token == claim.token, attempts.c.state == "running")
    connection.execute(
        stale.where(attempts.c.job_id == claim.job_id, attempts.c.number == claim.attempt).values(
            state="lost", cause="lost", message="It went on after its lease had run out.", ended=db_now()
        )
    )
    return False


def end_attempt(
    connection: Connection,
    job_id: int,
    number: int,
    *,
    state: AttemptState,
    cause: Cause | None = None,
    message: str | None = None,
    environment: str | None = None,
) -> None:
    """Write how an attempt ended."""
    connection.execute(
        update(attempts)
        .where(attempts.c.job_id == job_id, attempts.c.number == number)
        .values(state=state, cause=cause, message=message, environment=environment, ended=db_now())
    )


def _released(state: State) -> dict[str, Any]:
    return {"state": state, "token": null(), "lease_until": null()}


def hand_back(connection: Connection, claim: Claim) -> bool:
    """Queue the job again, or end it if it was to be cancelled, if the claim holds."""
    wanted = select(jobs.c.cancel_requested).where(_is_current(claim)).with_for_update(key_share=True)
    cancelled = connection.scalar(wanted)
    if cancelled is None:
        return False
    end_attempt(connection, claim.job_id, claim.attempt, state="handed_back")
    _leave(connection, claim.job_id, cancelled=cancelled)
    return True


def _leave(connection: Connection, job_id: int, *, cancelled: bool) -> None:
    ending = {**_CANCELLED, "message": "Cancelled between two attempts."} if cancelled else {}
    connection.execute(update(jobs).where(jobs.c.id == job_id).values({**_released("queued"), **ending}))


def cancel(connection: Connection, job_id: int) -> None:
    """End a queued job, ask a running one to stop, leave one that is over.

    Raises:
        JobNotFound: If there is no such job.
    """
    # Locked before the choice: between two conditional updates the job could move from one state to the other.
    state = connection.scalar(select(jobs.c.state).where(jobs.c.id == job_id).with_for_update(key_share=True))
    if state is None:
        raise JobNotFound(job_id)
    job = update(jobs).where(jobs.c.id == job_id)
    if state == "queued":
        connection.execute(job.values(**_CANCELLED, cancel_requested=True, message="Cancelled before it started."))
    elif state == "running":
        connection.execute(job.values(cancel_requested=True))


def reap(connection: Connection) -> list[int]:
    """Take back the running jobs whose lease ran out; return their ids."""
    expired = connection.execute(
        select(jobs.c.id, jobs.c.attempt, jobs.c.cancel_requested)
        .where(jobs.c.state == "running", jobs.c.lease_until < db_now())
        .order_by(jobs.c.id)
        .with_for_update(key_share=True, skip_locked=True)
    ).all()
    for job in expired:
        _take_back(connection, job.id, job.attempt, cancelled=job.cancel_requested)
    return [job.id for job in expired]


def _take_back(connection: Connection, job_id: int, attempt: int, *, cancelled: bool) -> None:
    silent = "Its lease ran out: the worker died, or was cut off from the database."
    end_attempt(connection, job_id, attempt, state="lost", cause="lost", message=silent)
    if not cancelled and _losses(connection, job_id) >= MAX_LOSSES:
        _quarantine(connection, job_id)
    else:
        _leave(connection, job_id, cancelled=cancelled)


def _losses(connection: Connection, job_id: int) -> int:
    lost = select(func.count()).where(attempts.c.job_id == job_id, attempts.c.state == "lost")
    return connection.scalar(lost) or 0


def _quarantine(connection: Connection, job_id: int) -> None:
    message = (
        f"Its worker was lost {MAX_LOSSES} times while it ran, so it is not tried again. "
        "Look at the workers' logs, and submit it again once they say why."
    )
    connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id)
        .values(**_released("failed"), cause="quarantined", message=message, ended=db_now())
    )
