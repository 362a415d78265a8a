"""`ls`, `show`, `logs`, `wait`, `cancel`: the verbs about jobs that there are."""

from typing import Annotated, Any

import typer

from dnnamo import client, records
from dnnamo.cli.output import Format, Output, note, progress, show_lines, show_object, show_rows
from dnnamo.cli.summary import describe, listed, story
from dnnamo.errors import JobFailed, UsageError

__all__ = ["cancel", "logs", "ls", "show", "wait", "warn_if_unserved"]

Id = Annotated[int, typer.Argument(help="Id of the job.", show_default=False)]
Ids = Annotated[list[int], typer.Argument(help="Ids of the jobs.", show_default=False)]

_READ = ("id", "state", "method", "model", "device", "params", "age")
_COLUMNS = ("id", "state", "cause", "method", "model", "device", "params", "created")


def ls(
    state: Annotated[records.State | None, typer.Option(help="Only jobs in this state.")] = None,
    model: Annotated[str | None, typer.Option(help="Only jobs of this model reference.")] = None,
    method: Annotated[records.Method | None, typer.Option(help="Only jobs that call this method.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=1_000_000)] = 100,
    output: Output = Format.table,
) -> None:
    """List jobs, newest first."""
    found = client.jobs(state=state, model=model, method=method, limit=limit)
    if output is Format.table:
        show_rows([listed(job.record) for job in found], _READ, output)
    else:
        show_rows([_row(job.record) for job in found], _COLUMNS, output)
    here = client.session()
    for device in records.DEVICES:
        waiting = here.store.queued(device, limit=1)
        if waiting and not here.is_served(device):
            note(f"Queued jobs wait: no worker serves queue {device}. Start one with `dnnamo worker --queue {device}`.")


def _row(record: records.Job) -> dict[str, Any]:
    stored = record.to_dict()
    return {name: stored[name] if name in stored else stored["spec"][name] for name in _COLUMNS}


def show(id: Id, output: Output = Format.table) -> None:  # noqa: A002
    """Show everything that is known of a job."""
    job = client.job(id)
    if output is Format.table:
        show_lines(story(job))
    else:
        show_object(describe(job), output)


def logs(id: Id) -> None:  # noqa: A002
    """Print what a job's model printed, with the traceback if it raised."""
    job = client.job(id)
    if not job.record.is_over:
        note(f"Job {id} is {job.state}; its log is stored when an attempt ends.")
    typer.echo(job.log, nl=False)


def wait(
    ids: Ids, timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="Give up after so long.")] = None
) -> None:
    """Wait until jobs are over; the exit code says whether all succeeded."""
    handles = [client.job(job_id) for job_id in ids]
    for job in handles:
        warn_if_unserved(job)
        with progress(f"job {job.id}: {job.spec.method} of {job.spec.model}"):
            try:
                job.wait(timeout=timeout)
            except TimeoutError as error:
                raise UsageError(str(error)) from error
    for job in handles:
        record = job.record
        if record.state != "succeeded":
            raise JobFailed(job.id, state=record.state, cause=record.cause, message=record.message)


def warn_if_unserved(job: client.JobHandle) -> None:
    """Say so if a job is queued for a device class that nobody serves."""
    device = job.spec.device
    if job.state == "queued" and not client.session().is_served(device):
        note(f"No worker serves queue {device} at the moment; job {job.id} waits for `dnnamo worker --queue {device}`.")


def cancel(ids: Ids) -> None:
    """Cancel jobs: queued ones at once, running ones within seconds."""
    for job in [client.job(job_id) for job_id in ids]:
        before = job.record
        if before.is_over:
            note(f"Job {job.id} has {before.state} already.")
        else:
            note(f"Job {job.id}: {'cancelled' if job.cancel() == 'cancelled' else 'told to stop'}.")
