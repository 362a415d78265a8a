"""Columns that grow by the pieces of a trace file, and how what stands in a piece becomes numbers."""

import struct
from array import array
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
from msgspec import Raw
from numpy.typing import NDArray

from dnnamo.profiles.events import NONE, Ints

__all__ = ["EXACT_NS", "Coded", "Codes", "Numbers", "Rows", "Together", "exact_ns", "floats_ns", "integers"]

Rows = slice | NDArray[np.int64]

EXACT_NS = 1000 << 43
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


def floats_ns(values: Sequence[float]) -> Ints:
    """Return nanoseconds of microseconds, NONE for what is not a number.

    Below 2^43 they are exact, as then a float is off by less than half a nanosecond; what is before the point and what
    comes after it are converted apart, as the product of both could be rounded a second time.
    """
    us = np.array(np.frombuffer(struct.pack(f"{len(values)}d", *values)))
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
