"""The call tree of a profile: what ran in what, added up over all calls; for flame graphs and folded stacks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnnamo.profiles.events import NONE, Events, Ints
from dnnamo.profiles.links import DEVICE_WORK, link
from dnnamo.profiles.nesting import Nesting
from dnnamo.profiles.tracks import tracks

__all__ = ["Frame", "call_trees"]

# Spans that repeat when work was done that stands elsewhere, or say when the profiler recorded.
_NO_CALLS = ("gpu_user_annotation", "Trace")

Rows = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]


@dataclass(slots=True, kw_only=True)
class Frame:
    """All calls of one thing by the same chain of callers; times in nanoseconds.

    Attributes:
        name: What was called; of a root, the thread or stream.
        calls: Number of calls; 0 of a root.
        self_ns: Host time in it, without what it called.
        total_ns: Host time with what it called.
        device_ns: Time of the kernels and copies that it launched itself.
        device_total_ns: Time of those that it, or what it called, launched.
        children: What it called, that of the greatest total time first, then that of the greatest device time.
    """

    name: str
    calls: int = 0
    self_ns: int = 0
    total_ns: int = 0
    device_ns: int = 0
    device_total_ns: int = 0
    children: list["Frame"] = field(default_factory=list)

    def stacks(self) -> Iterator[tuple[tuple[str, ...], "Frame"]]:
        """Yield this frame and all below it, each with the names from here down to it."""
        waiting: list[tuple[tuple[str, ...], Frame]] = [((self.name,), self)]
        while waiting:
            path, frame = waiting.pop()
            yield path, frame
            waiting += [((*path, child.name), child) for child in reversed(frame.children)]


def call_trees(events: Events, metadata: Mapping[str, Any]) -> list[Frame]:
    """Return the tree of each host thread, and of each stream that did something which no operation launched.

    The time of what a device did counts where it was launched. Of threads, the self times in a tree add up to the time
    during which anything ran there; the device times in all trees add up to those of all kernels, copies and memsets.

    Args:
        events: The table of a profile; it is linked if it is not yet.
        metadata: What belongs to the profile as a whole.
    """
    if not _is_linked(events):
        events = link(events)
    is_work = events.category.equal(*DEVICE_WORK)
    launched = is_work & (events.launcher != NONE)
    shown = np.flatnonzero(events.phase.equal("X") & ~launched & ~events.category.equal(*_NO_CALLS))
    part = events.take(shown)
    found = tracks(part, metadata)
    root_of = np.repeat(np.arange(len(found)), [track.rows.stop - track.rows.start for track in found])
    nodes = _nodes(part, part.nest(), root_of, len(found))
    return _frames([track.name for track in found], part, nodes, _device_ns(events, shown, launched))


def _is_linked(events: Events) -> bool:
    return any((links != NONE).any() for links in (events.parent, events.launcher))


def _device_ns(events: Events, shown: Rows, launched: Mask) -> Ints:
    """Return for each row that is shown the time of what it launched, or its own where it is work of a device."""
    took = np.zeros(len(events), np.int64)
    np.add.at(took, events.launcher[launched], events.duration_ns[launched])
    own = events.category.equal(*DEVICE_WORK) & ~launched
    took[own] = events.duration_ns[own]
    return took[shown]


@dataclass(frozen=True, slots=True)
class _Nodes:
    """The nodes of the trees, numbered so that a node comes after its parent; the roots come first.

    Attributes:
        of_row: Node of each row.
        parent: Parent of each node below the roots.
        name: Code of the name of each node below the roots.
        self_ns: Host time of each row, without what ran in it.
    """

    of_row: Rows
    parent: Rows
    name: Rows
    self_ns: Ints


def _nodes(part: Events, nesting: Nesting, root_of: Rows, roots: int) -> _Nodes:
    """Find the nodes, a level of the trees at a time."""
    of_row = np.zeros(len(part), np.intp)
    count, width = roots, len(part.name.values) + 1
    levels: list[Rows] = [np.arange(0)]
    for rows in nesting.levels:
        parent = nesting.parent[rows]
        above: Rows = np.where(parent == NONE, root_of[rows], of_row[np.maximum(parent, 0)])
        keys, inverse = np.unique(above * width + part.name.codes[rows] + 1, return_inverse=True)
        of_row[rows] = count + inverse
        levels.append(keys)
        count += len(keys)
    keys = np.concatenate(levels)
    return _Nodes(of_row, keys // width, keys % width - 1, nesting.self_ns())


def _frames(roots: list[str], part: Events, nodes: _Nodes, device_ns: Ints) -> list[Frame]:
    """Add up the rows of each node, and put the frames together."""
    is_host = ~part.category.equal(*DEVICE_WORK)
    values = {
        "calls": np.ones(len(part), np.int64),
        "self_ns": nodes.self_ns * is_host,
        "total_ns": part.duration_ns * is_host,
        "device_ns": device_ns,
        "device_total_ns": device_ns,
    }
    names = [*part.name.values, ""]
    frames = [Frame(name=name) for name in roots + [names[code] for code in nodes.name.tolist()]]
    for name, column in values.items():
        sums = np.zeros(len(frames), np.int64)
        np.add.at(sums, nodes.of_row, column)
        for frame, value in zip(frames, sums.tolist(), strict=True):
            setattr(frame, name, value)
    _put_together(frames, nodes.parent.tolist(), len(roots))
    return frames[: len(roots)]


def _put_together(frames: list[Frame], parents: list[int], roots: int) -> None:
    """Hang each frame below its parent; backwards, so that it has all of its own by then."""
    for frame, parent in zip(reversed(frames[roots:]), reversed(parents), strict=True):
        frame.children.sort(key=lambda child: (-child.total_ns, -child.device_total_ns, child.name))
        frames[parent].children.append(frame)
        frames[parent].device_total_ns += frame.device_total_ns
    for root in frames[:roots]:
        root.children.sort(key=lambda child: (-child.total_ns, -child.device_total_ns, child.name))
        root.total_ns = sum(child.total_ns for child in root.children)
