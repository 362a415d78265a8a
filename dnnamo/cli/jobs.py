"""`ls`, `show`, `logs`, `wait`, `cancel`: the verbs about jobs that there are."""

from typing import Annotated, Any, Literal

import typer

from dnnamo import client, records
from dnnamo.cli.output import Format, Output, note, show_lines, show_object, show_rows
from dnnamo.cli.summary import counted, describe, listed, story
from dnnamo.cli.waiting import note_waiting, warn_if_stuck, watch, why_waiting_here
from dnnamo.errors import JobFailed, UsageError

__all__ = ["cancel", "logs", "ls", "show", "wait"]

Id = Annotated[int, typer.Argument(help="Id of the job.", show_default=False)]
Ids = Annotated[list[int], typer.Argument(help="Ids of the jobs.", show_default=False)]

Model = Annotated[str | None, typer.Option(help="Only jobs of this model reference.")]
Method = Annotated[records.Task | None, typer.Option(help="Only jobs that call this method.")]
Tags = Annotated[list[str] | None, typer.Option(metavar="WORD", help="Only jobs with this tag; repeatable.")]

_READ = ("id", "state", "method", "model", "device", "params", "tags", "progress", "age")
_RARE = ("tags", "progress")
"""Columns that the table leaves out where they would be empty."""
_COLUMNS = ("id", "state", "cause", "method", "model", "device", "params", "created", "tags", "progress")


def ls(
    state: Annotated[records.State | None, typer.Option(help="Only jobs in this state.")] = None,
    model: Model = None,
    method: Method = None,
    tag: Tags = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=1_000_000)] = 100,
    output: Output = Format.table,
) -> None:
    """List jobs, newest first."""
    found = client.session().store.jobs(state=state, model=model, method=method, tags=tag or (), limit=limit)
    if output is Format.table:
        rows = [listed(record) for record in found]
        show_rows(rows, [name for name in _READ if name not in _RARE or any(row[name] for row in rows)], output)
    else:
        show_rows([_row(record) for record in found], _COLUMNS, output)
    note_waiting(why_waiting_here())


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
        warn_if_stuck(job)
        try:
            watch(job, timeout)
        except TimeoutError as error:
            raise UsageError(str(error)) from error
        except KeyboardInterrupt:
            note(f"Job {job.id} is {job.state} and goes on; `dnnamo cancel {job.id}` ends it.")
            raise
    for job in handles:
        record = job.record
        if record.state != "succeeded":
            raise JobFailed(job.id, state=record.state, cause=record.cause, message=record.message)


def cancel(
    ids: Annotated[list[int] | None, typer.Argument(help="Ids of the jobs.", show_default=False)] = None,
    state: Annotated[Literal["queued", "running"] | None, typer.Option(help="Only jobs in this state.")] = None,
    model: Model = None,
    method: Method = None,
    tag: Tags = None,
    everything: Annotated[bool, typer.Option("--all", help="All jobs that are not over.")] = False,
) -> None:
    """Cancel jobs, by their ids or all that match: queued ones at once, running ones within seconds."""
    is_chosen = everything or bool(tag) or any(value is not None for value in (state, model, method))
    if bool(ids) == is_chosen:
        raise UsageError("Say which jobs to cancel: either their ids, or --tag, --state, --model, --method, or --all.")
    if ids:
        _cancel(ids)
        return
    done = client.cancel(state=state, model=model, method=method, tags=tag or (), everything=everything)
    note(f"{counted(done.ended, 'queued job')} cancelled, {counted(done.asked, 'running job')} told to stop.")


def _cancel(ids: list[int]) -> None:
    for job in [client.job(job_id) for job_id in ids]:
        before = job.record
        if before.is_over:
            note(f"Job {job.id} is over already: {before.state}.")
        else:
            note(f"Job {job.id}: {'cancelled' if job.cancel() == 'cancelled' else 'told to stop'}.")
