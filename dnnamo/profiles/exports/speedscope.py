"""Speedscope's own JSON: one evented profile for each thread and stream.

The form is that of https://www.speedscope.app/file-format-schema.json (`src/lib/file-format-spec.ts` there). Frames
must close in the reverse order of their opening, so events that overlap others on their thread stand in a profile of
their own beside it. Moments and counters have no place in it and are left out.
"""

from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import msgspec
import numpy as np

from dnnamo.profiles.events import Events
from dnnamo.profiles.lanes import lanes
from dnnamo.profiles.tracks import tracks

__all__ = ["write"]

_SCHEMA = "https://www.speedscope.app/file-format-schema.json"


def write(events: Events, metadata: Mapping[str, Any], file: BinaryIO) -> None:
    """Write a profile for speedscope; its times are nanoseconds from the first event."""
    spans = events.take(events.phase.equal("X"))
    begin = int(spans.start_ns.min(initial=2**63 - 1))
    frames = [{"name": name} for name in [*spans.name.values, ""]]
    head = {
        "$schema": _SCHEMA,
        "exporter": "dnnamo",
        "name": str(metadata.get("source", "")),
        "shared": {"frames": frames},
    }
    file.write(msgspec.json.encode(head)[:-1] + b',"profiles":[')
    for number, (name, lane) in enumerate(_lanes(spans, metadata)):
        file.write(b"," if number else b"")
        file.writelines(_profile(name, lane, begin))
    file.write(b"]}")


def _lanes(spans: Events, metadata: Mapping[str, Any]) -> Iterator[tuple[str, Events]]:
    """Yield the events of each track, lane by lane."""
    for track in tracks(spans, metadata):
        part = spans.take(np.arange(track.rows.start, track.rows.stop))
        lane = lanes(part)
        for number in range(int(lane.max()) + 1):
            yield f"{track.name}, lane {number + 1}" if number else track.name, part.take(lane == number)


def _profile(name: str, lane: Events, begin: int) -> Iterator[bytes]:
    ends = lane.end_ns - begin
    head = {
        "type": "evented",
        "name": name,
        "unit": "nanoseconds",
        "startValue": int(lane.start_ns[0]) - begin,
        "endValue": int(ends.max()),
    }
    yield msgspec.json.encode(head)[:-1] + b',"events":['
    marks = _events(lane.name.codes.tolist(), (lane.start_ns - begin).tolist(), ends.tolist())
    yield next(marks)
    for mark in marks:
        yield b","
        yield mark
    yield b"]}"


def _events(frames: list[int], starts: list[int], ends: list[int]) -> Iterator[bytes]:
    """Yield the opening and the closing of each frame, in the order of time."""
    around: list[tuple[int, int]] = []
    for frame, start, end in zip(frames, starts, ends, strict=True):
        while around and around[-1][1] <= start:
            yield _mark(b"C", *around.pop())
        yield _mark(b"O", frame, start)
        around.append((frame, end))
    while around:
        yield _mark(b"C", *around.pop())


def _mark(kind: bytes, frame: int, at: int) -> bytes:
    return b'{"type":"%s","frame":%d,"at":%d}' % (kind, frame, at)
