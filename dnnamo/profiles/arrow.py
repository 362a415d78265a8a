"""Columns of an event table as Arrow has them: dictionaries for text, nulls for no value.

Not by `pa.array` and `to_numpy`, which import pandas if there is one, and that takes 0.3 s.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dnnamo.profiles.columns import NONE, Column, Texts, nothing

__all__ = ["arrow_of", "column_of"]


def arrow_of(column: Column) -> pa.Array:
    """Return a column as Arrow has it."""
    if isinstance(column, Texts):
        codes = _from_buffers(pa.int32(), column.codes, column.codes < 0)
        return pa.DictionaryArray.from_arrays(codes, _strings(column.values))
    return _from_buffers(pa.int64(), column, column == NONE)


def _strings(texts: Sequence[str]) -> pa.Array:
    encoded = [text.encode(errors="replace") for text in texts]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.large_string(), len(texts), buffers)


def _from_buffers(kind: pa.DataType, values: NDArray[Any], missing: NDArray[np.bool_]) -> pa.Array:
    valid = pa.py_buffer(np.packbits(~missing, bitorder="little")) if missing.any() else None
    return pa.Array.from_buffers(kind, len(values), [valid, pa.py_buffer(np.ascontiguousarray(values))])


def column_of(column: pa.ChunkedArray) -> Column:
    """Return the column that `arrow_of` gave, or some rows of it."""
    if pa.types.is_integer(column.type):
        return np.concatenate([_with_missing(part, np.int64, NONE) for part in column.chunks] or [nothing(0)])
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    parts = [Texts(_with_missing(part.indices, np.int32, -1), part.dictionary.to_pylist()) for part in column.chunks]
    return parts[0] if len(parts) == 1 else Texts.concat(parts)


def _with_missing(array: pa.Array, kind: type[np.integer[Any]], missing: int) -> NDArray[Any]:
    rows = slice(array.offset, array.offset + len(array))
    valid, data = array.buffers()
    values = np.frombuffer(data, kind)[rows]
    if not array.null_count:
        return values
    is_valid = np.unpackbits(np.frombuffer(valid, np.uint8), bitorder="little")[rows]
    return np.where(is_valid, values, kind(missing))
