"""Jobs whose result a verb shows: made for a model and waited for, or stored ones."""

from typing import Annotated, Any

import typer

from dnnamo import client, records
from dnnamo.cli.options import ModelOptions
from dnnamo.cli.output import note
from dnnamo.cli.waiting import warn_if_stuck, watch
from dnnamo.errors import JobFailed, UsageError

__all__ = ["Model", "finish", "job_of", "wait"]

Model = Annotated[
    str,
    typer.Argument(
        help="File (model.py), module (pkg.module), or scheme:name (demo:mlp); or the id of a job that has the result.",
        show_default=False,
    ),
]


def job_of(model: str, method: records.Method, options: ModelOptions, **more: Any) -> client.JobHandle:
    """Return the job that has a model's result: the one of this id, or a new one that has been waited for.

    Args:
        model: Model reference, or the id of a job.
        method: The method whose result is wanted.
        options: What a new job is made of.
        more: Other arguments of `dnnamo.submit`.

    Raises:
        UsageError: If the job of this id called another method, or was given options.
        JobFailed: If the job did not succeed.
    """
    if not model.isdecimal():
        return finish(client.submit(model, method, **options.arguments(), **more))
    if options != type(options)() or any(more.values()):
        raise UsageError(f"Job {model} is stored, so options that make a job do not apply to it; leave them out.")
    job = client.job(int(model))
    if job.spec.method != method:
        raise UsageError(f"Job {job.id} called {job.spec.method}, and this shows what {method} gave.")
    return finish(job)


def finish(job: client.JobHandle) -> client.JobHandle:
    """Wait for a job, cancelling it on Ctrl-C.

    Raises:
        JobFailed: If it did not succeed.
    """
    warn_if_stuck(job)
    wait(job)
    record = job.record
    if record.state != "succeeded":
        raise JobFailed(job.id, state=record.state, cause=record.cause, message=record.message)
    return job


def wait(job: client.JobHandle) -> None:
    """Wait for a job, however it ends; Ctrl-C cancels it."""
    try:
        watch(job)
    except KeyboardInterrupt:
        note(f"Cancelling job {job.id}; `dnnamo show {job.id}` tells how it ended.")
        job.cancel()
        job.wait(timeout=15)
