"""What the test jobs write down themselves, outside of the database: one line an event, appended in one write.

A job's process may die at any moment, several write at once, and none of them knows anything of attempts or tokens. So
the log is evidence that neither the workers nor the database had a hand in. This module imports the standard library
alone, and the models import it by its file name.
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Line", "append", "read", "runs_of"]


@dataclass(frozen=True)
class Line:
    """One event in the life of an execution.

    Attributes:
        job: Number that the test gave the job; the log knows nothing of ids.
        run: Random number of this execution, which is also what it returns as its loss.
        pid: Process that it is about.
        event: `began`, `ended`, or `child` for a process that it started.
        wall: Time of day in seconds since 1970.
    """

    job: int
    run: int
    pid: int
    event: str
    wall: float


def append(path: str, *, job: int, run: int, event: str, pid: int | None = None) -> None:
    """Write one line, whole or not at all."""
    # Not time.time: one fault sets that wrong on purpose.
    wall = time.clock_gettime(time.CLOCK_REALTIME)
    line = Line(job=job, run=run, pid=os.getpid() if pid is None else pid, event=event, wall=wall)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(fd, json.dumps(asdict(line)).encode() + b"\n")
    finally:
        os.close(fd)


def read(path: Path) -> list[Line]:
    """Return the lines of a log, in the order in which they were written; none if nobody has written yet."""
    return [Line(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def runs_of(lines: Sequence[Line], job: int, event: str = "began") -> list[int]:
    """Return the executions of a job that got as far as an event."""
    return [line.run for line in lines if (line.job, line.event) == (job, event)]
