"""A job in the words of the command line: as data for `-o json`, and as lines to read."""

import json
import statistics
from datetime import UTC, datetime
from typing import Any

from dnnamo.client import JobHandle
from dnnamo.records import Attempt, Environment, Evidence, Job, JobSpec, Operation, Steps
from dnnamo.sizes import as_size

__all__ = ["age", "counted", "describe", "lines", "listed", "standing", "story"]

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
        **stored["spec"],
        "progress": stored["progress"],
        "steps": _steps(result.steps),
        "loss": result.loss,
        "score": result.score,
        "predictions": result.predictions and result.predictions.to_dict(),
        "evidence": _evidence(result.evidence),
        "environment": environment and environment.to_dict(),
        **{name: stored[name] for name in (*_TIMES, "attempts")},
        "artifacts": [artifact.to_dict() for artifact in job.artifacts],
    }


def _steps(steps: Steps | None) -> dict[str, Any] | None:
    return {**steps.to_dict(), "median_ns": steps.median_ns} if steps else None


def _evidence(evidence: Evidence | None) -> dict[str, Any] | None:
    return {"verdict": evidence.verdict, **evidence.to_dict()} if evidence else None


def listed(record: Job) -> dict[str, Any]:
    """Return the cells of a job in a list that people read."""
    return {
        "id": record.id,
        "state": record.state,
        "method": record.spec.method,
        "model": record.spec.model,
        "device": record.spec.device,
        "params": _params(record),
        "tags": " ".join(record.spec.tags),
        "progress": standing(record),
        "age": age(record.created),
    }


def standing(record: Job) -> str:
    """Return how far a running job is, in words; empty if it is not running or has said nothing yet."""
    progress = record.progress
    if progress is None or record.state != "running":
        return ""
    if not progress.done:
        return f"warm up, {counted(progress.warmup, 'step')}"
    loss = "" if progress.loss is None else f", loss {progress.loss:.4g}"
    return f"{progress.done}/{record.spec.n_steps} steps{loss}"


def counted(number: int, noun: str) -> str:
    """Return how many there are of something, in words."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def age(then: datetime, now: datetime | None = None) -> str:
    """Return how long ago something was, by default from now, to its largest unit."""
    seconds = int(((now or datetime.now(UTC)) - then).total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{max(seconds, 0)} s"


def _params(record: Job) -> str:
    return " ".join(f"{name}={json.dumps(value)}" for name, value in record.spec.params.items())


def story(job: JobHandle) -> list[tuple[str, str]]:
    """Return all that `show` says of a job, as pairs of a heading and a line."""
    record = job.record
    spec = record.spec
    given = {"steps": spec.n_steps, "threads": spec.threads, "priority": spec.priority or None}
    said = [(f"job {job.id}", f"{record.state}{f' ({record.cause})' if record.cause else ''}")]
    if record.message:
        said.append(("message", record.message))
    said.append(("method", f"{spec.method} of {spec.model}"))
    if spec.params:
        said.append(("params", _params(record)))
    said.append(("queue", " · ".join([spec.device, *(f"{name} {it}" for name, it in given.items() if it is not None)])))
    said += _asked(spec)
    said.append(("created", f"{record.created:%Y-%m-%d %H:%M:%S} UTC, {age(record.created)} ago"))
    said += [(f"attempt {attempt.number}", _attempt(attempt)) for attempt in record.attempts]
    if so_far := standing(record):
        said.append(("progress", so_far))
    said += lines(job)
    said += [("file", f"{artifact.name}, {artifact.size:,} bytes") for artifact in job.artifacts]
    return said


def _asked(spec: JobSpec) -> list[tuple[str, str]]:
    """Return what a job has of the options that few jobs have."""
    sizes = {"memory": spec.memory_bytes, "output": spec.output_bytes, "scratch": spec.scratch_bytes}
    limits = [] if spec.timeout_s is None else [f"{spec.timeout_s:g} s"]
    limits += [f"{name} {as_size(size)}" for name, size in sizes.items() if size is not None]
    asked = {
        "limits": " · ".join(limits),
        "python": spec.python,
        "repeat": f"at most {counted(spec.repeats, 'time')} if disturbed" if spec.repeats else "",
        "tags": " ".join(spec.tags),
    }
    return [(heading, text) for heading, text in asked.items() if text]


def _attempt(attempt: Attempt) -> str:
    how = f"{attempt.state}{f' ({attempt.cause})' if attempt.cause else ''} on {attempt.worker}"
    return how if attempt.ended is None else f"{how} after {(attempt.ended - attempt.started).total_seconds():.1f} s"


def lines(job: JobHandle) -> list[tuple[str, str]]:
    """Return what a job measured, as far as it did, as pairs of a heading and a line."""
    result = job.stored_result
    said = []
    if environment := job.environment:
        said.append(("environment", _environment(environment)))
    if result.steps:
        said.append(("warm up", f"{result.steps.warmup.count} steps"))
        said.append(("steps", _times(result.steps, profiled=job.spec.method.startswith("profile_"))))
    if result.evidence:
        said.append(("quality", _quality(result.evidence)))
    if result.loss and result.loss[0] is not None:
        said.append(("loss", f"{result.loss[0]:.4g} at the first counted step, {result.loss[-1]:.4g} at the last"))
    if job.spec.method.startswith("profile_") and job.state == "succeeded":
        said.append(("operations", _shares(job.profile.operations)))
    return said


def _environment(environment: Environment) -> str:
    libraries = " · ".join(f"{name} {version}" for name, version in environment.libraries.items())
    threads = next((count for name, count in environment.threads.items() if name.endswith(".intraop")), None)
    counted = f" · {threads} thread{'s' * (threads != 1)}" if threads else ""
    return f"{environment.cores} x {environment.cpu}{counted} · {libraries} · {environment.digest[:4]}"


def _times(steps: Steps, *, profiled: bool) -> str:
    if not steps.duration_ns:
        return f"{steps.count} steps, which the model did not mark"
    times = sorted(steps.duration_ns)
    late = statistics.quantiles(times, n=20)[-1] if len(times) > 1 else times[0]
    under = " with the profiler on" if profiled else ""
    return f"{steps.count} steps  median {_ms(statistics.median(times))} ms  p95 {_ms(late)} ms{under}"


def _quality(evidence: Evidence) -> str:
    verdict = f"tainted: {'; '.join(evidence.reasons)}" if evidence.reasons else "clean"
    return f"{verdict} (measured {counted(evidence.repeated + 1, 'time')})" if evidence.repeated else verdict


def _ms(duration_ns: float) -> str:
    return f"{duration_ns / 1e6:,.3f}" if duration_ns < 1e7 else f"{duration_ns / 1e6:,.1f}"


def _shares(operations: list[Operation]) -> str:
    by_name: dict[str, int] = {}
    for operation in operations:
        by_name[operation.name] = by_name.get(operation.name, 0) + operation.self_ns
    total = sum(by_name.values()) or 1
    top = sorted(by_name.items(), key=lambda item: -item[1])[:4]
    return "  ".join(f"{name} {self_ns / total:.0%}" for name, self_ns in top) or "none within the marked steps"
