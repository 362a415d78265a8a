"""Lanes for events of one thread that overlap: within a lane events nest or follow each other.

Viewers draw a lane as a stack of slices. They drop or cut what neither nests in a slice nor follows it
(google/perfetto#4280).
"""

import numpy as np
from numpy.typing import NDArray

from dnnamo.profiles.events import Events

__all__ = ["lanes"]


def lanes(events: Events) -> NDArray[np.int64]:
    """Return the number of a lane for each event of one thread: 0, or the first in which it fits.

    Args:
        events: The events of one thread, sorted as `Events` are.
    """
    if not len(events.nest().overlaps):
        return np.zeros(len(events), np.int64)
    open_ends: list[list[int]] = []
    spans = zip(events.start_ns.tolist(), events.end_ns.tolist(), strict=True)
    return np.array([_place(open_ends, *span) for span in spans], np.int64)


def _place(open_ends: list[list[int]], start: int, end: int) -> int:
    """Put an event into the first lane in which it fits, whose events' ends are at hand; return the lane's number."""
    for number, ends in enumerate(open_ends):
        while ends and ends[-1] <= start:
            ends.pop()
        if not ends or end <= ends[-1]:
            ends.append(end)
            return number
    open_ends.append([end])
    return len(open_ends) - 1
