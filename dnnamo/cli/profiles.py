"""`import`, `export`: profiles from elsewhere, and for elsewhere."""

import os
import sys
from ctypes import CDLL
from pathlib import Path
from typing import Annotated, Any

import typer

from dnnamo import client
from dnnamo.cli.jobs import Id
from dnnamo.cli.operations import note_verdict
from dnnamo.cli.output import Format, Output, note, show_rows
from dnnamo.errors import InfrastructureError, UsageError
from dnnamo.sizes import as_size

__all__ = ["export", "import_"]

_READ = ("id", "source", "events", "steps", "verdict", "file")
_COLUMNS = (*_READ, "reasons")

_VIEWERS = {
    "chrome": "chrome://tracing, ui.perfetto.dev and TensorBoard open it",
    "perfetto": "ui.perfetto.dev opens it",
    "speedscope": "speedscope.app opens it",
    "folded": "flamegraph.pl and speedscope.app open it",
}

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def import_(
    files: Annotated[list[Path], typer.Argument(help="Trace files, or TensorFlow log folders.", show_default=False)],
    tag: Annotated[list[str] | None, typer.Option(metavar="WORD", help="To find the jobs by; repeatable.")] = None,
    output: Output = Format.table,
) -> None:
    """Store the profiles in files from elsewhere, each as a job; needs neither broker nor framework."""
    _reuse_memory()
    rows, refused = [], []
    for file in files:
        try:
            rows.append(_row(client.import_trace(file, tags=tag or ()), file))
        except InfrastructureError:
            raise
        except UsageError as error:
            refused.append(file)
            note(f"{file}: {error}")
    if rows or output is not Format.table:
        show_rows(rows, _READ if output is Format.table else _COLUMNS, output)
    if output is Format.table:
        for row in rows:
            for reason in row["reasons"]:
                note(f"Job {row['id']} is {row['verdict']}: {reason}")
    if refused:
        named = ", ".join(map(str, refused))
        raise UsageError(f"{len(refused)} of {len(files)} files hold no profile that could be stored: {named}.")


def _reuse_memory() -> None:
    """Have memory that a table gives back go to the next one; set for a whole process, and so not where a library is.

    Arrow's own allocator, which is chosen as Arrow is loaded, takes new memory for each column, 15 MB for a common
    profile. The C library's returns what large arrays had to the system, and each of the next one's pages is a fault,
    7 % of an import's time; and it takes new memory for each thread, another 15 MB.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    mallopt = getattr(CDLL(None), "mallopt", None)  # glibc's, see mallopt(3)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 25)
        mallopt(_M_TRIM_THRESHOLD, 1 << 28)
        mallopt(_M_ARENA_MAX, 1)


def _row(job: client.JobHandle, file: Path) -> dict[str, Any]:
    record = job.profile.record
    return {
        "id": job.id,
        "source": record.source,
        "events": record.events,
        "steps": len(record.steps),
        "verdict": record.verdict,
        "file": str(file),
        "reasons": record.reasons,
        "notes": record.notes,
    }


def export(
    id: Id,  # noqa: A002
    to: Annotated[
        str, typer.Option(help="chrome, perfetto, speedscope, parquet, folded, csv, or what a plug-in adds.")
    ] = "chrome",
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="Where to; by default standard output in a pipe, else job-ID.… here."),
    ] = None,
) -> None:
    """Write a profile in the form of another tool; what goes to a file whose name ends with .gz is gzipped."""
    from dnnamo.profiles.exports import exporter, suffix

    exporter(to)
    profile = client.job(id).profile
    if file is None and not sys.stdout.isatty():
        sys.stdout.flush()
        profile.export(to, sys.stdout.buffer)
    else:
        path = file or Path(f"job-{id}.{suffix(to)}")
        profile.export(to, path)
        opens = f"; {_VIEWERS[to]}" if to in _VIEWERS else ""
        note(f"{path} has {as_size(path.stat().st_size)}{opens}.")
    note_verdict(profile)
