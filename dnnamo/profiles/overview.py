"""A profile at a glance: for each thread and stream, and each column of time, how busy it was and with what most."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dnnamo.profiles.events import NONE, Events, Ints
from dnnamo.profiles.intervals import ran_ns
from dnnamo.profiles.links import is_step
from dnnamo.profiles.tracks import Track, tracks

__all__ = ["TrackView", "overview", "step_columns"]

# What stands around operations and says nothing of how busy a thread was.
_MARKS = ("layer", "step", "python_function", "gpu_user_annotation")

_RECORDING = "Trace"
"""Category of Kineto's spans that say when it recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackView:
    """What one track did.

    Attributes:
        track: The track.
        busy: Fraction of each column's time during which anything ran.
        dominant: Name of what ran for the most of it itself, None where nothing ran.
    """

    track: Track
    busy: list[float]
    dominant: list[str | None]

    @property
    def busy_share(self) -> float:
        """Fraction of the whole time during which anything ran."""
        return float(np.mean(self.busy)) if self.busy else 0.0


def overview(
    events: Events, metadata: Mapping[str, Any], *, start_ns: int, end_ns: int, columns: int
) -> list[TrackView]:
    """Return what each track did that did anything, in the order of the rows.

    Steps, layers and Python functions count only on tracks that have nothing else.

    Args:
        events: The events of that time.
        metadata: What belongs to the profile as a whole.
        start_ns: Where the first column begins, on the clock of the events.
        end_ns: Where the last one ends.
        columns: Number of columns, at least 1.
    """
    edges = _edges(start_ns, end_ns, columns)
    is_span = events.phase.equal("X") & (events.duration_ns > 0) & ~events.category.equal(_RECORDING)
    is_mark = events.category.equal(*_MARKS) | is_step(events)
    found = []
    for track in tracks(events, metadata):
        spans = np.arange(track.rows.start, track.rows.stop)[is_span[track.rows]]
        work = spans[~is_mark[spans]]
        view = _view(track, events.take(work if len(work) else spans), edges)
        if any(view.busy):
            found.append(view)
    return found


def step_columns(events: Events, *, start_ns: int, end_ns: int, columns: int) -> dict[int, str]:
    """Return the name of the step that starts in a column, by the column."""
    marks = events.take(is_step(events) & (events.start_ns >= start_ns) & (events.start_ns < end_ns))
    at = np.searchsorted(_edges(start_ns, end_ns, columns), marks.start_ns, side="right") - 1
    names = [(name or "").rpartition("#")[2] for name in marks.name.to_list()]
    return dict(zip(at.tolist(), names, strict=True))


def _edges(start_ns: int, end_ns: int, columns: int) -> Ints:
    return np.array([start_ns + (end_ns - start_ns) * column // columns for column in range(columns + 1)], np.int64)


def _view(track: Track, part: Events, edges: Ints) -> TrackView:
    width = np.maximum(np.diff(edges), 1)
    busy = np.minimum(np.diff(_busy_until(part, edges)) / width, 1.0)
    return TrackView(track=track, busy=busy.tolist(), dominant=_dominant(part, edges))


def _busy_until(part: Events, moments: Ints) -> Ints:
    """Return for how long anything had run by each moment."""
    order = np.argsort(part.start_ns, kind="stable")
    start, ran = part.start_ns[order], ran_ns(part.start_ns[order], part.end_ns[order])
    if not len(start):
        return np.zeros(len(moments), np.int64)
    before = np.concatenate([[0], np.cumsum(ran)])
    begun = np.searchsorted(start, moments, side="right")
    last = np.maximum(begun - 1, 0)
    still = np.clip(start[last] + ran[last] - moments, 0, None)
    return np.where(begun > 0, before[begun] - still, 0)


def _dominant(part: Events, edges: Ints) -> list[str | None]:
    """Return for each column the name of what ran itself for the most of it."""
    moments, innermost = _innermost(part)
    at_edge = np.searchsorted(moments, edges, side="right") - 1
    of_edge = np.where(at_edge >= 0, innermost[at_edge], NONE) if len(moments) else np.full(len(edges), NONE)
    whole = np.concatenate([moments, edges])
    order = np.argsort(whole, kind="stable")
    whole, row = whole[order], np.concatenate([innermost, of_edge])[order]
    length, column = np.diff(whole), (np.searchsorted(edges, whole, side="right") - 1)[:-1]
    runs = np.flatnonzero((row[:-1] != NONE) & (column >= 0) & (column < len(edges) - 1))
    return _greatest(part, column[runs], row[:-1][runs], length[runs], len(edges) - 1)


def _innermost(part: Events) -> tuple[Ints, Ints]:
    """Return the moments at which the innermost event that runs becomes another, and its row from then on."""
    nesting = part.nest()
    end = part.end_ns.copy()
    for rows in nesting.inner_levels:  # of what outlasts the event around it, the rest counts for nothing
        end[rows] = np.minimum(end[rows], end[nesting.parent[rows]])
    moments = np.concatenate([end, part.start_ns])
    opens = np.repeat([0, 1], len(part))
    order = np.lexsort((np.concatenate([-nesting.depth, nesting.depth]), opens, moments))
    return moments[order], np.concatenate([nesting.parent, np.arange(len(part))])[order]


def _greatest(part: Events, column: Ints, row: Ints, length: Ints, columns: int) -> list[str | None]:
    names = [*part.name.values, ""]
    keys, inverse = np.unique(column * len(names) + part.name.codes[row] + 1, return_inverse=True)
    took = np.bincount(inverse, weights=length, minlength=len(keys))
    found: list[str | None] = [None] * columns
    for key in keys[np.argsort(took, kind="stable")].tolist():  # of each column the greatest comes last
        found[key // len(names)] = names[key % len(names) - 1]
    return found
