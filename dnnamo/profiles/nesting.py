"""Which event ran in which, and how long it ran itself: exact, and by whole columns wherever events nest properly."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnnamo.profiles.columns import NONE, Ints

__all__ = ["Nesting", "nest"]

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Nesting:
    """How events lie within each other.

    Attributes:
        start_ns: Start of each event.
        end_ns: End of each event.
        parent: Row of the innermost event on the same thread in which each event started, NONE outside of all.
        depth: Number of events around each event.
        overlaps: Rows that ended after the event that they started in.
    """

    start_ns: Ints
    end_ns: Ints
    parent: Ints
    depth: Ints
    overlaps: Rows

    @cached_property
    def levels(self) -> list[Rows]:
        """Rows by depth, the outermost first."""
        return _levels(self.depth)

    @property
    def inner_levels(self) -> list[Rows]:
        """Rows by depth that have a parent, the outermost first."""
        return self.levels[1:]

    def self_ns(self) -> Ints:
        """Return each event's time outside of the events nested in it.

        An event that outlasts the one it starts in takes the time up to that one's end from it, and the rest from the
        next outer one. So the self times add up to the time during which any of the events ran.
        """
        own = self.end_ns - self.start_ns
        tidy = self.parent != NONE
        tidy[self.overlaps] = False
        np.subtract.at(own, self.parent[tidy], (self.end_ns - self.start_ns)[tidy])
        for row in self.overlaps.tolist():
            self._take_from_outer(row, own)
        return own

    def _take_from_outer(self, row: int, own: Ints) -> None:
        taken, parent, end = self.start_ns[row], self.parent[row], self.end_ns[row]
        while parent != NONE and taken < end:
            until = min(end, self.end_ns[parent])
            if until > taken:
                own[parent] -= until - taken
                taken = until
            parent = self.parent[parent]

    def with_nested(self, values: Ints) -> Ints:
        """Return each event's value plus those of all events in it."""
        whole = values.copy()
        for rows in reversed(self.inner_levels):
            np.add.at(whole, self.parent[rows], whole[rows])
        return whole

    def greatest_nested(self, values: Ints) -> Ints:
        """Return the greatest of each event's value and those of all events in it; NONE counts as least."""
        whole = values.copy()
        for rows in reversed(self.inner_levels):
            np.maximum.at(whole, self.parent[rows], whole[rows])
        return whole

    def inherited(self, codes: NDArray[Any]) -> NDArray[Any]:
        """Return each event's code, or where it has none (below 0) that of the innermost event around it with one."""
        whole = codes.copy()
        for rows in self.inner_levels:
            missing = rows[whole[rows] < 0]
            whole[missing] = whole[self.parent[missing]]
        return whole


def nest(start: Ints, end: Ints, track: Ints) -> Nesting:
    """Find out how events lie within each other, each thread by itself.

    Args:
        start: When each began, in nanoseconds; sorted by thread, start, and descending end.
        end: When each ended. What has no duration holds nothing.
        track: Number of the thread of each, ascending.
    """
    parent, depth = _nest_tidy(*_one_after_the_other(start, end, track))
    overlaps = _overlaps(end, parent)
    for number in np.unique(track[overlaps]).tolist():
        _nest_untidy(np.flatnonzero(track == number), start, end, parent, depth)
    return Nesting(start, end, parent, depth, _overlaps(end, parent) if len(overlaps) else overlaps)


def _overlaps(end: Ints, parent: Ints) -> Rows:
    inner = np.flatnonzero(parent != NONE)
    return inner[end[inner] > end[parent[inner]]]


def _one_after_the_other(start: Ints, end: Ints, track: Ints) -> tuple[Ints, Ints]:
    """Return the times on one clock, on which the events of each thread come after those of the one before."""
    if not len(start):
        return start, end
    span = int(end.max()) - int(start.min()) + 1
    if span * (int(track[-1]) + 1) >= 2**62:  # times that make no sense; their order is all that matters here
        ranks = np.unique(np.concatenate([start, end]), return_inverse=True)[1].reshape(2, -1)
        start, end, span = ranks[0], ranks[1], int(ranks.max()) + 1
    shift = track * span - start.min()
    return start + shift, end + shift


def _nest_tidy(start: Ints, end: Ints) -> tuple[Ints, Ints]:
    """Return parents and depths, right for each thread that has no event which overlaps another."""
    parent = np.full(len(start), NONE)
    depth = np.zeros(len(start), np.int64)
    long = np.flatnonzero(end > start)
    # All that has ended by an event's start began before it, so what is left of those that began is around it.
    ended = np.searchsorted(np.sort(end[long]), start[long], side="right")
    depth[long] = np.maximum(np.arange(len(long)) - ended, 0)
    parent[long] = _last_one_higher(long, depth[long])
    _place_short(np.flatnonzero(end <= start), start, end, long, parent, depth)
    return parent, depth


def _levels(depth: Ints) -> list[Rows]:
    """Return the rows of each depth, in their order."""
    if not len(depth):
        return []
    # Numbers of 16 bits are sorted by radix, ten times as fast.
    order = np.argsort(depth.astype(np.uint16) if depth.max() < 2**16 else depth, kind="stable")
    return np.split(order, np.cumsum(np.bincount(depth))[:-1])


def _last_one_higher(rows: Rows, depth: Ints) -> Ints:
    """Return for each row the last one before it whose depth is less by one."""
    found = np.full(len(rows), NONE)
    for outer, inner in pairwise(_levels(depth)):
        at = np.searchsorted(outer, inner) - 1
        found[inner] = rows[outer[at]]
    return found


def _place_short(short: Rows, start: Ints, end: Ints, long: Rows, parent: Ints, depth: Ints) -> None:
    """Find the parents of moments: the event that began last, or the first around it that has not ended."""
    if not len(short) or not len(long):
        return
    at = np.searchsorted(start[long], start[short], side="right") - 1
    candidate = np.where(at >= 0, long[at], NONE)
    open_ = candidate != NONE
    while open_.any():
        ended = open_.copy()
        ended[open_] = end[candidate[open_]] <= start[short[open_]]
        candidate[ended] = parent[candidate[ended]]
        open_ = ended & (candidate != NONE)
    parent[short] = candidate
    inner = candidate != NONE
    depth[short[inner]] = depth[candidate[inner]] + 1


def _nest_untidy(rows: Rows, start: Ints, end: Ints, parent: Ints, depth: Ints) -> None:
    """Do the events of one thread one by one."""
    around: list[int] = []
    starts, ends = start[rows].tolist(), end[rows].tolist()
    parents: list[int] = []
    depths: list[int] = []
    for at, begin in enumerate(starts):
        while around and ends[around[-1]] <= begin:
            around.pop()
        parents.append(around[-1] if around else -1)
        depths.append(depths[around[-1]] + 1 if around else 0)
        if ends[at] > begin:
            around.append(at)
    found = np.array(parents)
    parent[rows] = np.where(found < 0, NONE, rows[found])
    depth[rows] = depths
