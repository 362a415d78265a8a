"""Times of events that lie within each other, as the gaps between neighbouring borders.

A border is the start or the end of an event. The depth of each event puts the borders of all in an order: an event's
start, the borders of what is in it, its end. The gap before a border is its time less that of the border before it,
below 0 where events overlap. Gaps are a fraction of the times' size, those of one kind of event are alike, and they
give back any times exactly, as their sums wrap around where their differences did.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnnamo.profiles.columns import Ints

__all__ = ["Gaps", "gaps_of", "order_of", "times_of"]

Rows = NDArray[np.intp]


class Gaps(NamedTuple):
    """Times of events, each column a value an event.

    Attributes:
        closed: How many events ended since the start of the one before.
        before_start: Nanoseconds from the border before its start.
        before_end: Nanoseconds from the border before its end.
    """

    closed: Ints
    before_start: Ints
    before_end: Ints


def gaps_of(start: Ints, end: Ints, depth: Ints) -> Gaps:
    """Return the times of some events as gaps.

    Args:
        start: When each began, in nanoseconds; any values come back, those of sorted events are small as gaps.
        end: When each ended.
        depth: Number of events around each, at least 0. Where the first is not the outermost, as in a piece of a
            table, it is taken for it, and those around the next ones that are not there for events before them.
    """
    depth = _complete(depth)
    starts, ends = _borders(depth)
    times = np.empty(2 * len(depth), np.int64)
    times[starts], times[ends] = start, end
    gaps = np.diff(times, prepend=0)
    return Gaps(1 - np.diff(depth, prepend=-1), gaps[starts], gaps[ends])


def times_of(gaps: Gaps) -> tuple[Ints, Ints]:
    """Return when the events began and ended of which `gaps_of` gave the gaps."""
    starts, ends = _borders(np.cumsum(1 - gaps.closed) - 1)
    between = np.empty(2 * len(starts), np.int64)
    between[starts], between[ends] = gaps.before_start, gaps.before_end
    times = np.cumsum(between)
    return times[starts], times[ends]


def order_of(numbers: NDArray[np.integer]) -> Rows:
    """Return the order that sorts numbers from 0 up, equal ones as they come."""
    # Numbers of 16 bits are sorted by radix, ten times as fast.
    is_short = numbers.max(initial=0) < 2**16
    return np.argsort(numbers.astype(np.uint16) if is_short else numbers, kind="stable")


def _complete(depth: Ints) -> Ints:
    """Return the greatest depths up to these that begin with 0 and never grow by more than 1."""
    number = np.arange(len(depth))
    ahead = depth - number
    ahead[:1] = 0
    return np.minimum.accumulate(ahead) + number


def _borders(depth: Ints) -> tuple[Rows, Rows]:
    """Return where the starts of the events come among all borders, and where their ends."""
    starts = 2 * np.arange(len(depth)) - depth  # after the starts of those before it, and the ends of all but `depth`
    is_start = np.zeros(2 * len(depth), bool)
    is_start[starts] = True
    level = np.cumsum(np.where(is_start, 1, -1)) - is_start
    pairs = order_of(level)  # on each level starts and ends take turns
    end_of = np.empty(2 * len(depth), np.intp)
    end_of[pairs[::2]] = pairs[1::2]
    return starts, end_of[starts]
