"""How an attempt ended, written in one transaction: functions that take a connection."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, insert

from dnnamo.records import Claim, Environment, Operation, Outcome, Profile, Result, State
from dnnamo_storage import artifacts
from dnnamo_storage.columns import db_now, storable
from dnnamo_storage.inserts import insert_or_ignore
from dnnamo_storage.life import end_attempt, end_job
from dnnamo_storage.schema import environments, operations, profiles, results

__all__ = ["record"]


def record(
    connection: Connection, claim: Claim, outcome: Outcome, *, state: State, contents: Mapping[str, bytes]
) -> bool:
    """Write all of the outcome if the claim holds, nothing of it otherwise; return which."""
    if not end_job(connection, claim, state=state, cause=outcome.cause, message=outcome.message):
        return False
    end_attempt(
        connection,
        claim.job_id,
        claim.attempt,
        state=outcome.state,
        cause=outcome.cause,
        message=outcome.message,
        environment=_keep_environment(connection, outcome.environment),
    )
    _write_result(connection, claim, outcome.result)
    _write_profile(connection, claim, outcome.profile)
    artifacts.attach(connection, claim, outcome.artifacts, contents)
    return True


def _keep_environment(connection: Connection, environment: Environment | None) -> str | None:
    if environment is None:
        return None
    queried = ("digest", "hostname", "os", "cpu", "cores", "memory_bytes", "driver", "python", "libraries")
    row = {name: getattr(environment, name) for name in queried}
    gpu = environment.gpus[0].name if environment.gpus else None
    connection.execute(
        insert_or_ignore(connection, environments).values(
            **row, gpu=gpu, record=environment.to_dict(), created=db_now()
        )
    )
    return environment.digest


def _write_result(connection: Connection, claim: Claim, result: Result | None) -> None:
    if result is None:
        return
    row = {**_of_attempt(claim), **_step_columns(result), "final_loss": _final_loss(result), "record": result.to_dict()}
    connection.execute(insert(results).values(row))


def _of_attempt(claim: Claim) -> dict[str, Any]:
    return {"job_id": claim.job_id, "attempt": claim.attempt}


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


def _write_profile(connection: Connection, claim: Claim, profile: Profile | None) -> None:
    if profile is None:
        return
    row = {name: getattr(profile, name) for name in ("source", "step_ns", "covered_ns", "coverage")}
    connection.execute(insert(profiles).values(**_of_attempt(claim), **row))
    if profile.operations:
        rows = [_operation_row(claim.job_id, position, row) for position, row in enumerate(profile.operations)]
        connection.execute(insert(operations), rows)


def _operation_row(job_id: int, position: int, operation: Operation) -> dict[str, Any]:
    return {"job_id": job_id, "position": position, **operation.to_dict()}
