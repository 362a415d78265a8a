"""Chrome's trace events, as Perfetto, TensorBoard, chrome://tracing and HolisticTraceAnalysis read them.

What the reader took from a file is written under its old names, so that reading it again gives the same table to the
nanosecond. Arrows from launches to kernels and from forward operations to backward ones are made anew from the ids and
links. Events that overlap others of their thread without nesting get lanes of their own next to it, as viewers drop or
cut such slices (google/perfetto#4280); so do threads whose numbers have more than the 32 bits that Perfetto keeps of
them. A note in such events lets the reader put them back. Times too long for a float, as Unix times are, count from the
first event on: viewers would round them to a quarter of a microsecond, and drop slices that then overlap.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from dnnamo.profiles.events import NONE, Column, Events, Ints, Texts
from dnnamo.profiles.lanes import lanes
from dnnamo.profiles.links import DEVICE_WORK, RUNTIME
from dnnamo.profiles.readers.chrome import ALL, BESIDE, LANE, LAYER, MOVED, NAMES, NULL, SOURCE, THREAD
from dnnamo.profiles.readers.growing import EXACT_US

__all__ = ["write"]

_ROWS = 1 << 13
_FIRST_LANE = 900_000_000
_FIELDS = {column: name for name, column in NAMES.items() if name != "Bytes"}
_MEMORY = "[memory]"


def write(events: Events, metadata: Mapping[str, Any], file: BinaryIO) -> None:
    """Write a profile as a Chrome trace.

    Args:
        events: The table; without links there are no arrows from forward to backward operations.
        metadata: `source`, `base_ns` and `header`, as the reader gave them.
        file: Opened for writing bytes.
    """
    moved = _moved_ns(events)
    header = _header(metadata, moved)
    named = header.pop("tracks", [])
    tracks, lanes_named = _lanes(events, _thread_names(named))
    marks = [*named, *lanes_named]
    file.write(msgspec.json.encode(header)[:-1])
    file.write(b',"traceEvents":[\n')
    rows = _Rows(events, tracks, moved)
    written = False
    for lines in _texts(rows, marks):
        if lines:
            file.write((",\n" if written else "").encode() + ",\n".join(lines).encode())
            written = True
    file.write(b"\n]}\n")


def _moved_ns(events: Events) -> int:
    """Return how much earlier times are written."""
    if not len(events):
        return 0
    first, last = int(events.start_ns.min()), int(events.end_ns.max())
    return first if max(-first, last) >= 1000 * EXACT_US else 0


def _header(metadata: Mapping[str, Any], moved: int) -> dict[str, Any]:
    header = dict(metadata.get("header") or {})
    if base := metadata.get("base_ns"):
        header.setdefault("baseTimeNanoseconds", base)
    if moved:
        header |= {"baseTimeNanoseconds": (base or 0) + moved, MOVED: moved}
    # HolisticTraceAnalysis tells files apart by the rank in them.
    header.setdefault("distributedInfo", {"rank": 0})
    header[SOURCE] = metadata.get("source", "")
    return header


def _texts(rows: "_Rows", marks: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """Return the events as lines, some thousand at a time."""
    for first in range(0, len(rows.events), _ROWS):
        yield rows.lines(np.arange(first, min(first + _ROWS, len(rows.events))))
    yield from rows.arrows("ac2g", *_launches(rows.events))
    yield from rows.arrows("fwdbwd", *_backward(rows.events))
    yield [msgspec.json.encode(mark).decode() for mark in marks]


class _Rows:
    """The rows of a table as JSON."""

    def __init__(self, events: Events, tracks: Texts, moved: int) -> None:
        self.events = events
        self._start_ns = events.start_ns - moved
        self._process, self._thread = _ids(events.process, "pid"), _ids(tracks, "tid")
        self._tracks = tracks
        self._names = [f',"name":{_json(name)}' for name in events.name.values] + [""]
        self._kinds = events.category.codes.astype(np.int64) * (len(events.phase.values) + 1) + events.phase.codes
        moved = tracks.codes != events.thread.codes
        notes = {THREAD: Texts(np.where(moved, events.thread.codes, -1).astype(np.int32), events.thread.values)}
        self._columns = _fragments({**_named(events), **notes})

    def lines(self, rows: Ints) -> list[str]:
        """Return a JSON object for each of these rows, which lie together."""
        lines: NDArray[np.object_] = np.empty(len(rows), np.object_)
        kinds = self._kinds[rows]
        for kind in np.unique(kinds).tolist():
            at = np.flatnonzero(kinds == kind)
            lines[at] = self._of_one_kind(rows[at])
        return list(lines)

    def _of_one_kind(self, rows: Ints) -> list[str]:
        """Return the lines of rows that have the category and the phase in common."""
        events = self.events
        category, phase = events.category[rows[0]], events.phase[rows[0]] or "X"
        start = f'{{"ph":{_json(phase)}' + (f',"cat":{_json(category)}' if category is not None else "")
        times = _microseconds(self._start_ns[rows])
        spans = _microseconds(events.duration_ns[rows]) if phase == "X" else [""] * len(rows)
        dur = ',"dur":' if phase == "X" else ""
        beside, args = self._rest(rows, phase)
        places = zip(self._places(rows), times, spans, beside, args, strict=True)
        return [f'{start}{place},"ts":{ts}{dur}{span}{more}{inner}}}' for place, ts, span, more, inner in places]

    def _places(self, rows: Ints) -> list[str]:
        events, names, process, thread = self.events, self._names, self._process, self._thread
        codes = (events.name.codes[rows], events.process.codes[rows], self._tracks.codes[rows])
        every = zip(*(each.tolist() for each in codes), strict=True)
        return [names[name] + process[pid] + thread[tid] for name, pid, tid in every]

    def _rest(self, rows: Ints, phase: str) -> tuple[list[str], list[str]]:
        """Return for each row what stands beside the fields that all have, and its arguments."""
        beside: list[list[str]] = []
        args: list[list[str]] = []
        for column in self._columns:
            texts = column.of(rows)
            if texts is not None:
                (beside if phase != "X" and column.name in BESIDE else args).append(texts)
        inner = [f',"args":{{{text[1:]}}}' if text else "" for text in _joined(args, len(rows))]
        return _joined(beside, len(rows)), inner

    def arrows(self, name: str, ids: Ints, sources: Ints, targets_ids: Ints, targets: Ints) -> Iterator[list[str]]:
        """Return both parts of each arrow."""
        for letter, numbers, rows, end in (("s", ids, sources, ""), ("f", targets_ids, targets, ',"bp":"e"')):
            start = f'{{"ph":"{letter}","cat":"{name}","name":"{name}"{end}'
            for first in range(0, len(rows), _ROWS):
                part = rows[first : first + _ROWS]
                times = _microseconds(self._start_ns[part])
                pids = [self._process[code] for code in self.events.process.codes[part].tolist()]
                tids = [self._thread[code] for code in self._tracks.codes[part].tolist()]
                every = zip(numbers[first : first + _ROWS].tolist(), pids, tids, times, strict=True)
                yield [f'{start},"id":{number}{pid}{tid},"ts":{ts}}}' for number, pid, tid, ts in every]


class _Fragment:
    """A column as pieces of JSON objects, a comma before each."""

    def __init__(self, name: str, column: Column, texts: list[str] | None = None) -> None:
        self.name = name
        self._column = column
        self._texts = texts

    def of(self, rows: Ints) -> list[str] | None:
        """Return the piece of each row, "" for rows without a value; None if none has one."""
        if isinstance(self._column, Texts):
            codes = self._column.codes[rows]
            texts = self._texts or []
            return [texts[code] for code in codes.tolist()] if (codes >= 0).any() else None
        numbers = self._column[rows]
        if (numbers == NONE).all():
            return None
        start = f",{_json(self.name)}:"
        return [start + str(number) if number != NONE else "" for number in numbers.tolist()]


def _fragments(columns: Mapping[str, Column]) -> list[_Fragment]:
    return [
        _Fragment(name, column, [*map(_fragment_of(name), column.values), ""])
        if isinstance(column, Texts)
        else _Fragment(name, column)
        for name, column in columns.items()
    ]


def _fragment_of(name: str) -> Any:
    if name == ALL:
        return lambda value: f",{value[1:-1]}" if len(value) > 2 else ""
    start = f",{_json(name.removesuffix(NULL))}:"
    if name in (LAYER, THREAD):
        return lambda value: start + _json(value)
    return lambda value: start + value


def _named(events: Events) -> dict[str, Column]:
    """Return what goes into arguments by the name that it has there."""
    named: dict[str, Column] = {}
    for column, name in _FIELDS.items():
        named[name] = getattr(events, column)
    is_memory = events.name.equal(_MEMORY)
    if is_memory.any():
        named["Bytes"] = np.where(is_memory, events.bytes, NONE)
        named["bytes"] = np.where(is_memory, NONE, events.bytes)
    named[LAYER] = events.layer
    return {**named, **{name: _added(named, name, column) for name, column in events.args.items()}}


def _added(named: Mapping[str, Column], name: str, column: Column) -> Column:
    """Return a column that only has what its namesake does not, and that one's."""
    if name not in named:
        return column
    return _merged(named[name], column)


def _merged(first: Column, second: Column) -> Column:
    texts = [_as_json(first), _as_json(second)]
    whole = Texts.concat(texts)
    codes = whole.codes.reshape(2, -1)
    return Texts(np.where(codes[0] >= 0, codes[0], codes[1]), whole.values)


def _as_json(column: Column) -> Texts:
    if isinstance(column, Texts):
        return column
    values, codes = np.unique(column, return_inverse=True)
    return Texts(np.where(column == NONE, -1, codes).astype(np.int32), [*map(str, values.tolist())])


def _joined(columns: list[list[str]], count: int) -> list[str]:
    if not columns:
        return [""] * count
    return [*map("".join, zip(*columns, strict=True))] if len(columns) > 1 else columns[0]


def _microseconds(ns: Ints) -> list[str]:
    """Return microseconds with three decimals, which are exact."""
    whole, rest = np.divmod(np.abs(ns), 1000)
    signs = ["-" if negative else "" for negative in (ns < 0).tolist()] if (ns < 0).any() else None
    texts = [f"{us}.{part:03}" for us, part in zip(whole.tolist(), rest.tolist(), strict=True)]
    return texts if signs is None else [*map(str.__add__, signs, texts)]


def _json(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _ids(column: Texts, name: str) -> list[str]:
    return [f',"{name}":{text if _is_number(text) else _json(text)}' for text in column.values] + [""]


def _is_number(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdecimal() and len(digits) < 19 and str(int(text)) == text


def _thread_names(tracks: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """Return what metadata events call threads, by process and thread."""
    names = {}
    for track in tracks:
        args = track.get("args")
        if track.get("name") == "thread_name" and isinstance(args, dict) and "name" in args:
            names[str(track.get("pid")), str(track.get("tid"))] = str(args["name"])
    return names


def _lanes(events: Events, names: Mapping[tuple[str, str], str]) -> tuple[Texts, list[dict[str, Any]]]:
    """Return the thread that each event is drawn on, and the metadata events that name those which are new.

    The codes are those of the events' threads, which the new ones come after.
    """
    drawn, values = events.thread.codes.copy(), list(events.thread.values)
    marks: list[dict[str, Any]] = []
    is_span = events.phase.equal("X") & (events.thread.codes >= 0)
    for rows in _tracks(events):
        spans = rows[is_span[rows]]
        numbers = lanes(events.take(spans))
        process, thread = events.process[rows[0]], events.thread[rows[0]] or ""
        name = names.get((process or "", thread), thread)
        overlapping = range(1, int(numbers.max(initial=0)) + 1)
        new = [(f"{name} (overlapping, {number})", spans[numbers == number]) for number in overlapping]
        if not _has_32_bits(thread):
            new.insert(0, (name, rows))  # at first, as it takes all events of the thread along
        for lane_name, moved in new:
            lane = _new_lane(values)
            drawn[moved] = len(values)
            values.append(str(lane))
            marks.append(_mark(process, lane, lane_name))
    return Texts(drawn, values), marks


def _has_32_bits(thread: str) -> bool:
    return not thread.removeprefix("-").isdecimal() or abs(int(thread)) < 2**31


def _tracks(events: Events) -> Iterable[NDArray[np.intp]]:
    """Return the rows of each thread."""
    return np.split(np.arange(len(events)), events.thread_starts[1:]) if len(events) else []


def _new_lane(threads: list[str]) -> int:
    lane = _FIRST_LANE + len(threads)
    while str(lane) in threads:
        lane += 1
    return lane


def _mark(process: str | None, lane: int, name: str) -> dict[str, Any]:
    place = {"ph": "M", "pid": int(process) if process and _is_number(process) else process, "tid": lane}
    return {**place, "name": "thread_name", "args": {"name": name, LANE: True}}


def _launches(events: Events) -> tuple[Ints, Ints, Ints, Ints]:
    """Return ids and rows of the calls that launched something, and of what they launched."""
    has_id = events.correlation != NONE
    calls = np.flatnonzero(events.category.equal(*RUNTIME) & has_id)
    work = np.flatnonzero(events.category.equal(*DEVICE_WORK) & has_id)
    calls = calls[np.isin(events.correlation[calls], events.correlation[work])]
    work = work[np.isin(events.correlation[work], events.correlation[calls])]
    return events.correlation[calls], calls, events.correlation[work], work


def _backward(events: Events) -> tuple[Ints, Ints, Ints, Ints]:
    """Return ids and rows of forward operations, and of the innermost backward ones that belong to them."""
    rows = np.flatnonzero(events.forward != NONE)
    outer = events.parent[rows]
    has_outer = outer != NONE
    same = np.zeros(len(rows), np.bool_)
    same[has_outer] = events.forward[outer[has_outer]] == events.forward[rows[has_outer]]
    rows = rows[~np.isin(rows, outer[same])]
    sources, ids = np.unique(events.forward[rows], return_inverse=True)
    return np.arange(1, len(sources) + 1), sources, ids + 1, rows
