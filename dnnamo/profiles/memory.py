"""How much memory was allocated at once, from the allocators' own counts in a profile's `[memory]` events."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dnnamo.profiles.events import NONE, Events, Ints
from dnnamo.profiles.links import Steps

__all__ = ["Allocations", "allocations", "peaks", "step_peaks"]

_CPU = 0
"""`DeviceType::CPU` in PyTorch's `c10/core/DeviceType.h`, which events have as "Device Type"."""


@dataclass(frozen=True)
class Allocations:
    """What was allocated and released, in the order of time.

    Attributes:
        rows: Row of each change in the event table.
        at_ns: When it was.
        bytes: How much, negative where it was released.
        held_bytes: What the allocator had given out after it, NONE where it did not say.
        device: Number of the GPU whose memory it is, -1 for the host's.
    """

    rows: NDArray[np.intp]
    at_ns: Ints
    bytes: Ints
    held_bytes: Ints
    device: Ints

    def __len__(self) -> int:
        return len(self.rows)


def allocations(events: Events) -> Allocations:
    """Find the allocations and releases in a table."""
    rows = np.flatnonzero(events.category.equal("cpu_instant_event") & events.name.equal("[memory]"))
    rows = rows[np.argsort(events.start_ns[rows], kind="stable")]
    held = _arg(events, "Total Allocated", rows)
    return Allocations(rows, events.start_ns[rows], events.bytes[rows], held, _devices(events, rows))


def _arg(events: Events, name: str, rows: NDArray[np.intp]) -> Ints:
    column = events.args.get(name)
    return column[rows] if isinstance(column, np.ndarray) else np.full(len(rows), NONE)


def _devices(events: Events, rows: NDArray[np.intp]) -> Ints:
    kind, number, device = _arg(events, "Device Type", rows), _arg(events, "Device Id", rows), events.device[rows]
    by_args = np.where(kind == _CPU, -1, np.maximum(number, 0))
    return np.where(kind != NONE, by_args, np.where(device == NONE, -1, device))


def peaks(changes: Allocations) -> dict[str, int]:
    """Return the most memory that was allocated at once, by device: `cpu`, `gpu 0`."""
    found = dict[str, int]()
    for device in np.unique(changes.device).tolist():
        most = int(changes.held_bytes[changes.device == device].max())
        if most != NONE:
            found["cpu" if device < 0 else f"gpu {device}"] = most
    return found


def step_peaks(changes: Allocations, steps: Steps) -> list[int | None]:
    """Return the most memory that was allocated at once in each step, on whichever device it was most."""
    # What a step begins with, the change before it told.
    first = np.maximum(np.searchsorted(changes.at_ns, steps.start_ns) - 1, 0)
    last = np.searchsorted(changes.at_ns, steps.end_ns)
    bounds = zip(first.tolist(), last.tolist(), strict=True)
    most = [int(changes.held_bytes[begin:end].max(initial=NONE)) for begin, end in bounds]
    return [None if peak == NONE else peak for peak in most]
