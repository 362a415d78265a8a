"""Events of a trace file, from JSON to columns.

msgspec decodes JSON into classes several times faster than into dictionaries, but has to be told which fields there
are. So each category of events is a bucket that knows what its events have carried so far: it starts with what Kineto
writes, and learns from the pieces that do not fit.
"""

import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from math import isfinite
from operator import attrgetter
from typing import Any, Union

import msgspec
import numpy as np
from msgspec import Raw
from numpy.typing import NDArray

from dnnamo.profiles.events import NONE, Ints

__all__ = ["ALL", "CATEGORY", "Builder", "Coded", "is_whole"]

Kind = Any
"""`int`, `int | None` or `Raw`."""

Rows = slice | NDArray[np.int64]

_EXACT_US = 1 << 43
"""From here on a float of microseconds is no longer exact to the nanosecond."""

_BETWEEN = b"\0"
"""Stands in no JSON."""

_LARGEST_US = 9e15
"""Longer times, about 300 years, have no place in a column of nanoseconds."""

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
_BASE = ("ph", "cat", "name", "pid", "tid", "ts", "dur", "args")


def is_whole(text: bytes) -> bool:
    """Return whether a piece of JSON is a number that fits a column of whole numbers."""
    return bool(_WHOLE(text)) and abs(int(text)) < -NONE


class _Unfit(Exception):
    """Raised when times of a piece cannot be read exactly as floats."""


@dataclass
class _Bucket:
    """What the events of one category carry: for each name whether it is a whole number or any JSON.

    Attributes:
        args: In `args`; None if there are too many names, so that `args` is kept as one text.
        beside: Beside the fields that every event has.
    """

    args: dict[str, Kind] | None = field(default_factory=dict)
    beside: dict[str, Kind] = field(default_factory=dict)


@dataclass(frozen=True)
class _Shape:
    """The class for the events of one bucket.

    Attributes:
        category: The bucket's name.
        event: The class.
        empty: Stands for the arguments of an event without any.
        opaque: Whether the arguments are one text.
        args: Attribute of the arguments by name, and whether it is whole numbers.
        beside: The same for the event itself.
    """

    category: str
    event: type
    empty: Any
    opaque: bool
    args: tuple[tuple[str, str, bool], ...]
    beside: tuple[tuple[str, str, bool], ...]


def _ns(values: list[float]) -> Ints:
    """Return nanoseconds of microseconds, NONE for what is not a number.

    Below 2^43 they are exact, as then a float is off by less than half a nanosecond; what is before the point and what
    comes after it are converted apart, as the product of both could be rounded a second time.
    """
    us = np.frombuffer(array("d", values))  # twice as fast as np.array
    missing = np.isnan(us)
    if missing.any():
        us[missing] = 0
    whole = np.floor(np.clip(us, -_LARGEST_US, _LARGEST_US, out=us))
    us -= whole
    us *= 1000
    ns: Ints = whole.astype(np.int64) * 1000 + np.rint(us, out=us).astype(np.int64)
    if missing.any():
        ns[missing] = NONE
    return ns


class _Numbers:
    """A column of whole numbers that grows by blocks."""

    empty = NONE

    def __init__(self) -> None:
        self.blocks: list[tuple[Rows, NDArray[Any]]] = []

    def column(self, count: int, places: Ints | None = None, *, merged: bool = False) -> NDArray[Any]:
        """Return the column and forget the blocks.

        Args:
            count: Its length.
            places: Where each row goes; `count` for those that go nowhere. None if all stay where they are.
            merged: Whether several rows may go to one place, of which each has some of the values.
        """
        column = np.full(count + 1, self.empty, np.int64 if self.empty == NONE else np.int32)
        for rows, values in self.blocks:
            to = rows if places is None else places[rows]
            if merged:
                has = values != self.empty
                to, values = np.arange(count + 1)[to][has], values[has]
            column[to] = values
        self.blocks = []
        return column[:count]

    def peek(self, count: int) -> NDArray[Any]:
        """Return the column and keep the blocks."""
        blocks = self.blocks
        column = self.column(count)
        self.blocks = blocks
        return column


class Coded(_Numbers):
    """A column of text that grows by blocks of codes."""

    empty = -1

    def __init__(self) -> None:
        super().__init__()
        self._codes: dict[str, int] = {}
        self._raw: dict[bytes, int] = {b"": -1}

    @property
    def values(self) -> list[str]:
        """The texts by their codes."""
        return list(self._codes)

    def code(self, text: str) -> int:
        """Return the code of a text."""
        return self._codes.setdefault(text, len(self._codes))

    def _code_if_any(self, text: str | None) -> int:
        return -1 if text is None else self.code(text)

    def codes(self, texts: list[str | None]) -> NDArray[np.int32]:
        """Return the codes of texts, -1 for None."""
        if _all_same(texts):
            return np.full(len(texts), self._code_if_any(texts[0]), np.int32)
        return _recoded(texts, self._code_if_any)

    def codes_of_json(self, texts: list[Raw]) -> NDArray[np.int32]:
        """Return the codes of pieces of JSON without their white space, -1 for those that are empty."""
        if _all_same(texts):
            return np.full(len(texts), self.code_of_json(bytes(texts[0])), np.int32)
        return _recoded([*map(bytes, texts)], self.code_of_json)

    def code_of_json(self, text: bytes) -> int:
        """Return the code of a piece of JSON without its white space, -1 if it is empty."""
        code = self._raw.get(text)
        if code is None:
            code = self._raw[text] = self.code(msgspec.json.format(text, indent=-1).decode())
        return code


def _all_same(values: list[Any]) -> bool:
    return bool(values[0] == values[-1]) and values.count(values[0]) == len(values)


def _all_empty(values: list[Raw]) -> bool:
    return values[0] is _NO_TEXT and values.count(_NO_TEXT) == len(values)


def _recoded(texts: list[Any], code: Callable[[Any], int]) -> NDArray[np.int32]:
    """Return the codes of texts, of which `code` is asked once for each that differs."""
    # Not through Arrow, which is no faster and imports pandas, if there is one, as soon as it is given a list.
    codes = {text: code(text) for text in dict.fromkeys(texts)}
    return np.fromiter(map(codes.__getitem__, texts), np.int32, len(texts))


_Block = tuple[_Numbers, Rows, NDArray[Any]]


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
        self.start_ns, self.duration_ns = _Numbers(), _Numbers()
        self.texts = {name: Coded() for name in ("name", "category", "phase", "process", "thread")}
        self.whole: dict[str, _Numbers] = {}
        self.json: dict[str, Coded] = {}
        self.tracks: list[dict[str, Any]] = []
        self.mended = self.odd = 0
        self._exact = False
        self._buckets = {name: _Bucket(dict(args), dict(beside)) for name, (args, beside) in _KINETO.items()}
        self._ids = {name: _Ids(self.texts[name].code) for name in ("phase", "process", "thread")}
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
            except _Unfit:
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
        new = [*self._common(events, slice(self.count, self.count + len(events)))]
        for kind, rows, members in _groups(events, self.count):
            new += self._own(self._shapes[kind], rows, members)
        if self.texts["phase"].code("M") in new[0][2]:  # the phases
            self._keep_tracks(events, piece)
        for column, rows, values in new:  # only now, as a piece that does not fit comes again
            column.blocks.append((rows, values))
        self.count += len(events)
        return len(events)

    def _common(self, events: list[Any], rows: Rows) -> Iterator[_Block]:
        """Return the columns that every event has."""
        texts = self.texts
        yield texts["phase"], rows, self._ids["phase"].codes([event.ph for event in events])
        yield self.start_ns, rows, self._starts([event.ts for event in events])
        yield self.duration_ns, rows, _ns([event.dur for event in events])
        yield texts["name"], rows, texts["name"].codes([event.name for event in events])
        yield texts["process"], rows, self._ids["process"].codes([event.pid for event in events])
        yield texts["thread"], rows, self._ids["thread"].codes([event.tid for event in events])

    def _own(self, shape: _Shape, rows: Rows, members: list[Any]) -> Iterator[_Block]:
        """Return the columns of one bucket."""
        category = self.texts["category"]
        code = category.code(shape.category) if shape.category else -1
        yield category, rows, np.full(len(members), code, np.int32)
        yield from self._columns(members, rows, shape.beside)
        if shape.opaque:
            yield from self._columns(members, rows, ((ALL, "args", False),))
        elif shape.args:
            args = [member.args for member in members]
            if None in args:
                args = [shape.empty if each is None else each for each in args]
            yield from self._columns(args, rows, shape.args)

    def _keep_tracks(self, events: list[Any], piece: bytes) -> None:
        texts = msgspec.json.decode(piece, type=list[Raw])
        for event, text in zip(events, texts, strict=True):
            if event.ph == "M":
                track = msgspec.json.decode(text)
                self.tracks.append({key: value for key, value in track.items() if (key, value) != _NO_CATEGORY})

    def _columns(self, members: list[Any], rows: Rows, names: tuple[tuple[str, str, bool], ...]) -> Iterator[_Block]:
        for name, attribute, whole in names:
            if whole:
                yield from self._whole(name, rows, [*map(attrgetter(attribute), members)])
        json = {name: [*map(attrgetter(attribute), members)] for name, attribute, whole in names if not whole}
        given = {name: values for name, values in json.items() if not _all_empty(values)}
        if len(given) == 1:
            ((name, values),) = given.items()
            yield self._json(name, rows, values)
        elif given:
            yield from self._joined_json([*given], rows, zip(*given.values(), strict=True))

    def _joined_json(self, names: list[str], rows: Rows, values: Iterable[tuple[Raw, ...]]) -> Iterator[_Block]:
        """Encode columns together, as their texts mostly come together: the same shapes with the same types."""
        different: dict[bytes, int] = {}
        joined = _recoded([*map(_BETWEEN.join, values)], lambda text: different.setdefault(text, len(different)))
        parts = [text.split(_BETWEEN) for text in different]
        for name, texts in zip(names, zip(*parts, strict=True), strict=True):
            if any(texts):
                column = self.json.setdefault(name, Coded())
                yield column, rows, np.array([*map(column.code_of_json, texts)], np.int32)[joined]

    def _whole(self, name: str, rows: Rows, values: list[int | None]) -> Iterator[_Block]:
        try:
            column = np.array(values, np.int64)
        except TypeError:  # there is a null
            yield self._json(name, rows, [_NULL if value is None else _NO_TEXT for value in values])
            column = np.array([NONE if value is None else value for value in values], np.int64)
        if column.max() != NONE:
            yield self.whole.setdefault(name, _Numbers()), rows, column

    def _json(self, name: str, rows: Rows, values: list[Raw]) -> _Block:
        column = self.json.setdefault(name, Coded())
        return column, rows, column.codes_of_json(values)

    def _starts(self, values: list[Any]) -> Ints:
        if self._exact:
            return _exact_ns(values)
        ns = _ns(values)
        if ns.max() >= 1000 * _EXACT_US or ns[ns != NONE].min(initial=0) <= -1000 * _EXACT_US:
            raise _Unfit
        return ns

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
        for name in fields.keys() - _BASE:
            _note(bucket.beside, name, fields[name])
        args = fields.get("args")
        if args is None or bucket.args is None:
            return
        for name, value in msgspec.json.decode(args, type=dict[str, Raw]).items():
            _note(bucket.args, name, value)
            if len(bucket.args) > _MOST_KEYS or name == ALL or _NO_FIELD.search(name):
                bucket.args = None
                return


class _Ids(dict[Any, int]):
    """Codes of phases, of which there are few, and of processes and threads, which may be numbers as well."""

    def __init__(self, code: Callable[[str], int]) -> None:
        super().__init__({None: -1})
        self._code = code

    def __missing__(self, key: Any) -> int:
        self[key] = code = self._code(str(key))
        return code

    def codes(self, keys: list[Any]) -> NDArray[np.int32]:
        """Return the code of each."""
        if _all_same(keys):
            return np.full(len(keys), self[keys[0]], np.int32)
        return np.array([self[key] for key in keys], np.int32)


def _groups(events: list[Any], first: int) -> Iterator[tuple[type, Rows, list[Any]]]:
    """Return events by their classes, each with their rows, of which `first` is the first event's."""
    kinds = [*map(type, events)]
    kind = kinds[0]
    if kind is kinds[-1] and kinds.count(kind) == len(kinds):
        yield kind, slice(first, first + len(events)), events
        return
    found: dict[type, list[int]] = {}
    for row, kind in enumerate(kinds):
        found.setdefault(kind, []).append(row)
    for kind, rows in found.items():
        yield kind, np.array(rows) + first, [events[row] for row in rows]


def _exact_ns(values: list[Raw]) -> Ints:
    """Return the nanoseconds of microseconds that floats could not hold, NONE for empty texts."""
    lengths = [*map(len, values)]
    if lengths.count(lengths[0]) == len(lengths) and (ns := _ns_of_equal_length(values)) is not None:
        return ns
    return np.array([_exact(text) if text else NONE for text in map(bytes, values)], np.int64)


def _ns_of_equal_length(texts: list[Raw]) -> Ints | None:
    """Return nanoseconds if all texts are plain numbers with the point at one place, as Unix times are."""
    digits = np.frombuffer(b"".join(texts), np.uint8).reshape(len(texts), -1) - np.uint8(ord("0"))
    point = bytes(texts[0]).find(b".")
    decimals = digits.shape[1] - 1 - point
    if point < 1 or point > 16 or decimals > 3 or (digits[:, point] != (ord(".") - ord("0")) % 256).any():
        return None
    digits[:, point] = 0
    if (digits > 9).any():
        return None
    powers = np.concatenate([10 ** np.arange(point + 2, 2, -1), [0], 10 ** np.arange(2, 2 - decimals, -1)])
    ns: Ints = digits @ powers
    return ns


def _exact(text: bytes) -> int:
    us = max(min(Decimal(text.decode()), Decimal(_LARGEST_US)), Decimal(-_LARGEST_US))
    return int((us * 1000).to_integral_value())


@lru_cache(1024)
def _shape(
    category: str, args: tuple[tuple[str, Kind], ...] | None, beside: tuple[tuple[str, Kind], ...], exact: bool
) -> _Shape:
    time: tuple[Any, Any] = (Raw, _NO_TEXT) if exact else (float, float("nan"))
    fields: list[tuple[str, Any, Any]] = [
        ("ph", str, ""),
        ("name", str | None, None),
        ("pid", int | str | None, None),
        ("tid", int | str | None, None),
        ("ts", *time),
        ("dur", float, float("nan")),
    ]
    inner = args and msgspec.defstruct("Args", _fields("a", args), gc=False, forbid_unknown_fields=True)
    fields.append(("args", Raw, _NO_TEXT) if args is None else ("args", (inner or _Nothing) | None, None))
    event = msgspec.defstruct(
        "Event",
        [*fields, *_fields("b", beside)],
        gc=False,
        forbid_unknown_fields=True,
        tag=category,
        tag_field="cat",
    )
    return _Shape(category, event, inner and inner(), args is None, _named("a", args or ()), _named("b", beside))


def _items(names: dict[str, Kind] | None) -> tuple[tuple[str, Kind], ...] | None:
    return None if names is None else tuple(names.items())


class _Nothing(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """The arguments of events that have had none so far."""


def _fields(letter: str, names: tuple[tuple[str, Kind], ...]) -> list[tuple[str, Any, Any]]:
    return [
        (f"{letter}{index}", kind, msgspec.field(name=name, default=_NO_TEXT if kind is Raw else NONE))
        for index, (name, kind) in enumerate(names)
    ]


def _named(letter: str, names: tuple[tuple[str, Kind], ...]) -> tuple[tuple[str, str, bool], ...]:
    return tuple((name, f"{letter}{index}", kind is not Raw) for index, (name, kind) in enumerate(names))


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
