"""The event table as Parquet or CSV that any tool reads: a row an event, plain text and numbers, nulls for no value.

The columns are those of `dnnamo.profiles.events`, after `row`, the number of the row: `parent`, `launcher` and
`forward` name others by it.
"""

from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from dnnamo.profiles.events import FORMAT, Events

__all__ = ["write_csv", "write_parquet"]

_ROWS_AT_ONCE = 1 << 16


def write_parquet(events: Events, metadata: Mapping[str, Any], file: BinaryIO) -> None:
    """Write the table as Parquet, with the metadata as JSON under the key `dnnamo` of the schema."""
    said = {"dnnamo": msgspec.json.encode({"format": FORMAT, **metadata})}
    schema = _schema(events).with_metadata(said)
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for part in _parts(events, schema):
            writer.write_table(part)


def write_csv(events: Events, metadata: Mapping[str, Any], file: BinaryIO) -> None:
    """Write the table as CSV with a header; an empty cell is no value."""
    schema = _schema(events)
    with pc.CSVWriter(file, schema) as writer:
        for part in _parts(events, schema):
            writer.write_table(part)


def _schema(events: Events) -> pa.Schema:
    columns = events.take(np.arange(0)).to_arrow().schema
    plain = [field.with_type(_plain(field.type)) for field in columns]
    return pa.schema([pa.field("row", pa.int64()), *plain])


def _plain(type_: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_dictionary(type_) else type_


def _parts(events: Events, schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the table in pieces, so that its text stands in memory once and not once a row."""
    for start in range(0, len(events), _ROWS_AT_ONCE):
        rows = np.arange(start, min(start + _ROWS_AT_ONCE, len(events)))
        yield events.take(rows).to_arrow().add_column(0, "row", pa.array(rows)).cast(schema)
