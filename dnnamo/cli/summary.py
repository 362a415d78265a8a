"""A job in the words of the command line: as data for `-o json`, and as lines to read."""

import json
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from dnnamo import client
from dnnamo.client import JobHandle, StoredProfile
from dnnamo.graphs.summary import Summary
from dnnamo.intermediates import Intermediate
from dnnamo.model_types import MODEL_TYPES, methods_of, types_among
from dnnamo.records import (
    VALUES_BUDGET_BYTES,
    Attempt,
    Bundle,
    DeviceTime,
    Environment,
    Evidence,
    Job,
    JobSpec,
    Operation,
    Profile,
    Steps,
)
from dnnamo.sizes import as_size

__all__ = [
    "age",
    "counted",
    "describe",
    "device_line",
    "graph_lines",
    "graph_of",
    "intermediates_line",
    "lines",
    "listed",
    "profile_of",
    "standing",
    "story",
    "verdict",
]

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
        "capabilities": result.capabilities,
        "profile": _profile(profile_of(job)),
        "graph": graph.to_dict() if (graph := graph_of(job)) else None,
        "environment": environment and environment.to_dict(),
        **{name: stored[name] for name in (*_TIMES, "attempts")},
        "artifacts": [artifact.to_dict() for artifact in job.artifacts],
    }


def _steps(steps: Steps | None) -> dict[str, Any] | None:
    return {**steps.to_dict(), "median_ns": steps.median_ns} if steps else None


def _evidence(evidence: Evidence | None) -> dict[str, Any] | None:
    return {"verdict": evidence.verdict, **evidence.to_dict()} if evidence else None


def profile_of(job: JobHandle) -> StoredProfile | None:
    """Return the profile that a job took, None if it took none or has not yet."""
    return job.profile if job.spec.gives_profile and job.state == "succeeded" else None


def graph_of(job: JobHandle) -> Summary | None:
    """Return the figures of the graph that a job took, None if it took none or an older version stored it."""
    return client.session().store.graph_summary(job.id) if job.spec.gives_graph else None


def graph_lines(graph: Summary) -> list[tuple[str, str]]:
    """Return what a graph comes to, as pairs of a heading and a line."""
    depth = "in a circle" if graph.depth is None else f"depth {graph.depth:,}"
    counts = [counted(graph.operations, "operation"), counted(graph.tensors, "tensor"), counted(graph.edges, "edge")]
    size = f"{counted(graph.weight_elements, 'value')} in {counted(graph.weights, 'tensor')}"
    return [
        ("graph", f"{graph.source} · {' · '.join(counts)} · {counted(graph.layers, 'layer')} · {depth}"),
        ("weights", f"{size}, {as_size(graph.weight_bytes)}"),
        *(("note", note) for note in graph.notes),
    ]


def _profile(profile: StoredProfile | None) -> dict[str, Any] | None:
    if profile is None:
        return None
    record, overhead = profile.record.to_dict(), profile.overhead
    del record["operations"]  # they have a verb of their own
    if overhead:
        record["overhead"] |= {"unprofiled_ns": overhead.unprofiled_ns, "ratio": overhead.ratio}
    return {"verdict": record.pop("verdict"), "reasons": record.pop("reasons"), "coverage": profile.coverage} | record


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
    steps = spec.n_steps if spec.counts_steps else None
    given = {"steps": steps, "threads": spec.threads, "seed": spec.seed, "priority": spec.priority or None}
    said = [(f"job {job.id}", f"{record.state}{f' ({record.cause})' if record.cause else ''}")]
    if record.message:
        said.append(("message", record.message))
    said.append(("method", f"{spec.method} of {spec.model}"))
    if spec.params:
        said.append(("params", _params(record)))
    if spec.method != "import_trace":
        shown = [f"{name} {it}" for name, it in given.items() if it is not None]
        said.append(("queue", " · ".join([spec.device, *shown])))
    if spec.setup.asked:
        said.append(("setup", _setup(spec)))
    said += _asked(spec)
    said.append(("created", f"{record.created:%Y-%m-%d %H:%M:%S} UTC, {age(record.created)} ago"))
    said += [(f"attempt {attempt.number}", _attempt(attempt)) for attempt in record.attempts]
    if so_far := standing(record):
        said.append(("progress", so_far))
    said += lines(job)
    said += [("file", f"{artifact.name}, {artifact.size:,} bytes") for artifact in job.artifacts]
    return said


def _setup(spec: JobSpec) -> str:
    return " · ".join(name if value is True else f"{name} {value}" for name, value in spec.setup.asked.items())


def _asked(spec: JobSpec) -> list[tuple[str, str]]:
    """Return what a job has of the options that few jobs have."""
    sizes = {"memory": spec.memory_bytes, "output": spec.output_bytes, "scratch": spec.scratch_bytes}
    limits = [] if spec.timeout_s is None else [f"{spec.timeout_s:g} s"]
    limits += [f"{name} {as_size(size)}" for name, size in sizes.items() if size is not None]
    asked = {
        "code": "" if spec.bundle is None else _code(spec.bundle),
        "limits": " · ".join(limits),
        "python": spec.python,
        "repeat": f"at most {counted(spec.repeats, 'time')} if disturbed" if spec.repeats else "",
        "tags": " ".join(spec.tags),
        "keys": " ".join(spec.keys),
        "values": _kept(spec) if spec.values else "",
        "capture": " ".join(spec.capture),
    }
    return [(heading, text) for heading, text in asked.items() if text]


def _code(bundle: Bundle) -> str:
    where = " and ".join(bundle.folders)
    return f"{counted(bundle.files, 'file')} of {where}, {as_size(bundle.size)} · {bundle.digest}"


def _kept(spec: JobSpec) -> str:
    return f"kept in full, up to {as_size(spec.budget_bytes or VALUES_BUDGET_BYTES)}"


def _attempt(attempt: Attempt) -> str:
    how = f"{attempt.state}{f' ({attempt.cause})' if attempt.cause else ''} on {attempt.worker}"
    return how if attempt.ended is None else f"{how} after {(attempt.ended - attempt.started).total_seconds():.1f} s"


def lines(job: JobHandle) -> list[tuple[str, str]]:
    """Return what a job measured, as far as it did, as pairs of a heading and a line."""
    result, profile = job.stored_result, profile_of(job)
    said = []
    if environment := job.environment:
        said.append(("environment", _environment(environment)))
    if result.capabilities:
        said.append(("model", _capable(result.capabilities)))
    if result.steps:
        said.append(("warm up", f"{result.steps.warmup.count} steps"))
        said.append(("steps", _profiled_times(result.steps, profile.record) if profile else _times(result.steps)))
    if result.evidence:
        said.append(("quality", _quality(result.evidence)))
    if result.loss and result.loss[0] is not None:
        said.append(("loss", f"{result.loss[0]:.4g} at the first counted step, {result.loss[-1]:.4g} at the last"))
    if job.spec.method == "get_intermediates" and job.state == "succeeded":
        said.append(("outputs", intermediates_line(job.intermediates)))
    graph = graph_of(job)
    return said + (_figures(profile) if profile else []) + (graph_lines(graph) if graph else [])


def _capable(methods: Sequence[str]) -> str:
    """Return what kinds of model it is, and the methods that belong to none of them."""
    types = types_among(methods)
    named = {method for name in types for method in methods_of(MODEL_TYPES[name])}
    return " · ".join([*types, *(method for method in methods if method not in named)])


def intermediates_line(found: Sequence[Intermediate]) -> str:
    """Return how many intermediates there are, and which of them have elements that are not finite."""
    said = f"{counted(len(found), 'intermediate')} of {as_size(sum(it.bytes for it in found))}"
    bad = [it.name for it in found if it.non_finite]
    if not bad:
        return said
    return f"{said}, {len(bad)} with elements that are not finite, of which {bad[0]} came first"


def _figures(profile: StoredProfile) -> list[tuple[str, str]]:
    """Return what a profile comes to, its verdict first."""
    record = profile.record
    said = [("profile", _contents(record)), ("verdict", verdict(record))]
    said += [("note", note) for note in record.notes]
    said += [(f"device {it.device}", device_line(it)) for it in record.devices]
    if record.peak_bytes:
        peaks = " · ".join(f"{device} {as_size(size)}" for device, size in record.peak_bytes.items())
        said.append(("peak memory", peaks))
    if record.flops:
        said.append(("FLOPs", f"{record.flops.flops:,} a step, known for {record.flops.coverage:.0%} of the calls"))
    said.append(("operations", _shares(profile.ops())))
    return said


def _contents(record: Profile) -> str:
    steps = f"{counted(len(record.steps), 'marked step')}" if record.steps else "no marked steps"
    covered = "" if record.coverage is None else f" · operations during {record.coverage:.0%} of them"
    return f"{record.source} · {counted(record.events, 'event')} over {_ms(record.span_ns)} ms · {steps}{covered}"


def verdict(record: Profile) -> str:
    """Return how far the figures of a profile can be trusted, with the reasons."""
    return f"{record.verdict}: {' '.join(record.reasons)}" if record.reasons else record.verdict


def device_line(time: DeviceTime) -> str:
    """Return what the time of a device went to."""
    total = time.total_ns or 1
    said = [f"busy {time.busy_ns / total:.0%} of {_ms(time.total_ns)} ms"]
    said.append(f"idle {time.idle_ns / total:.0%} (waiting for the host {time.waiting_for_host_ns / total:.0%})")
    if time.copy_ns:
        said.append(f"copies {time.copy_ns / total:.0%} (exposed {time.exposed_copy_ns / total:.0%})")
    if time.communication_ns:
        exposed = time.exposed_communication_ns / total
        said.append(f"communication {time.communication_ns / total:.0%} (exposed {exposed:.0%})")
    return " · ".join(said)


def _environment(environment: Environment) -> str:
    libraries = " · ".join(f"{name} {version}" for name, version in environment.libraries.items())
    threads = next((count for name, count in environment.threads.items() if name.endswith(".intraop")), None)
    counted = f" · {threads} thread{'s' * (threads != 1)}" if threads else ""
    return f"{environment.cores} x {environment.cpu}{counted} · {libraries} · {environment.digest[:4]}"


def _times(steps: Steps) -> str:
    if not steps.duration_ns:
        return f"{steps.count} steps, which the model did not mark"
    times = sorted(steps.duration_ns)
    late = statistics.quantiles(times, n=20)[-1] if len(times) > 1 else times[0]
    return f"{steps.count} steps  median {_ms(statistics.median(times))} ms  p95 {_ms(late)} ms"


def _profiled_times(steps: Steps, record: Profile) -> str:
    """Return how long a step takes and how long it took profiled; never the latter in place of the former."""
    overhead = record.overhead
    if overhead:
        return f"{_times(steps)}; profiled {_ms(overhead.profiled_ns)} ms, {overhead.ratio:.2f}x"
    if steps.duration_ns and not record.steps:
        return _times(steps)
    if not record.steps:
        return f"{counted(steps.count, 'step')}, neither marked nor timed"
    profiled = f"profiled {_ms(statistics.median(record.step_ns))} ms"
    return f"{counted(len(record.steps), 'step')}  {profiled}; how long one takes unprofiled was not measured"


def _quality(evidence: Evidence) -> str:
    verdict = f"tainted: {'; '.join(evidence.reasons)}" if evidence.reasons else "clean"
    return f"{verdict} (measured {counted(evidence.repeated + 1, 'time')})" if evidence.repeated else verdict


def _ms(duration_ns: float) -> str:
    return f"{duration_ns / 1e6:,.3f}" if duration_ns < 1e7 else f"{duration_ns / 1e6:,.1f}"


def _shares(operations: Sequence[Operation]) -> str:
    """Return which operations most of the time went to, on the host and on devices."""
    host, device = ({row.name: getattr(row, name) for row in operations} for name in ("self_ns", "device_ns"))
    said = [_greatest(host), _greatest(device) and f"on devices: {_greatest(device)}"]
    return "; ".join(filter(None, said)) or "none within the marked steps"


def _greatest(times: Mapping[str, int]) -> str:
    total = sum(times.values())
    top = sorted(times.items(), key=lambda item: -item[1])[:4] if total else []
    return "  ".join(f"{name} {time / total:.0%}" for name, time in top if time)
