"""Columns of an event table as Arrow has them: dictionaries for text, nulls for no value.

Not by `pa.array` and `to_numpy`, which import pandas if there is one, and that takes 0.3 s.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dnnamo.profiles.columns import NONE, Column, Ints, Texts, nothing

__all__ = ["LEAF", "arrow_of", "column_of", "lists_of", "numbers_of", "texts_of"]

LEAF = "{}.list.element"
"""What Parquet calls the values of a column of lists."""


def arrow_of(column: Column) -> pa.Array:
    """Return a column as Arrow has it."""
    if isinstance(column, Texts):
        codes = _from_buffers(pa.int32(), column.codes, _validity(column.codes < 0))
        return pa.DictionaryArray.from_arrays(codes, _strings(column.values))
    return _from_buffers(pa.int64(), column, _validity(column == NONE))


def _strings(texts: Sequence[str]) -> pa.Array:
    encoded = [text.encode(errors="replace") for text in texts]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.large_string(), len(texts), buffers)


def _validity(missing: NDArray[np.bool_]) -> pa.Buffer | None:
    return pa.py_buffer(np.packbits(~missing, bitorder="little")) if missing.any() else None


def _from_buffers(kind: pa.DataType, values: NDArray[Any], validity: pa.Buffer | None = None) -> pa.Array:
    return pa.Array.from_buffers(kind, len(values), [validity, pa.py_buffer(np.ascontiguousarray(values))])


def lists_of(values: NDArray[Any] | list[str], ends: Ints) -> pa.ListArray:
    """Return values as lists, of which each ends where the next one begins; 0 is before the first."""
    given = _strings(values) if isinstance(values, list) else _from_buffers(pa.from_numpy_dtype(values.dtype), values)
    kind = pa.list_(pa.field("element", given.type, nullable=False))
    return pa.ListArray.from_buffers(kind, len(ends) - 1, [None, pa.py_buffer(ends.astype(np.int32))], children=[given])


def numbers_of(lists: pa.ChunkedArray) -> NDArray[Any]:
    """Return the values of all lists of numbers."""
    kind = np.int64 if pa.types.is_int64(lists.type.value_type) else np.int32
    return np.concatenate([np.empty(0, kind), *(_numbers(part.flatten(), kind) for part in lists.chunks)])


def texts_of(lists: pa.ChunkedArray) -> list[str]:
    """Return the values of all lists of text."""
    return [text for part in lists.chunks for text in part.flatten().to_pylist()]


def column_of(column: pa.ChunkedArray) -> Column:
    """Return the column that `arrow_of` gave, or some rows of it."""
    if pa.types.is_integer(column.type):
        return np.concatenate([_with_missing(part, np.int64, NONE) for part in column.chunks] or [nothing(0)])
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    parts = [Texts(_with_missing(part.indices, np.int32, -1), part.dictionary.to_pylist()) for part in column.chunks]
    return parts[0] if len(parts) == 1 else Texts.concat(parts)


def _with_missing(array: pa.Array, kind: type[np.integer[Any]], missing: int) -> NDArray[Any]:
    values = _numbers(array, kind)
    if not array.null_count:
        return values
    is_valid = np.unpackbits(np.frombuffer(array.buffers()[0], np.uint8), bitorder="little")
    return np.where(is_valid[array.offset : array.offset + len(array)], values, kind(missing))


def _numbers(array: pa.Array, kind: type[np.integer[Any]]) -> NDArray[Any]:
    return np.frombuffer(array.buffers()[1], kind)[array.offset : array.offset + len(array)]
