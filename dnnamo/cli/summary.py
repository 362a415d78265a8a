"""A job in the words of the command line: as data for `-o json`, and as the lines that `run` and `profile` end with."""

import statistics
from typing import Any

from dnnamo.client import JobHandle
from dnnamo.records import Environment, Operation, Steps

__all__ = ["describe", "lines"]

_SPEC = ("method", "model", "device", "params", "n_steps", "threads", "priority", "timeout_s")
_TIMES = ("created", "started", "ended")


def describe(job: JobHandle) -> dict[str, Any]:
    """Return what is known of a job as JSON-compatible values; without operations, and files by name only."""
    record = job.record
    result = job.stored_result
    environment = job.environment
    stored = record.to_dict()
    return {
        "id": job.id,
        **{name: stored[name] for name in ("state", "cause", "message")},
        **{name: stored["spec"][name] for name in _SPEC},
        "steps": _steps(result.steps),
        "loss": result.loss,
        "score": result.score,
        "predictions": result.predictions and result.predictions.to_dict(),
        "environment": environment and environment.to_dict(),
        **{name: stored[name] for name in (*_TIMES, "attempts")},
        "artifacts": [artifact.to_dict() for artifact in job.artifacts],
    }


def _steps(steps: Steps | None) -> dict[str, Any] | None:
    return {**steps.to_dict(), "median_ns": steps.median_ns} if steps else None


def lines(job: JobHandle) -> list[tuple[str, str]]:
    """Return what `run` and `profile` say of a job that succeeded, as pairs of a heading and a line."""
    result = job.stored_result
    said = []
    if environment := job.environment:
        said.append(("environment", _environment(environment)))
    if result.steps:
        said.append(("warm up", f"{result.steps.warmup.count} steps"))
        said.append((f"job {job.id}", _times(result.steps, profiled=job.spec.method.startswith("profile_"))))
    if result.loss and result.loss[0] is not None:
        said.append(("loss", f"{result.loss[0]:.4g} at the first counted step, {result.loss[-1]:.4g} at the last"))
    if job.spec.method.startswith("profile_"):
        said.append(("operations", _shares(job.profile.operations)))
    return said


def _environment(environment: Environment) -> str:
    libraries = " · ".join(f"{name} {version}" for name, version in environment.libraries.items())
    threads = next((count for name, count in environment.threads.items() if name.endswith(".intraop")), None)
    counted = f" · {threads} threads" if threads else ""
    return f"{environment.cores} x {environment.cpu}{counted} · {libraries} · {environment.digest[:4]}"


def _times(steps: Steps, *, profiled: bool) -> str:
    if not steps.duration_ns:
        return f"{steps.count} steps, which the model did not mark"
    times = sorted(steps.duration_ns)
    late = statistics.quantiles(times, n=20)[-1] if len(times) > 1 else times[0]
    under = " with the profiler on" if profiled else ""
    return f"{steps.count} steps  median {_ms(statistics.median(times))} ms  p95 {_ms(late)} ms{under}"


def _ms(duration_ns: float) -> str:
    return f"{duration_ns / 1e6:,.3f}" if duration_ns < 1e7 else f"{duration_ns / 1e6:,.1f}"


def _shares(operations: list[Operation]) -> str:
    by_name: dict[str, int] = {}
    for operation in operations:
        by_name[operation.name] = by_name.get(operation.name, 0) + operation.self_ns
    total = sum(by_name.values()) or 1
    top = sorted(by_name.items(), key=lambda item: -item[1])[:4]
    return "  ".join(f"{name} {self_ns / total:.0%}" for name, self_ns in top) or "none within the marked steps"
