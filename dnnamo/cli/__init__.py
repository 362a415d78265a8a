"""The command line: one file a verb family; this one puts them together and turns errors into exit codes.

Exit codes: 0 done; 1 the job failed; 2 wrong usage; 3 database or broker cannot be used; 4 compared and slower.
"""

import os
import signal
import sys
from pathlib import Path

import typer

from dnnamo.cli import (
    admin,
    graphs,
    intermediates,
    jobs,
    models,
    operations,
    profiles,
    queries,
    run,
    services,
    timeline,
    weights,
    workers,
)
from dnnamo.cli.output import note
from dnnamo.errors import DnnamoError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Run and profile neural networks through a queue, and query what was measured.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

for verb in (
    run.run,
    run.profile,
    run.submit,
    weights.weights,
    intermediates.intermediates,
    jobs.ls,
    jobs.show,
    jobs.logs,
    jobs.wait,
    jobs.cancel,
    graphs.graph,
    operations.ops,
    timeline.timeline,
    profiles.import_,
    profiles.export,
    queries.sql,
    models.models,
    workers.workers,
    services.worker,
    services.up,
    admin.doctor,
    admin.config,
):
    app.command(verb.__name__.removesuffix("_"))(verb)
app.add_typer(admin.db, name="db")


def main() -> None:
    """Run the command line and exit."""
    _prepare_streams()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, signal.default_int_handler)  # a job that is waited for is cancelled, as on Ctrl-C
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except DnnamoError as error:
        note(f"dnnamo: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of a pipe (`dnnamo ls | head`) has seen enough; keep the interpreter from complaining at exit.
        _discard_output()
        sys.exit(0)
    except OSError as error:  # a full disk under the output, or a job that is not over in time
        _discard_output()
        note(f"dnnamo: {error}")
        sys.exit(1)


def _prepare_streams() -> None:
    """Make do with closed streams, and with encodings that lack a character."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 (open as long as the process)
        else:
            stream.reconfigure(errors="backslashreplace")


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
