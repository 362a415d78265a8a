"""Runs `dnnamo import` for a trace and the SQLite file of the data folder; prints what it took as JSON.

`benchmarks.profiles` runs it in a process of its own: `python -m benchmarks.store_trace FIRST FILE`. Only the second
counts: the first has everything loaded and the database ready.
"""

import json
import os
import sqlite3
import sys
from contextlib import closing, redirect_stdout
from io import StringIO
from pathlib import Path

from typer.main import get_command

import dnnamo
from benchmarks.peers.measured import Watch
from dnnamo.cli import app
from dnnamo.records import EVENTS_NAME

COMMAND = get_command(app)
"""Made once, as in a process of its own, where it belongs to the start."""


def main() -> None:
    """Import both files."""
    first, file = sys.argv[1:]
    run_import(first)
    before = database_bytes()
    with Watch() as watch:
        job = dnnamo.job(run_import(file))
    sizes = {artifact.name: artifact.size for artifact in job.artifacts}
    watch.report(
        events=job.profile.record.events, events_bytes=sizes[EVENTS_NAME], stored_bytes=database_bytes() - before
    )


def run_import(file: str) -> int:
    """Do what the command does in a process of its own; return the job's id."""
    with redirect_stdout(StringIO()) as printed:
        COMMAND(["import", file, "-o", "json"], standalone_mode=False)
    return int(json.loads(printed.getvalue())[0]["id"])


def database_bytes() -> int:
    """Return the size of the database, what still stands in its log included."""
    with closing(sqlite3.connect(Path(os.environ["DNNAMO_HOME"]) / "dnnamo.db")) as connection:
        (size,) = connection.execute(
            "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
        ).fetchone()
    return int(size)


if __name__ == "__main__":
    main()
