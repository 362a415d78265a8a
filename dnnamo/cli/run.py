"""`run`, `profile`, `submit`: the verbs that make a job."""

from typing import Annotated

import typer

from dnnamo import client, records
from dnnamo.cli.options import Options, ProfileOptions, with_options
from dnnamo.cli.output import Format, Output, note, show_lines, show_object
from dnnamo.cli.results import wait
from dnnamo.cli.summary import describe, lines
from dnnamo.cli.waiting import warn_if_stuck
from dnnamo.errors import JobFailed

__all__ = ["profile", "run", "submit"]

Model = Annotated[str, typer.Argument(help="File (model.py), module (pkg.module), or demo:mlp.", show_default=False)]
Mode = Annotated[client.Mode, typer.Option(help="What a step does.")]


@with_options
def run(model: Model, options: Options, mode: Mode = "inference", output: Output = Format.table) -> None:
    """Run a model for some steps and show how long each took."""
    _finish(client.submit(model, client.method_of("run", mode), **options.arguments()), output)


@with_options
def profile(model: Model, options: ProfileOptions, mode: Mode = "inference", output: Output = Format.table) -> None:
    """Profile a model for some steps and show which operations the time went to."""
    _finish(client.submit(model, client.method_of("profile", mode), **options.arguments()), output)


@with_options
def submit(
    method: Annotated[records.Method, typer.Argument(help="Method of the wrapped model.", show_default=False)],
    model: Model,
    options: ProfileOptions,
    key: Annotated[str | None, typer.Option(help="A submit repeated with the same key is the same job.")] = None,
) -> None:
    """Submit a job and print its id alone; without a broker the job runs before this command ends."""
    job = client.submit(model, method, **options.arguments(), key=key)
    typer.echo(job.id)
    warn_if_stuck(job)
    if client.session().is_embedded:
        note(
            f"No broker is configured, so job {job.id} runs in this process; `dnnamo show {job.id}` tells how it went."
        )
        wait(job)


def _finish(job: client.JobHandle, output: Format) -> None:
    """Wait for a job, show what came out, and end with its exit code."""
    warn_if_stuck(job)
    wait(job)
    record = job.record
    if output is not Format.table:
        show_object(describe(job), output)
    elif record.state == "succeeded":
        verb = "ops" if record.spec.method.startswith("profile_") else "show"
        show_lines([(f"job {job.id}", record.state), *lines(job), ("next", f"dnnamo {verb} {job.id}")])
    if record.state != "succeeded":
        raise JobFailed(job.id, state=record.state, cause=record.cause, message=record.message)
