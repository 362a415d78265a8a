"""How much memory was allocated at once, from the allocators' own counts in a profile's `[memory]` events."""

import numpy as np

from dnnamo.profiles.events import NONE, Events, Ints, Texts
from dnnamo.profiles.links import Steps

__all__ = ["allocations", "held_bytes", "peaks", "step_peaks"]

_CPU = 0
"""`DeviceType::CPU` in PyTorch's `c10/core/DeviceType.h`, which events have as "Device Type"."""


def allocations(events: Events) -> Events:
    """Return the events that say what was allocated or released, in the order of time."""
    found = events.take(events.category.equal("cpu_instant_event") & events.name.equal("[memory]"))
    return found.take(np.argsort(found.start_ns, kind="stable"))


def held_bytes(changes: Events) -> Ints:
    """Return what the allocator of each change had given out after it, NONE where it did not say."""
    held = changes.args.get("Total Allocated")
    return np.full(len(changes), NONE) if held is None or isinstance(held, Texts) else held


def peaks(events: Events) -> dict[str, int]:
    """Return the most memory that was allocated at once, by device: `cpu`, `gpu 0`."""
    changes = allocations(events)
    held, found = held_bytes(changes), dict[str, int]()
    for device in np.unique(_devices(changes)).tolist():
        most = int(held[_devices(changes) == device].max())
        if most != NONE:
            found["cpu" if device < 0 else f"gpu {device}"] = most
    return found


def _devices(changes: Events) -> Ints:
    """Return the number of the GPU of each change, -1 for the host's memory."""
    kind, number = changes.args.get("Device Type"), changes.args.get("Device Id")
    if kind is None or number is None or isinstance(kind, Texts) or isinstance(number, Texts):
        return np.where(changes.device == NONE, -1, changes.device)
    return np.where(kind == _CPU, -1, np.maximum(number, 0))


def step_peaks(events: Events, steps: Steps) -> list[int | None]:
    """Return the most memory that was allocated at once in each step, on whichever device it was most."""
    changes = allocations(events)
    held = held_bytes(changes)
    if not len(held) or held.max() == NONE:
        return [None] * len(steps.number)
    # What a step begins with, the change before it told.
    first = np.maximum(np.searchsorted(changes.start_ns, steps.start_ns) - 1, 0)
    last = np.searchsorted(changes.start_ns, steps.end_ns)
    most = [int(held[begin:end].max(initial=NONE)) for begin, end in zip(first.tolist(), last.tolist(), strict=True)]
    return [None if peak == NONE else peak for peak in most]
