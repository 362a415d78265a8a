"""Events of a trace file, from JSON to columns.

msgspec decodes JSON into classes several times faster than into dictionaries, but has to be told which fields there
are. So each category of events is a bucket that knows what its events have carried so far: it starts with what Kineto
writes, and learns from the pieces that do not fit.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from math import isfinite
from typing import Any, Union

import msgspec
import numpy as np
from msgspec import Raw
from msgspec.structs import astuple
from numpy.typing import NDArray

from dnnamo.profiles.events import NONE
from dnnamo.profiles.readers.growing import (
    EXACT_US,
    Coded,
    Codes,
    Numbers,
    Rows,
    Times,
    Together,
    exact_ns,
    floats,
    integers,
)

__all__ = ["ALL", "CATEGORY", "Builder", "is_whole"]

Kind = Any
"""`int`, `int | None` or `Raw`."""

_MOST_KEYS, _MOST_BUCKETS = 256, 256
_NO_TEXT, _NULL = Raw(), Raw(b"null")
_WHOLE = re.compile(rb"-?(?:0|[1-9][0-9]{0,18})").fullmatch
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?").fullmatch
_NO_FIELD = re.compile(r'[\\"\x00-\x1f]')

_OPERATION = {"External id": int, "Record function id": int, "Sequence number": int, "Fwd thread id": int}
_INPUTS = dict.fromkeys(("Concrete Inputs", "Input type", "Input Strides", "Input Dims"), Raw)
_CALL = {"External id": int, "cbid": int, "correlation": int}
_PLACE = {"External id": int, "device": int, "context": int, "stream": int, "correlation": int}
_COPY = {**_PLACE, "bytes": int, "memory bandwidth (GB/s)": Raw}
_KERNEL = {
    "External id": int,
    **dict.fromkeys(("queued", "device", "context", "stream", "correlation", "registers per thread"), int),
    "shared memory": int,
    **dict.fromkeys(("blocks per SM", "warps per SM", "grid", "block"), Raw),
    "est. achieved occupancy %": int,
}
_FRAME = {"Python parent id": int | None, **dict.fromkeys(("Python id", "Python module id", "Ev Idx"), int)}
_MEMORY = dict.fromkeys(
    ("Total Reserved", "Total Allocated", "Bytes", "Addr", "Device Id", "Device Type", "Ev Idx"), int
) | {"finished": Raw}

# What Kineto writes, in its order: what stands in `args` and what beside it.
_KINETO: dict[str, tuple[dict[str, Kind], dict[str, Kind]]] = {
    "cpu_op": ({**_OPERATION, **_INPUTS, "Ev Idx": int}, {}),
    "user_annotation": ({**_OPERATION, **_INPUTS, "Ev Idx": int}, {}),
    "python_function": (_FRAME, {}),
    "cuda_runtime": (_CALL, {}),
    "cuda_driver": (_CALL, {}),
    "kernel": (_KERNEL, {}),
    "gpu_memcpy": (_COPY, {}),
    "gpu_memset": (_COPY, {}),
    "gpu_user_annotation": ({"External id": int}, {}),
    "cpu_instant_event": (_MEMORY, {"s": Raw}),
    "overhead": ({}, {}),
    "": ({"name": Raw, "labels": Raw, "sort_index": int}, {"s": Raw}),
    "Trace": ({"Op count": int}, {}),
    "ac2g": ({}, {"id": int, "bp": Raw}),
    "fwdbwd": ({}, {"id": int, "bp": Raw}),
}

ALL = "*"
"""Name of the column that holds the arguments as one object, where they have too many names."""

CATEGORY = "dnnamo.category"
"""Name of the column that holds the categories that came after too many others."""

_NO_CATEGORY = ("cat", "")
_COMMON = ("ph", "name", "pid", "tid", "ts", "dur", "args")
"""What every event has, in the order of the classes' fields."""


def is_whole(text: bytes) -> bool:
    """Return whether a piece of JSON is a number that fits a column of whole numbers."""
    return bool(_WHOLE(text)) and abs(int(text)) < -NONE


@dataclass
class _Bucket:
    """What the events of one category carry: for each name whether it is a whole number or any JSON.

    Attributes:
        args: In `args`; None if there are too many names, so that `args` is kept as one text.
        beside: Beside the fields that every event has.
    """

    args: dict[str, Kind] | None = field(default_factory=dict)
    beside: dict[str, Kind] = field(default_factory=dict)


_Names = tuple[tuple[str, Kind], ...]


@dataclass(frozen=True)
class _Shape:
    """The class for the events of one bucket.

    Attributes:
        category: The bucket's name.
        event: The class.
        empty: Stands for the arguments of an event without any.
        opaque: Whether the arguments are one text.
        args: The fields of the arguments.
        beside: Those of the event itself, without the ones that every event has.
    """

    category: str
    event: type
    empty: Any
    opaque: bool
    args: _Names
    beside: _Names


class _Inexact(Exception):
    """Raised when starts of a piece cannot be read exactly as floats."""


_Block = tuple[Numbers | Times, Rows, NDArray[Any]]


class Builder:
    """Takes pieces of a trace and builds the columns.

    Attributes:
        count: Number of rows so far.
        start_ns, duration_ns: Their times.
        texts: Columns that every event has: `name`, `category`, `phase`, `process`, `thread`.
        whole: Everything else by its own name, where it is whole numbers.
        json: Everything else where it is not.
        tracks: Chrome's metadata events, as they are.
        mended: Number of pieces with text that was no UTF-8.
        odd: Number of entries that were no events at all.
    """

    def __init__(self) -> None:
        self.count = 0
        self.start_ns, self.duration_ns = Times(), Times()
        self.texts = {name: Coded() for name in ("name", "category", "phase", "process", "thread")}
        self.whole: dict[str, Numbers] = {}
        self.json: dict[str, Coded] = {}
        self.tracks: list[dict[str, Any]] = []
        self.mended = self.odd = 0
        self._exact = False
        self._buckets = {name: _Bucket(dict(args), dict(beside)) for name, (args, beside) in _KINETO.items()}
        self._ids = {name: _ids(self.texts[name]) for name in ("phase", "process", "thread")}
        self._together: dict[tuple[str, ...], Together] = {}
        self._prepare()

    def take(self, piece: bytes) -> int:
        """Add the events of a JSON list; return how many there were.

        Raises:
            msgspec.DecodeError: If it is no JSON.
        """
        try:
            return self._fit(piece)
        except UnicodeDecodeError:
            self.mended += 1
            return self._fit(piece.decode("utf-8", "replace").encode())

    def _fit(self, piece: bytes) -> int:
        while True:
            try:
                return self._add(self._decode(piece), piece)
            except msgspec.ValidationError:
                piece = self._learn(piece)
            except OverflowError:
                piece = self._learn(piece, all_of_it=True)
            except _Inexact:
                self._exact = True
                self._prepare()

    def _prepare(self) -> None:
        shapes = [
            _shape(name, _items(bucket.args), _items(bucket.beside) or (), self._exact)
            for name, bucket in self._buckets.items()
        ]
        self._shapes = dict(zip((shape.event for shape in shapes), shapes, strict=True))
        self._decode = msgspec.json.Decoder(list[Union[tuple(self._shapes)]]).decode  # type: ignore[misc] # noqa: UP007

    def _add(self, events: list[Any], piece: bytes) -> int:
        if not events:
            return 0
        # To ask each event for all its fields at once is faster than to ask for each field of each.
        *common, args = islice(zip(*map(astuple, events), strict=False), len(_COMMON))
        new = [*self._common(slice(self.count, self.count + len(events)), *common)]
        for kind, at in _groups(events):
            members, own = (events, args) if len(at) == len(events) else (_at(at, events), _at(at, args))
            new += self._own(self._shapes[kind], self.count + at, members, own)
        if self.texts["phase"].code("M") in new[0][2]:
            self._keep_tracks(events, piece)
        for column, rows, values in new:  # only now, as a piece that does not fit comes again
            column.blocks.append((rows, values))
        self.count += len(events)
        return len(events)

    def _common(
        self,
        rows: Rows,
        phases: Sequence[str],
        names: Sequence[str | None],
        processes: Sequence[Any],
        threads: Sequence[Any],
        starts: Sequence[Any],
        durations: Sequence[float],
    ) -> Iterator[_Block]:
        """Return the columns that every event has."""
        texts = self.texts
        yield texts["phase"], rows, self._ids["phase"].of(phases)
        yield self.start_ns, rows, self._starts(starts)
        yield self.duration_ns, rows, floats(durations)
        yield texts["name"], rows, texts["name"].codes(names)
        yield texts["process"], rows, self._ids["process"].of(processes)
        yield texts["thread"], rows, self._ids["thread"].of(threads)

    def _own(self, shape: _Shape, rows: Rows, members: list[Any], args: Sequence[Any]) -> Iterator[_Block]:
        """Return the columns of one bucket."""
        category = self.texts["category"]
        code = category.code(shape.category) if shape.category else -1
        yield category, rows, np.full(len(members), code, np.int32)
        if shape.beside:
            yield from self._columns(shape.beside, rows, [*zip(*map(astuple, members), strict=True)][len(_COMMON) :])
        if shape.opaque:
            yield from self._columns(((ALL, Raw),), rows, [args])
        elif shape.args:
            given = [shape.empty if each is None else each for each in args] if None in args else args
            yield from self._columns(shape.args, rows, zip(*map(astuple, given), strict=True))

    def _keep_tracks(self, events: list[Any], piece: bytes) -> None:
        texts = msgspec.json.decode(piece, type=list[Raw])
        for event, text in zip(events, texts, strict=True):
            if event.ph == "M":
                track = msgspec.json.decode(text)
                self.tracks.append({key: value for key, value in track.items() if (key, value) != _NO_CATEGORY})

    def _columns(self, names: _Names, rows: Rows, columns: Iterable[Sequence[Any]]) -> Iterator[_Block]:
        given: dict[str, Sequence[Raw]] = {}
        for (name, kind), values in zip(names, columns, strict=True):
            if kind is not Raw:
                yield from self._whole(name, rows, values, may_be_null=kind is not int)
            elif not _all_empty(values):
                given[name] = values
        if len(given) == 1:
            ((name, values),) = given.items()
            yield self._json(name, rows, values)
        elif given:
            together = self._kept_together(tuple(given)).codes(zip(*given.values(), strict=True))
            for name, codes in zip(given, together, strict=True):
                yield self.json[name], rows, codes

    def _kept_together(self, names: tuple[str, ...]) -> Together:
        if names not in self._together:
            self._together[names] = Together([self.json.setdefault(name, Coded()) for name in names])
        return self._together[names]

    def _whole(self, name: str, rows: Rows, values: Sequence[int | None], *, may_be_null: bool) -> Iterator[_Block]:
        if may_be_null and None in values:
            yield self._json(name, rows, [_NULL if value is None else _NO_TEXT for value in values])
        if values[0] != NONE or values.count(NONE) < len(values):
            yield self.whole.setdefault(name, Numbers()), rows, integers(values)

    def _json(self, name: str, rows: Rows, values: Sequence[Raw]) -> _Block:
        column = self.json.setdefault(name, Coded())
        return column, rows, column.codes_of_json(values)

    def _starts(self, values: Sequence[Any]) -> NDArray[Any]:
        if self._exact:
            return exact_ns(values)
        us = floats(values)
        if (np.abs(us) >= EXACT_US).any():
            raise _Inexact
        return us

    def _learn(self, piece: bytes, *, all_of_it: bool = False) -> bytes:
        """Widen the buckets to what a piece holds; return it without what cannot be an event."""
        texts = msgspec.json.decode(piece, type=list[Raw])
        learned = [self._learned(text) for text in texts] if all_of_it else self._fitting(texts)
        self._prepare()
        return b"[%b]" % b",".join(text for text in learned if text)

    def _fitting(self, texts: list[Raw]) -> list[bytes]:
        """Return events as they are where they fit; by halves, as mostly few do not."""
        if self._fits(texts):
            return [*map(bytes, texts)]
        if len(texts) == 1:
            return [self._learned(texts[0])]
        half = len(texts) // 2
        return self._fitting(texts[:half]) + self._fitting(texts[half:])

    def _fits(self, texts: list[Raw]) -> bool:
        try:
            self._decode(b"[%b]" % b",".join(texts))
        except msgspec.ValidationError:
            return False
        return True

    def _learned(self, text: Raw) -> bytes:
        """Widen a bucket to what an event holds; return the event with every field right, nothing if it is none."""
        fields = _fields_of(text)
        if fields is None:
            self.odd += 1
            return b""
        self._meet(fields)
        return msgspec.json.encode(fields)

    def _meet(self, fields: dict[str, Raw]) -> None:
        category = msgspec.json.decode(fields["cat"])
        if category not in self._buckets and len(self._buckets) >= _MOST_BUCKETS:
            category, fields[CATEGORY], fields["cat"] = "", fields["cat"], Raw(b'""')
        bucket = self._buckets.setdefault(category, _Bucket())
        for name in fields.keys() - {"cat", *_COMMON}:
            _note(bucket.beside, name, fields[name])
        args = fields.get("args")
        if args is None or bucket.args is None:
            return
        for name, value in msgspec.json.decode(args, type=dict[str, Raw]).items():
            _note(bucket.args, name, value)
            if len(bucket.args) > _MOST_KEYS or name == ALL or _NO_FIELD.search(name):
                bucket.args = None
                return


def _ids(column: Coded) -> Codes:
    """Return the codes of what may be numbers as well as texts."""
    return Codes(lambda key: column.code(str(key)), None)


def _groups(events: list[Any]) -> Iterator[tuple[type, NDArray[np.int64]]]:
    """Return which events are of which class."""
    kinds = [*map(type, events)]
    found = list(dict.fromkeys(kinds))
    if len(found) == 1:
        yield found[0], np.arange(len(events))
        return
    number = dict(zip(found, range(len(found)), strict=True))
    numbers = np.fromiter(map(number.__getitem__, kinds), np.int16, len(kinds))
    for at, kind in enumerate(found):
        yield kind, np.flatnonzero(numbers == at)


def _at(rows: NDArray[np.int64], values: Sequence[Any]) -> list[Any]:
    return [*map(values.__getitem__, rows.tolist())]


def _all_empty(values: Sequence[Raw]) -> bool:
    return values[0] is _NO_TEXT and values.count(_NO_TEXT) == len(values)


@lru_cache(1024)
def _shape(category: str, args: _Names | None, beside: _Names, exact: bool) -> _Shape:
    time: tuple[Any, Any] = (Raw, _NO_TEXT) if exact else (float, float("nan"))
    inner = args and msgspec.defstruct("Args", _fields("a", args), gc=False, forbid_unknown_fields=True)
    fields: list[tuple[str, Any, Any]] = [
        ("ph", str, ""),
        ("name", str | None, None),
        ("pid", int | str | None, None),
        ("tid", int | str | None, None),
        ("ts", *time),
        ("dur", float, float("nan")),
        ("args", Raw, _NO_TEXT) if args is None else ("args", (inner or _Nothing) | None, None),
    ]
    event = msgspec.defstruct(
        "Event",
        [*fields, *_fields("b", beside)],
        gc=False,
        forbid_unknown_fields=True,
        tag=category,
        tag_field="cat",
    )
    return _Shape(category, event, inner and inner(), args is None, args or (), beside)


def _items(names: dict[str, Kind] | None) -> _Names | None:
    return None if names is None else tuple(names.items())


class _Nothing(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """The arguments of events that have had none so far."""


def _fields(letter: str, names: _Names) -> list[tuple[str, Any, Any]]:
    return [
        (f"{letter}{index}", kind, msgspec.field(name=name, default=_NO_TEXT if kind is Raw else NONE))
        for index, (name, kind) in enumerate(names)
    ]


def _note(known: dict[str, Kind], name: str, value: Raw) -> None:
    text = bytes(value)
    if text == b"null":
        known[name] = Raw if known.get(name) is Raw else int | None
    elif not is_whole(text):
        known[name] = Raw
    else:
        known.setdefault(name, int)


def _fields_of(text: Raw) -> dict[str, Raw] | None:
    """Return the fields of an event, each made what it should be or left out; None if this is no event."""
    try:
        fields = msgspec.json.decode(text, type=dict[str, Raw])
    except msgspec.ValidationError:
        return None
    nothing = [name for name in ("name", "pid", "tid", "args") if bytes(fields.get(name, b"")) == b"null"]
    for name in nothing:
        del fields[name]
    fields.setdefault("cat", Raw(b'""'))
    for name, value in [*fields.items()]:
        _put_right(fields, name, bytes(value))
    return fields


def _put_right(fields: dict[str, Raw], name: str, value: bytes) -> None:
    if name in ("cat", "ph", "name") or (name in ("pid", "tid") and not _WHOLE(value)):
        fields[name] = _as_text(fields[name])
    elif name in ("ts", "dur"):
        number = value.strip(b'"')
        del fields[name]
        if _NUMBER(number) and isfinite(float(number)):
            fields[name] = Raw(number)
    elif name == "args" and not value.startswith(b"{"):
        fields[name] = Raw(b'{"args":%b}' % value)
    elif _NO_FIELD.search(name):
        fields[_NO_FIELD.sub("_", name)] = fields.pop(name)


def _as_text(value: Raw) -> Raw:
    text = bytes(value)
    if text.startswith(b'"'):
        return value
    return Raw(b'""') if text == b"null" else Raw(msgspec.json.encode(text.decode("utf-8", "replace")))
