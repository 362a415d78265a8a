"""How far a job is: numbers in memory that runner and supervisor share, so that telling them costs no system call."""

import math
import mmap
import struct

from dnnamo.records import Progress

__all__ = ["NOTHING_YET", "PROGRESS_BYTES", "Counter", "read_progress"]

_LAYOUT = struct.Struct("=qqd")
PROGRESS_BYTES = _LAYOUT.size
"""Warm-up steps, counted steps, and the last loss, NaN before the first."""

NOTHING_YET = _LAYOUT.pack(0, 0, math.nan)
"""What the file holds before the runner has begun."""


class Counter:
    """The runner's side: counts the steps and keeps the last loss.

    Args:
        fd: File that the supervisor reads, with `NOTHING_YET` in it; -1 for memory that nobody else sees.
    """

    def __init__(self, fd: int = -1) -> None:
        memory = memoryview(mmap.mmap(fd, PROGRESS_BYTES))
        self._steps = memory[:16].cast("q")
        self._loss = memory[16:].cast("d")
        self._loss[0] = math.nan

    def warmed_up(self) -> None:
        """Count a warm-up step."""
        self._steps[0] += 1

    def counted(self) -> None:
        """Count a counted step."""
        self._steps[1] += 1

    def recount(self) -> None:
        """Begin the counted steps once more."""
        self._steps[1] = 0

    def keep_loss(self, loss: float) -> None:
        """Keep the loss of the last step."""
        self._loss[0] = loss


def read_progress(content: bytes) -> Progress:
    """Return what a counter's file says; user code may have written anything there."""
    if len(content) != PROGRESS_BYTES:
        return Progress()
    warmup, done, loss = _LAYOUT.unpack(content)
    return Progress(warmup=max(0, warmup), done=max(0, done), loss=loss if math.isfinite(loss) else None)
