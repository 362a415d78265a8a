"""Columns that grow by the pieces of a trace file, and how what stands in a piece becomes numbers."""

import struct
from array import array
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from itertools import groupby
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Raw
from numpy.typing import NDArray

from dnnamo.profiles.events import NONE, Ints

__all__ = [
    "EXACT_US",
    "Coded",
    "Codes",
    "Numbers",
    "Placing",
    "Rows",
    "Times",
    "Together",
    "exact_ns",
    "floats",
    "integers",
]

Rows = slice | NDArray[np.int64]

EXACT_US = 1 << 43
"""From here on a float of microseconds is no longer exact to the nanosecond."""

_LARGEST_US = 9e15
"""Longer times, about 300 years, have no place in a column of nanoseconds."""

_BETWEEN = b"\0"
"""Stands in no JSON."""

_MOST_TOGETHER = 1 << 16
"""Texts of several columns that are remembered; they come on top of those of each."""


class Numbers:
    """A column of whole numbers that grows by blocks."""

    empty = NONE

    def __init__(self) -> None:
        self.blocks: list[tuple[Rows, NDArray[Any]]] = []

    @property
    def size(self) -> int:
        """Number of rows in the blocks."""
        return sum(len(values) for _, values in self.blocks)

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


class _Group(NamedTuple):
    """Rows of a file that several columns have.

    Attributes:
        rows: Where they go, in the order of the table.
        order: Which of them goes to each of these.
        blocks: The rows themselves; as long as they are here nothing else has their id.
    """

    rows: Ints
    order: NDArray[np.intp]
    blocks: list[Rows]


class Placing:
    """Takes columns from the rows of a file to those of a table, without the rows that have no value.

    Args:
        places: Where each row goes; `count` for those that go nowhere. No two go to one place.
        count: Length of the table.
    """

    def __init__(self, places: Ints, count: int) -> None:
        self._places, self._count = places, count
        self._known: dict[tuple[int, ...], _Group] = {}

    def column(self, column: Numbers) -> tuple[Ints, NDArray[Any]]:
        """Return the rows of the table with a value and their values, and forget the column's blocks."""
        blocks, column.blocks = column.blocks, []
        group = self._group([rows for rows, _ in blocks])
        values = np.concatenate([values for _, values in blocks])[group.order]
        has = values != column.empty
        return (group.rows, values) if has.all() else (group.rows[has], values[has])

    def _group(self, blocks: list[Rows]) -> _Group:
        """Return what columns of the same blocks have in common, which is mostly the case for those of one bucket."""
        key = tuple(map(id, blocks))
        if key not in self._known:
            to = np.concatenate([self._places[rows] for rows in blocks])
            has, order = np.zeros(self._count + 1, np.bool_), np.empty(self._count + 1, np.intp)
            has[to] = True
            order[to] = np.arange(len(to))
            rows = np.flatnonzero(has[:-1])
            self._known[key] = _Group(rows, order[rows], blocks)
        return self._known[key]


class Times:
    """A column of nanoseconds, given as these or as microseconds, one piece of a file after the other."""

    def __init__(self) -> None:
        self.blocks: list[tuple[Rows, NDArray[np.float64] | Ints]] = []

    def column(self) -> Ints:
        """Return the column and forget the blocks."""
        blocks, self.blocks = self.blocks, []
        parts: list[Ints] = []
        for is_us, same in groupby((values for _, values in blocks), lambda values: values.dtype == np.float64):
            whole = np.concatenate([*same])  # at once, as a piece has few
            parts.append(_ns_of(whole) if is_us else whole)
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.int64), *parts])


class Codes(dict[Any, int]):
    """Codes of keys, of which each is given one when it is first met."""

    def __init__(self, code: Callable[[Any], int], *without: Any) -> None:
        """Make codes that `code` gives, called once for a key; keys that stand for no value have -1."""
        super().__init__(dict.fromkeys(without, -1))
        self._code = code

    def __missing__(self, key: Any) -> int:
        self[key] = code = self._code(key)
        return code

    def of(self, keys: Sequence[Any]) -> NDArray[np.int32]:
        """Return the code of each."""
        # Not through Arrow, which is no faster and imports pandas, if there is one, as soon as it is given a list.
        if _all_same(keys):
            return np.full(len(keys), self[keys[0]], np.int32)
        return np.frombuffer(struct.pack(f"{len(keys)}i", *map(self.__getitem__, keys)), np.int32)


class Coded(Numbers):
    """A column of text that grows by blocks of codes."""

    empty = -1

    def __init__(self) -> None:
        super().__init__()
        self._texts = Codes(lambda _: len(self._texts) - 1, None)
        self._json = Codes(lambda text: self.code(msgspec.json.format(text, indent=-1).decode()), b"")

    @property
    def values(self) -> list[str]:
        """The texts by their codes."""
        return list(self._texts)[1:]

    def code(self, text: str) -> int:
        """Return the code of a text."""
        return self._texts[text]

    def codes(self, texts: Sequence[str | None]) -> NDArray[np.int32]:
        """Return the codes of texts, -1 for None."""
        return self._texts.of(texts)

    def codes_of_json(self, texts: Sequence[Raw]) -> NDArray[np.int32]:
        """Return the codes of pieces of JSON without their white space, -1 for those that are empty."""
        if _all_same(texts):
            return np.full(len(texts), self.code_of_json(bytes(texts[0])), np.int32)
        return self._json.of([*map(bytes, texts)])

    def code_of_json(self, text: bytes) -> int:
        """Return the code of a piece of JSON without its white space, -1 if it is empty."""
        return self._json[text]


class Together:
    """Columns of JSON whose texts mostly come together: the same shapes with the same types."""

    def __init__(self, columns: Sequence[Coded]) -> None:
        self._columns = columns
        self._parts = [array("i") for _ in columns]
        self._codes = Codes(self._new)

    def _new(self, joined: bytes) -> int:
        parts = zip(self._columns, joined.split(_BETWEEN), strict=True)
        new = [column.code_of_json(text) for column, text in parts]  # all, or none if one is no UTF-8
        for codes, code in zip(self._parts, new, strict=True):
            codes.append(code)
        return len(self._codes)

    def codes(self, texts: Iterable[Iterable[Raw]]) -> list[NDArray[np.int32]]:
        """Return the codes of each column.

        Args:
            texts: The texts of each row, one a column.
        """
        if len(self._codes) > _MOST_TOGETHER:
            self._codes.clear()
            self._parts = [array("i") for _ in self._columns]
        joined = self._codes.of([*map(_BETWEEN.join, texts)])
        return [np.array(codes, np.int32)[joined] for codes in self._parts]


def _all_same(values: Sequence[Any]) -> bool:
    return bool(values[0] == values[-1]) and values.count(values[0]) == len(values)


def integers(values: Sequence[int | None]) -> Ints:
    """Return whole numbers as a column, NONE for None.

    Raises:
        OverflowError: If there is one of more than 64 bits.
    """
    try:
        return np.frombuffer(struct.pack(f"{len(values)}q", *values), np.int64)  # several times as fast as np.array
    except struct.error:
        return np.array([NONE if value is None else value for value in values], np.int64)


def floats(values: Sequence[float]) -> NDArray[np.float64]:
    """Return floats as an array."""
    return np.frombuffer(struct.pack(f"{len(values)}d", *values))


def _ns_of(us: NDArray[np.float64]) -> Ints:
    """Return nanoseconds of microseconds, NONE for what is not a number; the argument is written to.

    Below 2^43 they are exact, as then a float is off by less than half a nanosecond; what is before the point and what
    comes after it are converted apart, as the product of both could be rounded a second time.
    """
    missing = np.isnan(us)
    us[missing] = 0
    whole = np.floor(np.clip(us, -_LARGEST_US, _LARGEST_US, out=us))
    us -= whole
    us *= 1000
    ns: Ints = whole.astype(np.int64) * 1000 + np.rint(us, out=us).astype(np.int64)
    ns[missing] = NONE
    return ns


def exact_ns(values: Sequence[Raw]) -> Ints:
    """Return the nanoseconds of microseconds that floats could not hold, NONE for empty texts."""
    lengths = [*map(len, values)]
    if lengths.count(lengths[0]) == len(lengths) and (ns := _ns_of_equal_length(values)) is not None:
        return ns
    return np.array([_exact(text) if text else NONE for text in map(bytes, values)], np.int64)


def _ns_of_equal_length(texts: Sequence[Raw]) -> Ints | None:
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
