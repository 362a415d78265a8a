"""The threads and streams of an event table, with the names that people know them by."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnnamo.profiles.events import NONE, Events
from dnnamo.profiles.links import DEVICE_WORK

__all__ = ["Track", "tracks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """One thread of a process, or one stream of a device.

    Attributes:
        name: What people call it, another one for each track of a table.
        process: Process or device, as the source identifies it.
        thread: Thread or stream, likewise.
        is_device: Whether a device worked on it.
        rows: Its rows in the table, which lie together.
    """

    name: str
    process: str
    thread: str
    is_device: bool
    rows: slice


def tracks(events: Events, metadata: Mapping[str, Any]) -> list[Track]:
    """Return the tracks of a table in the order of its rows.

    Args:
        events: Any table, or a window of one.
        metadata: What belongs to its profile as a whole; the names stand in `header`, `tracks`.
    """
    named = _names(metadata.get("header", {}).get("tracks", []))
    work = np.flatnonzero(events.category.equal(*DEVICE_WORK))
    bounds = [*events.thread_starts.tolist(), len(events)]
    return _told_apart([_track(events, slice(*pair), work, named) for pair in pairwise(bounds)])


_Names = Mapping[tuple[str, str | None], str]


def _names(marks: Sequence[Mapping[str, Any]]) -> _Names:
    """Return the names of processes (by process, None) and of threads (by process, thread) in Chrome's metadata."""
    found: dict[tuple[str, str | None], str] = {}
    for mark in marks:
        name = str(mark.get("args", {}).get("name", ""))
        if name and mark.get("name") in ("process_name", "thread_name"):
            thread = str(mark.get("tid")) if mark["name"] == "thread_name" else None
            found[str(mark.get("pid")), thread] = name
    return found


def _track(events: Events, rows: slice, work: NDArray[np.intp], named: _Names) -> Track:
    process, thread = events.process[rows.start] or "", events.thread[rows.start] or ""
    first_work = work[np.searchsorted(work, rows.start) :][:1]
    is_device = bool((first_work < rows.stop).any())
    name = _stream(events, int(first_work[0])) if is_device else named.get((process, thread), f"thread {thread}")
    return Track(name=name, process=process, thread=thread, is_device=is_device, rows=rows)


def _stream(events: Events, row: int) -> str:
    numbers = {"device": events.device[row], "stream": events.stream[row]}
    return " ".join(f"{kind} {number}" for kind, number in numbers.items() if number != NONE)


def _told_apart(found: Sequence[Track]) -> list[Track]:
    """Give the tracks that share a name longer ones."""
    counts = Counter(track.name for track in found)
    return [
        track if counts[track.name] == 1 else replace(track, name=f"{track.name} ({track.process} {track.thread})")
        for track in found
    ]
