"""`run`, `profile`, `submit`: the verbs that make a job."""

import json
from typing import Annotated, Any

import typer

from dnnamo import client, records
from dnnamo.cli.jobs import warn_if_unserved
from dnnamo.cli.output import Format, Output, note, progress, show_lines, show_object
from dnnamo.cli.summary import describe, lines
from dnnamo.errors import JobFailed, UsageError

__all__ = ["profile", "run", "submit"]

Model = Annotated[str, typer.Argument(help="File (model.py), module (pkg.module), or demo:mlp.", show_default=False)]
Mode = Annotated[client.Mode, typer.Option(help="What a step does.")]
Steps = Annotated[int, typer.Option(help="Steps to count.")]
Warmup = Annotated[int | None, typer.Option(help="Steps before those; by default until the step time is steady.")]
Device = Annotated[records.Device, typer.Option(help="Device class, which is also the queue.")]
Params = Annotated[list[str] | None, typer.Option("-p", "--param", metavar="KEY=VALUE", help="Option of the model.")]
Threads = Annotated[int | None, typer.Option(help="Compute threads; by default the framework's choice.")]
Priority = Annotated[int, typer.Option(help="The greater starts first.")]
Timeout = Annotated[float | None, typer.Option(metavar="SECONDS", help="Wall time that an attempt may take.")]
Weights = Annotated[str | None, typer.Option(metavar="FILE", help="Safetensors file of weights to set first.")]


def run(
    model: Model,
    mode: Mode = "inference",
    steps: Steps = 10,
    warmup: Warmup = None,
    device: Device = "cpu",
    param: Params = None,
    threads: Threads = None,
    priority: Priority = 0,
    timeout: Timeout = None,
    weights: Weights = None,
    output: Output = Format.table,
) -> None:
    """Run a model for some steps and show how long each took."""
    options = _options(steps, warmup, device, param, threads, priority, timeout, weights)
    _finish(client.submit(model, client.method_of("run", mode), **options), output)


def profile(
    model: Model,
    mode: Mode = "inference",
    steps: Steps = 10,
    warmup: Warmup = None,
    device: Device = "cpu",
    param: Params = None,
    threads: Threads = None,
    priority: Priority = 0,
    timeout: Timeout = None,
    weights: Weights = None,
    output: Output = Format.table,
) -> None:
    """Profile a model for some steps and show which operations the time went to."""
    options = _options(steps, warmup, device, param, threads, priority, timeout, weights)
    _finish(client.submit(model, client.method_of("profile", mode), **options), output)


def submit(
    method: Annotated[records.Method, typer.Argument(help="Method of the wrapped model.", show_default=False)],
    model: Model,
    steps: Steps = 10,
    warmup: Warmup = None,
    device: Device = "cpu",
    param: Params = None,
    threads: Threads = None,
    priority: Priority = 0,
    timeout: Timeout = None,
    weights: Weights = None,
    key: Annotated[str | None, typer.Option(help="A submit repeated with the same key is the same job.")] = None,
) -> None:
    """Submit a job and print its id alone; without a broker the job runs before this command ends."""
    options = _options(steps, warmup, device, param, threads, priority, timeout, weights)
    job = client.submit(model, method, **options, key=key)
    typer.echo(job.id)
    if client.session().is_embedded:
        note(
            f"No broker is configured, so job {job.id} runs in this process; `dnnamo show {job.id}` tells how it went."
        )
        _wait(job)
    else:
        warn_if_unserved(job)


def _options(
    steps: int,
    warmup: int | None,
    device: records.Device,
    param: list[str] | None,
    threads: int | None,
    priority: int,
    timeout: float | None,
    weights: str | None,
) -> dict[str, Any]:
    return {
        "n_steps": steps,
        "warmup": warmup,
        "device": device,
        "params": dict(map(_param, param or [])),
        "threads": threads,
        "priority": priority,
        "timeout_s": timeout,
        "weights": weights,
    }


def _param(text: str) -> tuple[str, Any]:
    """Split KEY=VALUE; the value is JSON if it reads as JSON, else the text as it stands."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"-p {text!r} is no option of a model: write KEY=VALUE, as in -p batch=32.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _wait(job: client.JobHandle) -> None:
    try:
        with progress(f"job {job.id}: {job.spec.method} of {job.spec.model}"):
            job.wait()
    except KeyboardInterrupt:
        note(f"Cancelling job {job.id}; `dnnamo show {job.id}` tells how it ended.")
        job.cancel()
        job.wait(timeout=15)


def _finish(job: client.JobHandle, output: Format) -> None:
    """Wait for a job, show what came out, and end with its exit code."""
    warn_if_unserved(job)
    _wait(job)
    record = job.record
    if output is not Format.table:
        show_object(describe(job), output)
    elif record.state == "succeeded":
        verb = "ops" if record.spec.method.startswith("profile_") else "show"
        show_lines([(f"job {job.id}", record.state), *lines(job), ("next", f"dnnamo {verb} {job.id}")])
    if record.state != "succeeded":
        raise JobFailed(job.id, state=record.state, cause=record.cause, message=record.message)
