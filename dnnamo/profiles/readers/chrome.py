"""Chrome's trace event format, as Kineto (PyTorch's profiler) and many other tools write it -> `Recording`.

The format is described in "Trace Event Format" (Google), and what Kineto makes of it in `output_json.cpp` of
pytorch/kineto. Times are microseconds.
"""

import os
import zipfile
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from dnnamo.errors import UsageError
from dnnamo.profiles.collector import paused_collector
from dnnamo.profiles.events import NONE, Column, Events, Ints, Texts
from dnnamo.profiles.readers.buckets import ALL, CATEGORY, Builder, is_whole
from dnnamo.profiles.readers.growing import Coded, Numbers, Placing
from dnnamo.profiles.readers.pieces import Damaged, TraceText, unpacked
from dnnamo.profiles.recording import Recording
from dnnamo.profiles.sparse import Sparse, SparseColumns

__all__ = [
    "ALL",
    "BESIDE",
    "LANE",
    "LAYER",
    "LAYER_MARK",
    "MOVED",
    "NAMES",
    "NULL",
    "SOURCE",
    "THREAD",
    "read",
    "read_stream",
]

LAYER_MARK = "dnnamo.layer:"
"""Prefix of an event's name that marks a call of a layer, whose path follows."""

NAMES = {
    "External id": "operation",
    "correlation": "correlation",
    "Sequence number": "sequence",
    "Fwd thread id": "forward_thread",
    "device": "device",
    "stream": "stream",
    "bytes": "bytes",
    "Bytes": "bytes",
    "Input Dims": "shapes",
    "Input type": "dtypes",
    "flops": "flops",
}
"""Arguments that are columns of their own; the last one is ours, the others are Kineto's."""

BESIDE = frozenset({"id", "id2", "bp", "s", "scope", "tts", "tdur", "cname", "bind_id", "flow_in", "flow_out"})
"""Fields that stand beside `args` in Chrome's format; the table has them among the arguments."""

NULL = " (null)"
"""End of the name of a column that says where an argument that is otherwise a whole number is null."""

LAYER = "dnnamo.layer"
"""Argument in which our exporter writes an event's layer."""

THREAD = "dnnamo.thread"
"""Argument that names the thread of an event which our exporter drew elsewhere."""

LANE = "dnnamo.lane"
"""Argument that marks the name of such a place."""

MOVED = "dnnamo.moved_ns"
"""Key of the header in which our exporter writes how much earlier its times are."""

SOURCE = "dnnamo.source"
"""Key of the header in which our exporter writes the profile's source."""

_TEXT_COLUMNS = frozenset({"shapes", "dtypes"})
_KINETO_SAYS = frozenset({"schemaVersion", "deviceProperties", "baseTimeNanoseconds", "traceName"})
_LAUNCHES = ("ac2g", "async_cpu_to_gpu", "async_gpu", "async")
"""Categories of arrows from a call to what it launched; their ids are correlation ids."""

_DAY_NS = 86_400 * 10**9
_LONGEST_DAYS = 30
_LARGEST_MOVE_NS = 1 << 62
_SHORTEST_NS = 20
"""Events that follow each other faster than this on the whole have no microseconds as times."""

_FEW = 0.5
"""Part of the events up to which those with an argument are few."""

Mask = NDArray[np.bool_]


def read(source: object) -> Recording | None:
    """Return the recording in a trace file: .json, or that gzipped or zipped, whatever it is called.

    Raises:
        UsageError: If the file cannot be read, or is JSON without a trace in it, or damaged in its middle.
    """
    if not isinstance(source, str | os.PathLike):
        return None
    path = Path(source)
    if path.is_dir():
        return None
    try:
        with path.open("rb") as file:
            return _read(file, str(path))
    except OSError as exc:
        raise UsageError(f"The trace {str(path)!r} cannot be read: {exc.strerror or exc}.") from exc


def read_stream(file: BinaryIO, *, name: str) -> Recording:
    """Return the recording in an open file.

    Args:
        file: Opened for reading bytes, and at its start.
        name: What messages call it.

    Raises:
        UsageError: If it is no trace.
    """
    recording = _read(file, name)
    if recording is None:
        raise UsageError(f"{name} is no trace: it does not begin as JSON does.")
    return recording


def _read(file: BinaryIO, name: str) -> Recording | None:
    damage: list[str] = []
    text, builder = TraceText(unpacked(file, damage)), Builder()
    try:
        if not text.begins():
            _refuse(text, name)
            return None
        with paused_collector():
            text.each(builder.take)
            return _recording(text, builder, damage)
    except Damaged as exc:
        raise UsageError(
            f"The trace {name!r} is no JSON from byte {exc.at:,} of its text on, where {text.excerpt(exc.at)!r} stands "
            f"({exc}). Nothing was read, as what is missing there is unknown; copy the file again, or record a new one."
        ) from exc
    except (zlib.error, zipfile.BadZipFile, EOFError) as exc:
        raise UsageError(
            f"The trace {name!r} is damaged and cannot be unpacked ({exc}). Copy it again, or record a new one."
        ) from exc
    except UsageError as exc:
        raise UsageError(f"{name!r} cannot be read as a trace. {exc}") from exc


def _refuse(text: TraceText, name: str) -> None:
    """Say what is wrong with a file that is no JSON, if by its name it should be."""
    if text.is_empty():
        raise UsageError(f"The trace {name!r} is empty. Its writer may have been stopped; record it again.")
    if ".json" in Path(name).suffixes:
        raise UsageError(
            f"The trace {name!r} is no JSON: it begins with {text.excerpt()!r}. A trace is a JSON object with a list "
            "'traceEvents', or such a list alone."
        )


def _recording(text: TraceText, builder: Builder, damage: list[str]) -> Recording:
    damage = [*damage, *text.damage]
    if not builder.count:
        raise UsageError(f"It holds no complete event. {' '.join(damage)}".rstrip())
    if text.strange_numbers:
        damage.append(f"{text.strange_numbers:,} numbers are NaN or infinite, which JSON does not have.")
    if builder.mended:
        damage.append("Some text is not UTF-8; what could not be read is shown as \N{REPLACEMENT CHARACTER}.")
    dropped: dict[str, int] = {}
    if builder.odd:
        dropped["entries that are no events"] = builder.odd
    tracks = [track for track in builder.tracks if LANE not in (track.get("args") or {})]
    header = {**text.header, "tracks": tracks}
    source = header.pop(SOURCE, None) or ("kineto" if _KINETO_SAYS & header.keys() else "chrome")
    events = _without_duplicates(_events(builder, dropped), dropped)
    if moved := _moved_ns(header):
        events = events.replace(start_ns=events.start_ns + moved)
    base = header.get("baseTimeNanoseconds")
    return Recording(
        source=str(source),
        events=events,
        base_ns=base if isinstance(base, int) else 0,
        header=header,
        dropped=dropped,
        damage=damage + _strange_times(events),
    )


def _moved_ns(header: dict[str, Any]) -> int:
    """Return how much earlier times were written than they are; the header is made what it was before."""
    moved, base = header.pop(MOVED, 0), header.get("baseTimeNanoseconds")
    if not (isinstance(moved, int) and isinstance(base, int) and abs(moved) < _LARGEST_MOVE_NS):
        return 0
    if base == moved:
        del header["baseTimeNanoseconds"]
    else:
        header["baseTimeNanoseconds"] = base - moved
    return moved


def _events(builder: Builder, dropped: dict[str, int]) -> Events:
    """Build the table of what was taken from a file, which the builder forgets."""
    count = builder.count
    core, start, duration = _core(builder), builder.start_ns.column(), builder.duration_ns.column()
    kept = ~_unusable(core, start, duration, dropped) & ~_repeating(builder, core)
    owner = _join_pairs(core, start, duration, kept, dropped)
    duration[duration == NONE] = 0
    rows = np.flatnonzero(kept)
    rows = rows[_order(start[rows], duration[rows], core["thread"].codes[rows], core["process"].codes[rows])]
    columns: dict[str, Column] = {name: column.take(rows) for name, column in core.items()}
    columns |= {"start_ns": start[rows], "duration_ns": duration[rows]}
    places = np.full(count, len(rows))
    places[rows] = np.arange(len(rows))
    args: dict[str, Column | Sparse] = {}
    merged = owner is not None
    for name, column in _rest(builder, len(rows), places if owner is None else places[owner], merged=merged):
        _put(columns, args, name, column)
    layers = args.pop(LAYER, None)
    if isinstance(layers, Texts):
        columns["layer"] = _decoded(layers)
    return Events.of(_with_layers(columns), SparseColumns(args))


def _core(builder: Builder) -> dict[str, Texts]:
    """Return the texts that every event has."""
    count = builder.count
    core = {name: Texts(column.column(count), column.values) for name, column in builder.texts.items()}
    phases = ["i" if phase == "I" else phase for phase in core["phase"].values]
    core["phase"] = Texts.concat([Texts(core["phase"].codes, phases)])
    for name, noted in (("thread", THREAD), ("category", CATEGORY)):
        if noted in builder.json:
            core[name] = _restored(core[name], builder.json.pop(noted), count)
    return core | {name: _in_order(core[name]) for name in ("process", "thread")}


def _unusable(core: dict[str, Texts], start: Ints, duration: Ints, dropped: dict[str, int]) -> Mask:
    """Return which rows lack what every event of their phase must have, and count them."""
    phase = core["phase"]
    is_span, is_track = phase.equal("X"), phase.equal("M")
    reasons = {
        "events without a phase": phase.where(lambda text: not text),
        "events without a start": start == NONE,
        "events without a duration": is_span & (duration == NONE),
        "events with a negative duration": is_span & (duration < 0) & (duration != NONE),
        "events without a name": (core["name"].codes < 0) & phase.equal("X", "B", "i", "I", "C"),
    }
    unusable = is_track
    for reason, rows in reasons.items():
        _count(dropped, reason, rows & ~unusable)
        unusable = unusable | rows
    return unusable


def _count(dropped: dict[str, int], reason: str, rows: Mask) -> None:
    count = int(rows.sum())
    if count:
        dropped[reason] = count


def _repeating(builder: Builder, core: dict[str, Texts]) -> Mask:
    """Return which rows are arrows that say no more than ids of events do."""
    arrows = core["phase"].equal("s", "t", "f")
    launches = arrows & core["category"].equal(*_LAUNCHES)
    backward = arrows & core["category"].equal("fwdbwd")
    if launches.any():
        whole = {
            name: builder.whole[name].peek(builder.count) for name in ("id", "correlation") if name in builder.whole
        }
        known = len(whole) == 2 and np.isin(whole["id"], whole["correlation"][whole["correlation"] != NONE])
        launches = launches & known
    if "Sequence number" not in builder.whole:
        return launches
    return launches | backward


def _join_pairs(
    core: dict[str, Texts], start: Ints, duration: Ints, kept: Mask, dropped: dict[str, int]
) -> Ints | None:
    """Make one complete event of each begin and its end, in place.

    Returns:
        The row that each row's arguments belong to; None if there are no begins and ends.
    """
    phase = core["phase"]
    is_part = kept & phase.equal("B", "E")
    if not is_part.any():
        return None
    begins, ends = _pairs(core, start, np.flatnonzero(is_part)).T
    duration[begins] = start[ends] - start[begins]
    phases = Texts.concat([phase, Texts.of(["X"])])
    codes = phases.codes[:-1].copy()
    codes[begins] = phases.codes[-1]
    core["phase"] = Texts(codes, phases.values)
    is_part[begins] = is_part[ends] = False
    _count(dropped, "begins or ends of events without the other", is_part)
    kept[is_part] = kept[ends] = False
    owner = np.arange(len(start))
    owner[ends] = begins
    return owner


def _pairs(core: dict[str, Texts], start: Ints, rows: NDArray[np.intp]) -> Ints:
    """Return the rows of begins and of their ends, shape [pairs, 2]."""
    rows = rows[np.argsort(start[rows], kind="stable")]
    tracks = zip(core["process"].codes[rows].tolist(), core["thread"].codes[rows].tolist(), strict=True)
    begins, names = core["phase"].equal("B")[rows].tolist(), core["name"].codes[rows].tolist()
    stacks: dict[tuple[int, int], list[tuple[int, int]]] = {}
    pairs = []
    for row, track, begin, name in zip(rows.tolist(), tracks, begins, names, strict=True):
        stack = stacks.setdefault(track, [])
        if begin:
            stack.append((row, name))
            continue
        # An end need not repeat the name; where it does, what began within and never ended is left behind.
        at = next((at for at in reversed(range(len(stack))) if name in (-1, stack[at][1])), None)
        if at is not None:
            pairs.append((stack[at][0], row))
            del stack[at:]
    return np.array(pairs, np.int64).reshape(-1, 2)


def _rest(builder: Builder, count: int, places: Ints, *, merged: bool) -> Iterator[tuple[str, Column | Sparse]]:
    """Return what is not common to all events, by its name in the file, forgetting it in the builder."""
    placing = Placing(places, count)
    for name in dict.fromkeys([*builder.whole, *builder.json]):
        if not merged and _is_sparse(builder, name, count):
            sparse = _sparse((builder.whole if name in builder.whole else builder.json).pop(name), placing, count)
            yield from [(name, sparse)] if len(sparse.rows) else []
            continue
        columns: list[Column] = []
        if name in builder.whole:
            ints = builder.whole.pop(name).column(count, places, merged=merged)
            columns += [ints] if (ints != NONE).any() else []
        if name in builder.json:
            coded = builder.json.pop(name)
            texts = Texts(coded.column(count, places, merged=merged), coded.values)
            columns += [texts] if (texts.codes >= 0).any() else []
        if len(columns) == 2 and _has_only_null(columns[1]):
            yield name + NULL, columns.pop()
        yield from [(name, _both(*columns))] if len(columns) == 2 else [(name, column) for column in columns]


def _is_sparse(builder: Builder, name: str, count: int) -> bool:
    """Return whether a name is that of an argument which few events have."""
    found = [columns[name] for columns in (builder.whole, builder.json) if name in columns]
    return len(found) == 1 and 0 < found[0].size <= _FEW * count and name not in NAMES and name != LAYER


def _sparse(column: Numbers, placing: Placing, count: int) -> Sparse:
    rows, values = placing.column(column)
    return Sparse(rows, Texts(values, column.values) if isinstance(column, Coded) else values, count)


def _has_only_null(column: Column) -> bool:
    return isinstance(column, Texts) and bool((column.equal("null") == (column.codes >= 0)).all())


def _order(start: Ints, duration: Ints, thread: NDArray[np.int32], process: NDArray[np.int32]) -> NDArray[np.intp]:
    """Return the order of the table; durations, which are in no order to begin with, are only asked about ties."""
    track = process.astype(np.int64) * (thread.max(initial=0) + 2) + thread
    order = np.lexsort((start, track))
    same = (start[order[1:]] == start[order[:-1]]) & (track[order[1:]] == track[order[:-1]])
    if same.any():
        tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
        group = np.cumsum(np.append(True, ~same))[tied]
        order[tied] = order[tied][np.lexsort((-duration[order[tied]], group))]
    return order


def _put(columns: dict[str, Column], args: dict[str, Column | Sparse], name: str, column: Column | Sparse) -> None:
    """Add a column under the name that it has in the normal form; what does not fit there becomes an argument."""
    known = NAMES.get(name)
    if known is None or isinstance(column, Sparse):
        args[name] = column
    elif known in _TEXT_COLUMNS:
        columns[known] = _as_texts(column)
    else:
        numbers, rest = (column, None) if not isinstance(column, Texts) else _numbers_of(column)
        columns[known] = _both(columns[known], numbers) if known in columns else numbers
        if rest is not None and (rest.codes >= 0).any():
            args[name] = rest


def _numbers_of(column: Texts) -> tuple[Ints, Texts]:
    """Return the whole numbers in a column of JSON, and the rest of it."""
    numbers = np.array([*(int(text) if is_whole(text.encode()) else NONE for text in column.values), NONE])[
        column.codes
    ]
    return numbers, Texts(np.where(numbers == NONE, column.codes, np.int32(-1)), column.values)


def _both(first: Column, second: Column) -> Column:
    """Return one column of two, of which each has some of the values."""
    if not isinstance(first, Texts) and not isinstance(second, Texts):
        return np.where(first == NONE, second, first)
    parts = Texts.concat([_as_texts(first), _as_texts(second)])
    codes = parts.codes.reshape(2, -1)
    return Texts(codes.max(axis=0), parts.values)


def _as_texts(column: Column) -> Texts:
    if isinstance(column, Texts):
        return column
    values, codes = np.unique(column, return_inverse=True)
    return Texts(np.where(column == NONE, -1, codes).astype(np.int32), [*map(str, values.tolist())])


def _decoded(column: Texts) -> Texts:
    """Return the column of the texts that a column of JSON strings holds."""
    return Texts(column.codes, [str(msgspec.json.decode(value)) for value in column.values])


def _restored(column: Texts, noted: Coded, count: int) -> Texts:
    """Return a column with what was noted of some rows in place of what it has."""
    original = _decoded(Texts(noted.column(count), noted.values))
    rest = Texts(np.where(original.codes >= 0, np.int32(-1), column.codes), column.values)
    parts = Texts.concat([rest, original])
    return Texts(parts.codes.reshape(2, -1).max(axis=0), parts.values)


def _in_order(column: Texts) -> Texts:
    """Return the column with its values sorted, so that the order of rows depends on no accident."""
    order = sorted(range(len(column.values)), key=lambda code: _natural(column.values[code]))
    new = np.empty(len(order) + 1, np.int32)
    new[order] = np.arange(len(order))
    new[-1] = -1
    return Texts(new[column.codes], [column.values[code] for code in order])


def _natural(text: str) -> tuple[bool, int, str]:
    number = text.removeprefix("-").isdecimal()
    return not number, int(text) if number else 0, text


def _with_layers(columns: dict[str, Column]) -> dict[str, Column]:
    """Turn marks of layers into events of the category `layer`."""
    name, category = columns["name"], columns["category"]
    assert isinstance(name, Texts)  # noqa: S101 -- for the type checker
    assert isinstance(category, Texts)  # noqa: S101
    marks = name.where(lambda text: text.startswith(LAYER_MARK))
    if not marks.any():
        return columns
    values = [text.removeprefix(LAYER_MARK) for text in name.values]
    names = Texts.concat([Texts(name.codes, values)])
    layer = np.where(marks, len(category.values), category.codes).astype(np.int32)
    return columns | {"name": names, "category": Texts(layer, [*category.values, "layer"])}


def _without_duplicates(events: Events, dropped: dict[str, int]) -> Events:
    """Leave out events that are the same as others in all they say, as of a file that was appended to itself."""
    keys = (events.process.codes, events.thread.codes, events.start_ns, events.duration_ns, events.name.codes)
    again = np.logical_and.reduce([key[1:] == key[:-1] for key in keys])
    if not again.any():
        return events
    near = np.logical_and.reduce([key[1:] == key[:-1] for key in keys[:-1]])
    tied = np.flatnonzero(np.append(near, False) | np.append(False, near))
    columns = chain(events.columns.values(), events.args.values())
    values = [(column.codes if isinstance(column, Texts) else column)[tied] for column in columns]
    _, first = np.unique(np.stack(values, axis=1).astype(np.int64), axis=0, return_index=True)
    if len(first) == len(tied):
        return events
    dropped["exact duplicates of other events"] = len(tied) - len(first)
    kept = np.ones(len(events), np.bool_)
    kept[tied] = False
    kept[tied[first]] = True
    return events.take(kept)


def _strange_times(events: Events) -> list[str]:
    """Say so if the times cannot be the microseconds that they should be."""
    spans = events.phase.equal("X")
    if not spans.any():
        return []
    start, end = events.start_ns[spans], events.end_ns[spans]
    whole = int(end.max() - start.min())
    if whole > _LONGEST_DAYS * _DAY_NS:
        return [
            f"Its events span {whole // _DAY_NS:,} days: times look like nanoseconds rather than the microseconds that "
            "the format has."
        ]
    if whole < _SHORTEST_NS * len(start) and len(start) > 100:
        return [
            f"Its {len(start):,} events span {whole:,} ns: times look like seconds or milliseconds rather than the "
            "microseconds that the format has."
        ]
    return []
