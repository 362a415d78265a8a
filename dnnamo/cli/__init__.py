"""The command line: one file a verb family; this one puts them together and turns errors into exit codes.

Exit codes: 0 done; 1 the job failed; 2 wrong usage; 3 database or broker cannot be used; 4 compared and slower.
"""

import os
import sys

import typer

from dnnamo.cli import admin, jobs, operations, run, services
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
    jobs.ls,
    jobs.show,
    jobs.logs,
    jobs.wait,
    jobs.cancel,
    operations.ops,
    services.worker,
    services.up,
    admin.doctor,
    admin.config,
):
    app.command()(verb)
app.add_typer(admin.db, name="db")


def main() -> None:
    """Run the command line and exit."""
    try:
        app()
    except DnnamoError as error:
        note(f"dnnamo: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of a pipe (`dnnamo ls | head`) has seen enough; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
