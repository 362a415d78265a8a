"""The events of a stretch of time, read without the rest of the profile, at a resolution that a screen can show."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnnamo.profiles.events import NONE, Column, Events, Ints, Texts, nothing
from dnnamo.profiles.file import Source, read_overlapping

__all__ = ["summarised", "window"]

Rows = NDArray[np.intp]

_LINKS = ("parent", "launcher", "forward")

# Columns that merged events have in common, or that are told of all of them together.
_SHARED = ("name", "category", "phase", "process", "thread", "start_ns", "duration_ns", "device", "stream")


def window(source: Source, *, start_ns: int | None = None, end_ns: int | None = None, resolution_ns: int = 0) -> Events:
    """Return the events that overlap a stretch of time.

    Only those parts of the file are read that may hold some. Links between rows lead to rows of the answer; those
    that lead out of it are left out.

    Args:
        source: Bytes or path of a file that `write_events` wrote.
        start_ns: Where the stretch begins, on the profiler's clock; by default with the first event.
        end_ns: Where it ends, itself not part of it; by default after the last event.
        resolution_ns: Events shorter than this are merged, see `summarised`; 0 merges none.
    """
    begin, end = -(2**63) if start_ns is None else start_ns, 2**63 - 1 if end_ns is None else end_ns
    part = read_overlapping(source, begin, end)
    events = part.events if len(part.events) == part.whole else _relinked(part.events, part.rows)
    # The parent is not stored, and what is around an event is in its window too.
    found = events.replace(parent=events.nest().parent)
    return summarised(found, resolution_ns) if resolution_ns > 0 else found


def _relinked(events: Events, numbers: Ints) -> Events:
    """Have the links lead to rows of this table, whose rows had these numbers in the whole one."""
    return events.replace(**{name: _moved(getattr(events, name), numbers) for name in _LINKS})


def _moved(links: Ints, numbers: Ints) -> Ints:
    moved = np.full(len(links), NONE)
    linked = np.flatnonzero(links != NONE)
    if len(linked):
        at = np.minimum(np.searchsorted(numbers, links[linked]), len(numbers) - 1)
        moved[linked] = np.where(numbers[at] == links[linked], at, NONE)
    return moved


def summarised(events: Events, resolution_ns: int) -> Events:
    """Merge the events that are too short to be seen.

    Of those shorter than the resolution, all of one category that start on one thread within the same multiple of it
    become one row: from the first's start to the last's end, with the name that took most time among them. How many
    there were stands in `args["merged"]`, and during how much of that span one of them ran in `args["busy_ns"]`. A
    single one stays as it is.

    Args:
        events: Sorted as `Events` are.
        resolution_ns: Nanoseconds, at least 1.
    """
    short, group = _mergeable(events, resolution_ns)
    heads = short[np.unique(group, return_index=True)[1]]
    stays = np.ones(len(events), bool)
    stays[short] = False
    stays[heads] = True
    rows = np.flatnonzero(stays)
    at = np.searchsorted(rows, heads)
    kept = _blanked(_relinked(events.take(rows), rows), at)
    last = np.full(len(heads), NONE)
    np.maximum.at(last, group, events.end_ns[short])
    said = {"merged": np.bincount(group), "busy_ns": _busy(events, short, group, resolution_ns)}
    return replace(
        kept,
        name=Texts(_put(kept.name.codes, at, _dominant(events, short, group)), kept.name.values),
        duration_ns=_put(kept.duration_ns, at, last - events.start_ns[heads]),
        args={**kept.args, **{name: _put(nothing(len(rows)), at, values) for name, values in said.items()}},
    )


def _mergeable(events: Events, resolution_ns: int) -> tuple[Rows, Rows]:
    """Return the rows that are to be merged, and the number of what each becomes a part of."""
    short = np.flatnonzero(events.duration_ns < resolution_ns)
    stretch = (events.start_ns[short] - events.start_ns.min(initial=0)) // resolution_ns
    kind = np.zeros(len(short), np.int64)
    for column in (events.process, events.thread, events.category, events.phase):
        kind = kind * (len(column.values) + 1) + column.codes[short] + 1
    kind = np.unique(kind, return_inverse=True)[1]  # small numbers, so that the next line does not overflow
    keys = kind * (stretch.max(initial=0) + 1) + stretch
    _, group, count = np.unique(keys, return_inverse=True, return_counts=True)
    is_merged = count[group] > 1
    return short[is_merged], np.unique(group[is_merged], return_inverse=True)[1]


def _put(column: NDArray[Any], rows: Rows, values: NDArray[Any]) -> NDArray[Any]:
    changed = np.array(column)
    changed[rows] = values
    return changed


def _blanked(events: Events, rows: Rows) -> Events:
    """Return the table without what rows say that one of several events has to itself."""
    columns = {name: column for name, column in events.columns.items() if name not in _SHARED}
    blank = {name: _without(column, rows) for name, column in columns.items()}
    args = {name: _without(column, rows) for name, column in events.args.items()}
    return replace(events.replace(**blank), args=args)


def _without(column: Column, rows: Rows) -> Column:
    if isinstance(column, Texts):
        return Texts(_put(column.codes, rows, np.array(-1)), column.values)
    return _put(column, rows, np.array(NONE))


def _busy(events: Events, short: Rows, group: Rows, resolution_ns: int) -> Ints:
    """Return for each group the time during which one of its events ran."""
    order = np.argsort(group, kind="stable")
    rows, numbers = short[order], group[order]
    first = np.unique(numbers, return_index=True)[1]
    # One clock for all groups, on which one's events end before the next one's begin.
    shift = numbers * 2 * resolution_ns - events.start_ns[rows[first]][numbers]
    starts, ends = events.start_ns[rows] + shift, events.end_ns[rows] + shift
    ended = np.maximum.accumulate(np.concatenate([[0], ends]))[:-1]
    busy = np.zeros(len(first), np.int64)
    np.add.at(busy, numbers, np.maximum(ends - np.maximum(starts, ended), 0))
    return busy


def _dominant(events: Events, short: Rows, group: Rows) -> NDArray[np.int32]:
    """Return for each group the code of the name that took most time in it, or comes most often if none took any."""
    names = len(events.name.values) + 1
    keys, inverse = np.unique(group * names + events.name.codes[short] + 1, return_inverse=True)
    weight = np.bincount(inverse, weights=events.duration_ns[short]), np.bincount(inverse)
    order = np.lexsort((-weight[1], -weight[0], keys // names))
    best = keys[order][np.unique(keys[order] // names, return_index=True)[1]]
    return np.asarray(best % names - 1, np.int32)
