"""How an attempt ended, written in one transaction: functions that take a connection."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, FromClause, Insert, Row, bindparam, insert, select

from dnnamo.records import Cause, Claim, Environment, Outcome, Result, State
from dnnamo_storage import artifacts, graphs, intermediates, life, profiles
from dnnamo_storage.columns import storable
from dnnamo_storage.inserts import insert_or_ignore
from dnnamo_storage.life import Writes
from dnnamo_storage.schema import environments, results

__all__ = ["record"]

_RESULT = [column for column in results.c if column.name not in ("job_id", "attempt")]


def record(
    connection: Connection, claim: Claim, outcome: Outcome, *, state: State, contents: Mapping[str, bytes]
) -> bool:
    """Write all of the outcome if the claim holds, nothing of it otherwise; return which."""
    large = artifacts.large(connection, contents.values())
    if large and life.lock(connection, claim):
        artifacts.keep(connection, large)
    row = _end(connection, claim, outcome, state, artifacts.attachment(connection, outcome.artifacts, contents))
    if row is None:
        life.mark_lost(connection, claim)
        return False
    if outcome.environment is not None and row.environment is None:
        _keep_environment(connection, outcome.environment)
        life.set_environment(connection, claim, outcome.environment.digest)
    return True


def _end(connection: Connection, claim: Claim, outcome: Outcome, state: State, files: Writes) -> Row[Any] | None:
    """End the job and its attempt; what failed by what may be chance is kept, but the job queued again, once."""
    by_chance = state == "failed" and outcome.cause in life.TRIED_TWICE
    earlier = life.first_failure(connection, claim) if by_chance else None
    if by_chance and earlier is None:
        return life.queue_again(connection, claim, outcome, also=files)
    message = outcome.message if earlier is None else _tried_twice(outcome, earlier)
    dialect = connection.dialect.name
    writes = {
        **files,
        **_result(outcome.result),
        **profiles.writes(dialect, outcome.profile),
        **graphs.writes(dialect, outcome.graph),
        **intermediates.writes(dialect, outcome.intermediates),
    }
    return life.end_job(connection, claim, outcome, state=state, message=message, also=writes)


def _tried_twice(outcome: Outcome, earlier: tuple[int, Cause]) -> str:
    number, cause = earlier
    return f"{outcome.message or ''} The job was tried twice: attempt {number} ended with {cause}.".lstrip()


def _keep_environment(connection: Connection, environment: Environment) -> None:
    queried = ("digest", "hostname", "os", "cpu", "cores", "memory_bytes", "driver", "python", "libraries")
    row = {name: getattr(environment, name) for name in queried}
    row |= {"gpu": environment.gpus[0].name if environment.gpus else None, "record": environment.to_dict()}
    connection.execute(insert_or_ignore(connection.dialect.name, environments), row)


def _result(result: Result | None) -> Writes:
    if result is None:
        return {}
    row = {
        **_step_columns(result),
        "final_loss": _final_loss(result),
        "record": result.to_dict(),
        "verdict": result.evidence.verdict if result.evidence else None,
    }
    return {_insert_result: {f"result_{column.name}": row.get(column.name) for column in _RESULT}}


def _insert_result(attempt: FromClause) -> Insert:
    values = [bindparam(f"result_{column.name}", type_=column.type) for column in _RESULT]
    chosen = select(attempt.c.id, attempt.c.attempt, *values)
    return insert(results).from_select([results.c.job_id, results.c.attempt, *_RESULT], chosen)


def _step_columns(result: Result) -> dict[str, Any]:
    if result.steps is None:
        return {}
    times = result.steps.duration_ns
    return {
        "n_steps": result.steps.count,
        "median_ns": result.steps.median_ns,
        "min_ns": min(times, default=None),
        "max_ns": max(times, default=None),
        "warmup_steps": result.steps.warmup.count,
    }


def _final_loss(result: Result) -> float | None:
    loss: float | None = storable(result.loss[-1]) if result.loss else None
    return loss
