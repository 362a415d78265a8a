"""What the time of each device went to: computing, communicating, copying, or waiting, and for whom.

The figures are those of TraceLens' GPU time line and of HolisticTraceAnalysis' temporal and idle-time breakdowns, by
intervals of whole nanoseconds.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dnnamo.profiles.events import NONE, Events, Ints
from dnnamo.profiles.intervals import ran_ns
from dnnamo.profiles.links import RUNTIME, last_with
from dnnamo.records import DeviceTime

__all__ = ["device_times", "union_ns"]

_COLLECTIVE = ("nccl", "rccl", "ncclDevKernel", "oneccl")
"""How the names of kernels of communication libraries begin."""

Mask = NDArray[np.bool_]


def device_times(work: Events, events: Events) -> list[DeviceTime]:
    """Break down the time of each device.

    Args:
        work: What devices did, linked.
        events: The whole table, in which the runtime calls are.
    """
    launched = _launched_ns(work, events)
    return [_device_time(device, work.take(rows), launched[rows]) for device, rows in _by_device(work)]


def _by_device(work: Events) -> Iterator[tuple[int, NDArray[np.intp]]]:
    for device in np.unique(work.device).tolist():
        yield max(device, 0), np.flatnonzero(work.device == device)


def _launched_ns(work: Events, events: Events) -> Ints:
    """Return when the host had launched each piece of work: the end of the runtime call; NONE where it is unknown."""
    calls = events.only("correlation", "start_ns", "duration_ns").take(
        events.category.equal(*RUNTIME) & (events.correlation != NONE)
    )
    at, launched = last_with(calls.correlation, work.correlation), np.full(len(work), NONE)
    launched[at != NONE] = calls.end_ns[at[at != NONE]]
    return launched


def _device_time(device: int, work: Events, launched: Ints) -> DeviceTime:
    is_copy = ~work.category.equal("kernel")
    is_collective = ~is_copy & work.name.where(lambda name: name.startswith(_COLLECTIVE))
    computes = ~is_copy & ~is_collective
    start, end = int(work.start_ns.min()), int(work.end_ns.max())
    busy, compute = union_ns(work, None), union_ns(work, computes)
    kernels = union_ns(work, ~is_copy)
    idle, waiting = _idle_ns(work, launched)
    return DeviceTime(
        device=device,
        total_ns=end - start,
        busy_ns=busy,
        compute_ns=compute,
        communication_ns=union_ns(work, is_collective),
        exposed_communication_ns=kernels - compute,
        copy_ns=union_ns(work, is_copy),
        exposed_copy_ns=busy - kernels,
        idle_ns=idle,
        waiting_for_host_ns=waiting,
        gap_ns=idle - waiting,
    )


def union_ns(events: Events, wanted: Mask | None = None) -> int:
    """Return for how long at least one of the events ran, or one of those that are wanted."""
    start, end = (
        (events.start_ns, events.end_ns) if wanted is None else (events.start_ns[wanted], events.end_ns[wanted])
    )
    order = np.argsort(start, kind="stable")
    return int(ran_ns(start[order], end[order]).sum())


def _idle_ns(work: Events, launched: Ints) -> tuple[int, int]:
    """Return how long the device was idle, and for how much of that its next work had not been launched yet."""
    order = np.argsort(work.start_ns, kind="stable")
    start, end = work.start_ns[order], np.maximum.accumulate(work.end_ns[order])
    free, begun, ready = end[:-1], start[1:], launched[order][1:]
    gap = np.maximum(begun - free, 0)
    waiting = np.where(ready == NONE, 0, np.clip(np.minimum(ready, begun) - free, 0, gap))
    return int(gap.sum()), int(waiting.sum())
