"""The life of a stored job: every change of state, each a function that takes a connection in a writing transaction.

All of them lock the job's row before they touch another table's, and jobs in the order of their ids, so that no two
wait for each other for ever. Statements are built once and take parameters: to build one costs more than to run it.
"""

import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Insert,
    Row,
    Select,
    Text,
    Update,
    and_,
    bindparam,
    case,
    func,
    insert,
    literal,
    null,
    select,
    union_all,
    update,
)

from dnnamo.records import Cause, Claim, Device, JobSpec, Outcome, Progress, Record, State
from dnnamo_storage.columns import StorableText, db_now
from dnnamo_storage.inserts import Step, execute_with
from dnnamo_storage.schema import attempts, environments, jobs

__all__ = [
    "MAX_LOSSES",
    "TRIED_TWICE",
    "Cancellation",
    "Renewal",
    "Writes",
    "cancel",
    "cancel_all",
    "claim_next",
    "end_job",
    "first_failure",
    "hand_back",
    "lock",
    "mark_lost",
    "queue_again",
    "reap",
    "renew",
    "set_environment",
]

MAX_LOSSES = 3
"""Lost attempts after which a job is not tried again."""

TRIED_TWICE: tuple[Cause, ...] = ("signal", "oom_host", "oom_device")
"""Causes that may be chance: a job whose attempt fails with one of them is tried once more."""


Writes = Mapping[Step, Mapping[str, Any]]
"""What else to write when an attempt ends, each with its parameters."""

_NOTHING: Writes = {}


class Renewal(Record, frozen=True, kw_only=True):
    """What a worker learns when it renews its lease.

    Attributes:
        current: Whether the claim still holds; if not, nothing that the attempt does counts any more.
        cancel_requested: Whether someone wants the job to stop.
    """

    current: bool
    cancel_requested: bool


class Cancellation(Record, frozen=True, kw_only=True):
    """What a request to cancel many jobs did: how many ended at once, and how many were asked to stop."""

    ended: int
    asked: int


def _cancelled_where(condition: ColumnElement[bool], message: str, *, otherwise: Any) -> dict[str, Any]:
    """Return values that end a job as cancelled where `condition` holds, and give it the state `otherwise`."""
    return {
        "state": case((condition, "cancelled"), else_=otherwise),
        "cause": case((condition, "cancelled")),
        "message": case((condition, message)),
        "ended": case((condition, db_now())),
    }


def _parameters(of: str) -> dict[str, Any]:
    return {name: bindparam(f"{of}_{name}") for name in ("state", "cause", "message")}


_QUEUED = jobs.c.state == "queued"
_THIS = jobs.c.id == bindparam("of_job")
# The fence: true of the job's row while the claim holds. `_of` gives its parameters.
_HELD = and_(
    _THIS, jobs.c.state == "running", jobs.c.attempt == bindparam("of_attempt"), jobs.c.token == bindparam("of_token")
)
_RELEASED = {"token": null(), "lease_until": null(), "progress": null()}

_BEGIN = (
    update(jobs)
    .values(
        state="running",
        attempt=jobs.c.attempt + 1,
        token=bindparam("new_token"),
        lease_until=db_now(bindparam("lease_s")),
        started=func.coalesce(jobs.c.started, db_now()),
    )
    .returning(jobs.c.id, jobs.c.attempt, jobs.c.spec)
)
_BEGIN_THIS = _BEGIN.where(_THIS, _QUEUED, jobs.c.device.in_(bindparam("of_devices", expanding=True)))
_BEGIN_FIRST = _BEGIN.where(
    jobs.c.id
    == select(jobs.c.id)
    .where(jobs.c.device == bindparam("of_device"), _QUEUED)
    .order_by(jobs.c.priority.desc(), jobs.c.id)
    .limit(1)
    .with_for_update(key_share=True, skip_locked=True)
    .correlate(None)
    .scalar_subquery()
)
_RENEW = update(jobs).where(_HELD).values(lease_until=db_now(bindparam("lease_s"))).returning(jobs.c.cancel_requested)
_END = update(jobs).values(**_RELEASED, **_parameters("job"), ended=db_now())
_LEAVE = update(jobs).values(
    **_RELEASED, **_cancelled_where(jobs.c.cancel_requested, "Cancelled between two attempts.", otherwise="queued")
)
_STORED = select(environments.c.digest).where(environments.c.digest == bindparam("of_environment")).scalar_subquery()
_END_HELD, _LEAVE_HELD = (
    statement.where(_HELD).returning(jobs.c.id, jobs.c.attempt, _STORED.label("environment"))
    for statement in (_END, _LEAVE)
)
_LOCK_HELD = select(jobs.c.id).where(_HELD).with_for_update(key_share=True)
_CANCEL = (
    update(jobs)
    .where(jobs.c.state.in_(("queued", "running")))
    .values(**_cancelled_where(_QUEUED, "Cancelled before it started.", otherwise=jobs.c.state), cancel_requested=True)
)
_EXPIRED = (
    select(jobs.c.id, jobs.c.attempt, jobs.c.token, jobs.c.cancel_requested)
    .where(jobs.c.state == "running", jobs.c.lease_until < db_now())
    .order_by(jobs.c.id)
    .with_for_update(key_share=True, skip_locked=True)
)
_LOSE = (
    update(attempts)
    .where(attempts.c.job_id == bindparam("of_job"), attempts.c.number == bindparam("of_attempt"))
    .where(attempts.c.token == bindparam("of_token"), attempts.c.state == "running")
    .values(state="lost", cause="lost", message=bindparam("why"), ended=db_now())
)


def _begin_attempt(begun: FromClause) -> Insert:
    values = {
        "job_id": begun.c.id,
        "number": begun.c.attempt,
        "token": bindparam("new_token", type_=Text),
        "worker": bindparam("by_worker", type_=StorableText),
        "state": literal("running"),
        "started": db_now(),
    }
    return insert(attempts).from_select(list(values), select(*values.values()))


def _end_attempt(ended: FromClause) -> Update:
    this = and_(attempts.c.job_id == ended.c.id, attempts.c.number == ended.c.attempt)
    known = {"environment": ended.c.environment, "ended": db_now()}
    return update(attempts).where(this).values(**_parameters("attempt"), **known)


def _of(claim: Claim) -> dict[str, Any]:
    return {"of_job": claim.job_id, "of_attempt": claim.attempt, "of_token": claim.token}


def claim_next(
    connection: Connection, devices: Sequence[Device], *, worker: str, lease_s: float, job_id: int | None
) -> Claim | None:
    """Begin the next attempt at the first queued job of `devices`, or at `job_id` if it is one of them."""
    token = secrets.token_hex(16)
    row = _begin(connection, devices, job_id, {"new_token": token, "lease_s": lease_s, "by_worker": worker})
    if row is None:
        return None
    return Claim(job_id=row.id, attempt=row.attempt, token=token, spec=JobSpec.from_dict(row.spec))


def _begin(
    connection: Connection, devices: Sequence[Device], job_id: int | None, begun: dict[str, Any]
) -> Row[Any] | None:
    steps = (_begin_attempt,)
    if job_id is not None:
        asked = {**begun, "of_job": job_id, "of_devices": list(devices)}
        return execute_with(connection, _BEGIN_THIS, steps, asked)
    for device in _most_urgent_first(connection, devices):
        if row := execute_with(connection, _BEGIN_FIRST, steps, {**begun, "of_device": device}):
            return row
    return None


def _most_urgent_first(connection: Connection, devices: Sequence[Device]) -> Sequence[Device]:
    """Return the devices in the order of their first jobs, if there is a choice."""
    return devices if len(devices) < 2 else connection.scalars(_by_first_job(tuple(devices))).all()


@lru_cache
def _by_first_job(devices: tuple[Device, ...]) -> Select[Any]:
    # Each device's first job is one look into the index; the first of all devices at once would be a sort of all jobs.
    order = (jobs.c.priority.desc(), jobs.c.id)
    firsts = [
        select(jobs.c.device, jobs.c.priority, jobs.c.id)
        .where(jobs.c.device == device, _QUEUED)
        .order_by(*order)
        .limit(1)
        for device in devices
    ]
    found = union_all(*(select(first.subquery()) for first in firsts)).subquery()
    return select(found.c.device).order_by(found.c.priority.desc(), found.c.id)


def renew(connection: Connection, claim: Claim, lease_s: float, progress: Progress | None) -> Renewal:
    """Extend the lease if the claim holds, and say how far the attempt is if that is known."""
    told = {} if progress is None else {"progress": progress.to_dict()}
    row = connection.execute(_RENEW, {**_of(claim), "lease_s": lease_s, **told}).first()
    return Renewal(current=row is not None, cancel_requested=row is not None and row.cancel_requested)


def end_job(
    connection: Connection,
    claim: Claim,
    outcome: Outcome,
    *,
    state: State,
    message: str | None,
    also: Writes = _NOTHING,
) -> Row[Any] | None:
    """End the job and its attempt if the claim holds.

    Args:
        connection: A connection in a writing transaction.
        claim: The right to the attempt.
        outcome: How the attempt ended.
        state: How the job ends.
        message: What the job says about it.
        also: What else is to be written then, with its parameters.

    Returns:
        A row with the digest of the outcome's `environment`, if that is stored; None if the claim does not hold.
    """
    ending = {"job_state": state, "job_cause": outcome.cause, "job_message": message}
    return _end(connection, _END_HELD, claim, outcome, {_end_attempt: ending, **also})


def queue_again(connection: Connection, claim: Claim, outcome: Outcome, *, also: Writes = _NOTHING) -> Row[Any] | None:
    """End the attempt and queue the job again, or end it too if it was to be cancelled; otherwise as `end_job`."""
    return _end(connection, _LEAVE_HELD, claim, outcome, {_end_attempt: {}, **also})


def _end(connection: Connection, first: Update, claim: Claim, outcome: Outcome, steps: Writes) -> Row[Any] | None:
    ending = {
        **_of(claim),
        "of_environment": outcome.environment.digest if outcome.environment else None,
        "attempt_state": outcome.state,
        "attempt_cause": outcome.cause,
        "attempt_message": outcome.message,
    }
    own = {name: value for parameters in steps.values() for name, value in parameters.items()}
    return execute_with(connection, first, tuple(steps), {**ending, **own})


def lock(connection: Connection, claim: Claim) -> bool:
    """Make sure that a claim which holds does so to the end of the transaction; return whether it holds."""
    return connection.execute(_LOCK_HELD, _of(claim)).first() is not None


def set_environment(connection: Connection, claim: Claim, digest: str) -> None:
    """Write what an attempt ran in, if that was not stored yet when the claim was found to hold and it was ended."""
    this = update(attempts).where(attempts.c.job_id == claim.job_id, attempts.c.number == claim.attempt)
    connection.execute(this.values(environment=digest))


def first_failure(connection: Connection, claim: Claim) -> tuple[int, Cause] | None:
    """Return number and cause of the earlier attempt whose failure made the job be tried once more."""
    failed = select(attempts.c.number, attempts.c.cause).where(
        attempts.c.job_id == claim.job_id, attempts.c.number < claim.attempt, attempts.c.cause.in_(TRIED_TWICE)
    )
    row = connection.execute(failed.order_by(attempts.c.number)).first()
    return None if row is None else (row.number, row.cause)


def mark_lost(connection: Connection, claim: Claim) -> None:
    """Make sure that the attempt of a claim that no longer holds does not look alive."""
    connection.execute(_LOSE, {**_of(claim), "why": "It went on after its lease had run out."})


def hand_back(connection: Connection, claim: Claim) -> bool:
    """Give the job back without an outcome, if the claim holds; return whether it did."""
    return queue_again(connection, claim, Outcome(state="handed_back")) is not None


def cancel(connection: Connection, job_id: int) -> None:
    """End a queued job, ask a running one to stop, leave one that is over."""
    connection.execute(_CANCEL.where(_THIS), {"of_job": job_id})


def cancel_all(connection: Connection, conditions: Sequence[ColumnElement[bool]]) -> Cancellation:
    """End the queued jobs that match all conditions, and ask the running ones to stop."""
    matching = select(jobs.c.id).where(*conditions, jobs.c.state.in_(("queued", "running"))).order_by(jobs.c.id)
    locked = matching.with_for_update(key_share=True).correlate(None)
    states = connection.scalars(_CANCEL.where(jobs.c.id.in_(locked)).returning(jobs.c.state)).all()
    return Cancellation(ended=states.count("cancelled"), asked=states.count("running"))


def reap(connection: Connection) -> list[int]:
    """Take back the running jobs whose lease ran out; return their ids."""
    expired = connection.execute(_EXPIRED).all()
    for job in expired:
        _take_back(connection, job)
    return [job.id for job in expired]


def _take_back(connection: Connection, job: Row[Any, Any, Any, Any]) -> None:
    why = "Its lease ran out: the worker died, or was cut off from the database."
    lost = {"of_job": job.id, "of_attempt": job.attempt, "of_token": job.token}
    connection.execute(_LOSE, {**lost, "why": why})
    if not job.cancel_requested and _losses(connection, job.id) >= MAX_LOSSES:
        _quarantine(connection, job.id)
    else:
        connection.execute(_LEAVE.where(_THIS), {"of_job": job.id})


def _losses(connection: Connection, job_id: int) -> int:
    lost = select(func.count()).where(attempts.c.job_id == job_id, attempts.c.state == "lost")
    return connection.scalar(lost) or 0


def _quarantine(connection: Connection, job_id: int) -> None:
    message = (
        f"Its worker was lost {MAX_LOSSES} times while it ran, so it is not tried again. "
        "Look at the workers' logs, and submit it again once they say why."
    )
    ending = {"job_state": "failed", "job_cause": "quarantined", "job_message": message}
    connection.execute(_END.where(_THIS), {"of_job": job_id, **ending})
