"""Columns without the rows in which they have no value: the values of each row group, and which rows have one.

Which these are is told by the lengths of runs, of rows without and with a value by turns, in the order of the rows'
names. A column of text is one of codes, and its texts all stand in the first row group.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from dnnamo.profiles.columns import NONE, Column, Ints, Texts
from dnnamo.profiles.sparse import Sparse

__all__ = ["TEXTS", "Lists", "Values", "spread"]

Rows = NDArray[np.intp]
Mask = NDArray[np.bool_]

TEXTS = "texts."
"""Before the name of a column of text, the name of the column with its texts."""

_THERE = "there."


class Values(NamedTuple):
    """The values of a column.

    Attributes:
        all: Those of all row groups.
        ends: Where those of each row group end, after a 0.
    """

    all: NDArray[Any] | list[str]
    ends: Ints


class Lists:
    """The columns of a table as lists of values.

    Attributes:
        columns: Each column that has values, texts of columns, and the runs of rows that columns have values in.
        there: Number of the runs of each column that does not have a value in every row.
        by_name: Columns whose values are in the order of the names.
    """

    def __init__(self, groups: Sequence[slice], order: Rows) -> None:
        """Begin with no columns.

        Args:
            groups: The rows of each row group.
            order: All rows, those of each row group in the order of their names.
        """
        self.columns: dict[str, Values] = {}
        self.there: dict[str, int] = {}
        self.by_name: list[str] = []
        self._groups, self._order = groups, order
        self._known: dict[bytes, _There] = {}
        self._sparse: dict[int, tuple[_There, Rows]] = {}

    def add(self, name: str, column: Column | Sparse, *, by_name: bool) -> None:
        """Add a column, unless it is one without values."""
        if isinstance(column, Sparse):
            self._add_sparse(name, column, by_name=by_name)
            return
        values, has = (column.codes, column.codes >= 0) if isinstance(column, Texts) else (column, column != NONE)
        count = np.count_nonzero(has)
        if count == 0 < len(has):
            return
        if count == len(has):
            self._put(name, values[self._order] if by_name else values, (len(has[rows]) for rows in self._groups))
        else:
            there = self._there(has)
            self._put(name, values[there.rows if by_name else has], there.lengths)
            self.there[name] = there.number
        self._note(name, column, by_name=by_name)

    def _add_sparse(self, name: str, column: Sparse, *, by_name: bool) -> None:
        there, order = self._of_rows(column)
        values = column.values.codes if isinstance(column.values, Texts) else column.values
        self._put(name, values[order] if by_name else values, there.lengths)
        self.there[name] = there.number
        self._note(name, column.values, by_name=by_name)

    def _of_rows(self, column: Sparse) -> "tuple[_There, Rows]":
        """Return what is known of a set of rows, and their order by name."""
        key = id(column.rows)  # of this array alone, as long as the table is there
        if key not in self._sparse:
            has, place = np.zeros(column.count, np.bool_), np.empty(column.count, np.intp)
            has[column.rows] = True
            place[column.rows] = np.arange(len(column.rows))
            there = self._there(has)
            self._sparse[key] = there, place[there.rows]
        return self._sparse[key]

    def _note(self, name: str, column: Column, *, by_name: bool) -> None:
        if by_name:
            self.by_name.append(name)
        if isinstance(column, Texts):
            self._put(TEXTS + name, column.values, [len(column.values), *[0] * len(self._groups)][: len(self._groups)])

    def _put(self, name: str, values: NDArray[Any] | list[str], lengths: Iterable[int]) -> None:
        own = _short(values) if isinstance(values, np.ndarray) else values
        self.columns[name] = Values(own, np.cumsum([0, *lengths]))

    def _there(self, has: Mask) -> "_There":
        """Return what is known of a set of rows; their runs become a column when they first come."""
        key = np.packbits(has).tobytes()
        if key not in self._known:
            number, by_name = len(self._known), has[self._order]
            of_groups = [by_name[rows] for rows in self._groups]
            runs = [*map(_runs_of, of_groups)]
            self._put(f"{_THERE}{number}", np.concatenate(runs), map(len, runs))
            lengths = [int(np.count_nonzero(rows)) for rows in of_groups]
            self._known[key] = _There(number, self._order[np.flatnonzero(by_name)], lengths)
        return self._known[key]


class _There(NamedTuple):
    """The rows that some columns have values in.

    Attributes:
        number: Number of their runs.
        rows: The rows in the order of the names.
        lengths: How many there are in each row group.
    """

    number: int
    rows: Rows
    lengths: Sequence[int]


def _short(values: NDArray[Any]) -> NDArray[Any]:
    """Return numbers with half as many bytes, if these hold all of them."""
    fit = np.iinfo(np.int32)
    return values.astype(np.int32) if len(values) and fit.min <= values.min() and values.max() <= fit.max else values


def _runs_of(has: Mask) -> Ints:
    """Return the lengths of the runs, an even number of them, so that those of several row groups go on by turns."""
    changes = np.flatnonzero(np.diff(has, prepend=False))
    ends = [len(has)] * (1 + (len(changes) + 1) % 2)
    return np.diff(changes, prepend=0, append=ends)


def spread(
    columns: Mapping[str, Column], there: Mapping[str, int], by_name: Collection[str], places: Rows
) -> dict[str, Column]:
    """Return columns with a row for each event.

    Args:
        columns: All values of each column, and the runs.
        there: The number of each column's runs.
        by_name: Columns whose values are in the order of the names; they stay in it.
        places: Where each row is in this order.
    """
    has = {number: _has(columns[f"{_THERE}{number}"]) for number in {*there.values()}}
    rows = {name: has[number] if name in by_name else has[number][places] for name, number in there.items()}
    return {
        name: _spread(column, rows[name]) if name in rows else column
        for name, column in columns.items()
        if not name.startswith(_THERE)
    }


def _has(runs: Column) -> Mask:
    return np.repeat(np.arange(len(runs)) % 2 == 1, cast("Ints", runs))


def _spread(column: Column, rows: Mask) -> Column:
    if isinstance(column, Texts):
        return Texts(_filled(column.codes, rows, -1), column.values)
    return _filled(column, rows, NONE)


def _filled(values: NDArray[Any], rows: Mask, missing: int) -> NDArray[Any]:
    column = np.full(len(rows), missing, values.dtype)
    column[rows] = values
    return column
