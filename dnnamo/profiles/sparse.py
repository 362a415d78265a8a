"""Columns that few rows have values in, kept without the others."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnnamo.profiles.columns import NONE, Column, Texts

__all__ = ["Sparse", "SparseColumns"]


@dataclass(frozen=True, slots=True)
class Sparse:
    """The values of a column.

    Attributes:
        rows: The rows that have one, in their order; columns of the same rows share the array.
        values: What they have.
        count: How many rows the column is long.
    """

    rows: NDArray[np.intp]
    values: Column
    count: int

    def spread(self) -> Column:
        """Return the column with a value, or none, for each row."""
        if isinstance(self.values, Texts):
            return Texts(self._filled(self.values.codes, -1), self.values.values)
        return self._filled(self.values, NONE)

    def _filled(self, values: NDArray[Any], missing: int) -> NDArray[Any]:
        column = np.full(self.count, missing, values.dtype)
        column[self.rows] = values
        return column


class SparseColumns(Mapping[str, Column]):
    """Columns by name, of which those that are sparse are spread each time they are asked for.

    Attributes:
        kept: The columns as they are kept.
    """

    def __init__(self, kept: Mapping[str, Column | Sparse]) -> None:
        self.kept = kept

    def __getitem__(self, name: str) -> Column:
        column = self.kept[name]
        return column.spread() if isinstance(column, Sparse) else column

    def __iter__(self) -> Iterator[str]:
        return iter(self.kept)

    def __len__(self) -> int:
        return len(self.kept)
