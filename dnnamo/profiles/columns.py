"""Columns of an event table: integers that may be missing, and text that repeats."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["NONE", "Column", "Ints", "Texts", "nothing", "rows_of", "sum_at"]

NONE = -(2**63)
"""Stands in a column of integers where a row has no value; in Arrow that is null."""

Ints = NDArray[np.int64]

_FEW = 4


def nothing(count: int) -> Ints:
    """Return a column of integers in which no row has a value; it takes no memory."""
    return np.broadcast_to(np.int64(NONE), count)


class _Codes(dict[str | None, int]):
    """Numbers of texts, in the order in which they first come."""

    def __missing__(self, text: str | None) -> int:
        self[text] = code = len(self) - 1
        return code


@dataclass(frozen=True, slots=True)
class Texts:
    """A column of text in which few texts come many times.

    Attributes:
        codes: Index into `values` of each row, -1 where it has none; int32.
        values: The texts, each once.
    """

    codes: NDArray[np.int32]
    values: list[str]

    @classmethod
    def of(cls, texts: Iterable[str | None]) -> Texts:
        """Encode a text a row, None where it has none."""
        found = _Codes({None: -1})
        codes = np.fromiter(map(found.__getitem__, texts), np.int32)
        return cls(codes, [text for text in found if text is not None])

    @classmethod
    def same(cls, text: str | None, count: int) -> Texts:
        """Return a column with the same text, or none, in each row; it takes no memory."""
        code = np.int32(-1 if text is None else 0)
        return cls(np.broadcast_to(code, count), [] if text is None else [text])

    @classmethod
    def concat(cls, parts: Sequence[Texts]) -> Texts:
        """Join columns, one below the other."""
        found: dict[str, int] = {}
        codes = []
        for part in parts:
            new = np.array([found.setdefault(text, len(found)) for text in part.values] + [-1], np.int32)
            codes.append(new[part.codes])  # code -1 takes the last, which is -1 again
        return cls(np.concatenate(codes) if codes else np.empty(0, np.int32), list(found))

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, row: int) -> str | None:
        code = self.codes[row]
        return None if code < 0 else self.values[code]

    def take(self, rows: NDArray[Any]) -> Texts:
        """Return the column of these rows: indices, or a mask."""
        return Texts(rows_of(self.codes, rows), self.values)

    def where(self, wanted: Callable[[str], object]) -> NDArray[np.bool_]:
        """Return which rows have a text for which `wanted` holds; it is asked once for each text."""
        codes = [code for code, text in enumerate(self.values) if wanted(text)]
        if len(codes) <= _FEW:  # a comparison takes a tenth of looking up what each row has
            return reduce(np.logical_or, (self.codes == code for code in codes), np.zeros(len(self), np.bool_))
        is_wanted = np.zeros(len(self.values) + 1, np.bool_)  # code -1 takes the last
        is_wanted[codes] = True
        return is_wanted.take(self.codes)

    def equal(self, *texts: str) -> NDArray[np.bool_]:
        """Return which rows have one of these texts."""
        return self.where(set(texts).__contains__)

    def to_list(self) -> list[str | None]:
        """Return a text a row."""
        values = [*self.values, None]
        return [values[code] for code in self.codes.tolist()]


Column = Ints | Texts


def rows_of(values: NDArray[Any], rows: NDArray[Any]) -> NDArray[Any]:
    """Return some rows of a column: indices, or a mask."""
    if values.strides == (0,):  # one value in each row; it goes on taking no memory
        count = int(np.count_nonzero(rows)) if rows.dtype == np.bool_ else len(rows)
        return np.broadcast_to(values[:1].sum(dtype=values.dtype), count)
    taken: NDArray[Any] = values[rows]
    return taken


def sum_at(keys: NDArray[Any], values: Ints, count: int, *, missing: int = 0) -> Ints:
    """Add up the values of each key, those that are NONE left out; a key without any has `missing`."""
    used = (keys != NONE) & (values != NONE)
    if not used.all():
        keys, values = keys[used], values[used]
    sums = np.zeros(count, np.int64)
    np.add.at(sums, keys, values)
    if missing:
        without = np.ones(count, bool)
        without[keys] = False
        sums[without] = missing
    return sums
