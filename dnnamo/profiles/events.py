"""The normal form of a profile: one table of events, the same for every source.

A row is something that a profiler recorded: an operation, a kernel, a copy, a call of the runtime, a mark. The words
are Kineto's, and readers of other formats translate into them; the categories are

| category | what it is |
|---|---|
| `cpu_op` | an operation of the framework on a host thread |
| `layer` | a call of a layer of the model, named by its path |
| `user_annotation`, `python_function` | a range that the user marked; a call of a Python function |
| `step` | a step, named by its number |
| `cuda_runtime`, `cuda_driver` | a call that a host thread made to the device's runtime |
| `kernel`, `gpu_memcpy`, `gpu_memset` | work of a device, on one of its streams |
| `gpu_user_annotation` | the span on a stream of what was launched within a mark; no work of its own |
| `cpu_instant_event` | a moment; `[memory]` is an allocation (bytes > 0) or a release (bytes < 0) |
| `overhead` | the profiler's own work |

and whatever else a file holds, by its own name.
"""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from dataclasses import dataclass, field, fields, replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dnnamo.profiles.columns import NONE, Column, Ints, Texts, nothing, rows_of
from dnnamo.profiles.nesting import Nesting, nest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from os import PathLike

    from numpy.typing import NDArray

__all__ = [
    "FORMAT",
    "NONE",
    "Column",
    "Events",
    "Ints",
    "Texts",
    "metadata_of",
    "nothing",
    "open_events",
    "read_events",
    "write_events",
]

FORMAT = 1
"""Version of the table's columns and of what they mean; it stands in each file that is written."""

_ARGS = "args."
_ALWAYS = ("name", "start_ns", "duration_ns")
_ROWS_A_GROUP = 1 << 17
_SAID = "dnnamo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """The events of one profile, as columns of equal length; rows are sorted by process, thread, start.

    Of what starts at the same time on one thread the longer comes first, so that an event comes after its parent.
    `link` of `dnnamo.profiles.links` fills in the columns from `parent` on.

    Attributes:
        name: What ran.
        category: What kind of thing that is; see the module.
        phase: Chrome's letter: `X` has a duration, `i` is a moment, `C` a counter, `s`, `t` and `f` an arrow's parts.
        process: Process, or device for what ran on one, as the source identifies it.
        thread: Thread, or stream, likewise.
        start_ns: Start on the profiler's clock, nanoseconds; add `base_ns` of the metadata for Unix time.
        duration_ns: Nanoseconds, 0 for a moment.
        device: Number of the device that it ran on or is about, none for a host event.
        stream: Stream of that device.
        operation: Id that an operation has, and what was launched within it repeats (Kineto's External id).
        correlation: Id that a runtime call and the kernel that it launched have in common.
        sequence: Number that a forward operation and its backward ones have in common, on one forward thread.
        forward_thread: For backward operations, the number of the thread that the forward one ran on.
        bytes: Bytes copied, set or allocated; negative where they were released.
        flops: Floating-point operations that it took.
        shapes: Shape of each input, JSON.
        dtypes: Element type of each input, JSON.
        parent: Row of the event that it ran in, on the same thread.
        step: Number of the step that it, or what launched it, started in.
        launcher: For work of a device, row of the operation that launched it.
        forward: For a backward operation, row of the forward one.
        layer: Path of the layer that it ran in, or that its forward operation or launcher ran in.
        args: Everything else that the source says, by its own names. Values that are no integers are JSON.
    """

    name: Texts
    category: Texts
    phase: Texts
    process: Texts
    thread: Texts
    start_ns: Ints
    duration_ns: Ints
    device: Ints
    stream: Ints
    operation: Ints
    correlation: Ints
    sequence: Ints
    forward_thread: Ints
    bytes: Ints
    flops: Ints
    shapes: Texts
    dtypes: Texts
    parent: Ints
    step: Ints
    launcher: Ints
    forward: Ints
    layer: Texts
    args: dict[str, Column] = field(default_factory=dict)

    @classmethod
    def of(cls, columns: Mapping[str, Column], args: Mapping[str, Column]) -> Events:
        """Build the table of some columns, all of one length; those that are left out have no values.

        The phase is `X` unless given; the rows are sorted.
        """
        count = len(columns["name"])
        given = {"phase": Texts.same("X", count), **columns}
        whole = {name: given.get(name, _EMPTY[name](count)) for name in _EMPTY}
        return cls(**whole, args=dict(args))._sorted()  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.start_ns)

    @property
    def end_ns(self) -> Ints:
        """When each event ended."""
        return self.start_ns + self.duration_ns

    @property
    def columns(self) -> dict[str, Column]:
        """The columns by name, those of `args` left out."""
        return {name: getattr(self, name) for name in _EMPTY}

    def nest(self) -> Nesting:
        """Find out how the events lie within each other, each thread by itself."""
        return nest(self.start_ns, self.end_ns, self._tracks())

    def _tracks(self) -> Ints:
        """Number the threads in the order of the rows."""
        number = np.zeros(len(self), np.int64)
        number[self.thread_starts[1:]] = 1
        return np.cumsum(number)

    @property
    def thread_starts(self) -> NDArray[np.intp]:
        """The first row of each thread."""
        process, thread = self.process.codes, self.thread.codes
        changes = np.flatnonzero((process[1:] != process[:-1]) | (thread[1:] != thread[:-1])) + 1
        return np.concatenate([np.zeros(min(len(self), 1), np.intp), changes])

    def take(self, rows: NDArray[Any]) -> Events:
        """Return the table of these rows, indices or a mask; links between rows keep the numbers of this table."""
        args = {name: _take(column, rows) for name, column in self.args.items()}
        return Events(**{n: _take(c, rows) for n, c in self.columns.items()}, args=args)  # type: ignore[arg-type]

    def only(self, *names: str) -> Events:
        """Return the table with the values of some columns alone, so that taking rows of it is quick."""
        count = len(self)
        whole = {name: getattr(self, name) if name in names else empty(count) for name, empty in _EMPTY.items()}
        return Events(**whole)  # type: ignore[arg-type]

    def replace(self, **columns: Any) -> Events:
        """Return the table with other columns in place of some."""
        return replace(self, **columns)

    def _sorted(self) -> Events:
        keys = (self.process.codes, self.thread.codes, self.start_ns, -self.duration_ns)
        if _is_sorted(keys):  # as readers give them; to sort again would take longer than to look
            return self
        return self.take(np.lexsort(keys[::-1]))  # stable, so that the source's order decides what is left

    def to_arrow(self) -> pa.Table:
        """Return the table as Arrow has it: dictionaries for text, nulls for no value, `args.` before their names."""
        named = self.columns | {_ARGS + name: column for name, column in self.args.items()}
        return pa.table({name: _to_arrow(column) for name, column in named.items()})

    @classmethod
    def from_arrow(cls, table: pa.Table) -> Events:
        """Return the table that `to_arrow` gave, or some rows and columns of it."""
        columns = {name: _from_arrow(table.column(name)) for name in table.column_names}
        core = {name: columns.pop(name) if name in columns else _EMPTY[name](len(table)) for name in _EMPTY}
        args = {name.removeprefix(_ARGS): column for name, column in columns.items()}
        return cls(**core, args=args)  # type: ignore[arg-type]


# How each column looks in which no row has a value, in the order of the columns.
_EMPTY: dict[str, Callable[[int], Column]] = {
    column.name: (lambda count: Texts.same(None, count)) if column.type == "Texts" else nothing
    for column in fields(Events)
    if column.name != "args"
}


def _is_sorted(keys: Sequence[NDArray[Any]]) -> bool:
    """Return whether rows are sorted by the first key, and where that is equal by the next."""
    undecided = np.ones(max(len(keys[0]) - 1, 0), bool)
    for key in keys:
        if (key[1:] < key[:-1])[undecided].any():
            return False
        undecided &= key[1:] == key[:-1]
    return True


def _take(column: Column, rows: NDArray[Any]) -> Column:
    return column.take(rows) if isinstance(column, Texts) else rows_of(column, rows)


def _to_arrow(column: Column) -> pa.Array:
    # Not `pa.array`, which imports pandas if there is one, and that takes 0.3 s.
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


def _from_arrow(column: pa.ChunkedArray) -> Column:
    # Not `to_numpy`, for the same reason.
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


def write_events(events: Events, metadata: Mapping[str, Any]) -> bytes:
    """Return the table as a Parquet file, small rather than common: delta encoding, dictionaries, zstd.

    It leaves out columns without values, and `parent`, which follows from the times and would be a sixth of the file.

    Args:
        events: The table.
        metadata: What belongs to the profile as a whole, JSON values.
    """
    table = events.to_arrow().drop_columns(["parent"])
    given = [name for name in table.column_names if name in _ALWAYS or table[name].null_count < len(table)]
    numbers = [name for name in given if pa.types.is_integer(table[name].type)]
    # Durations scatter, so that their high bytes compress and their differences do not.
    encodings = dict.fromkeys(numbers, "DELTA_BINARY_PACKED") | {"duration_ns": "BYTE_STREAM_SPLIT"}
    file = BytesIO()
    with pq.ParquetWriter(
        file,
        table.select(given).schema,
        compression="zstd",
        compression_level=3,
        use_dictionary=[name for name in given if name not in encodings],
        column_encoding=encodings,
        # More of these would be most of a small profile's file.
        write_statistics=["start_ns", "duration_ns"],
        store_schema=False,
    ) as writer:
        writer.write_table(table.select(given), row_group_size=_ROWS_A_GROUP)
        writer.add_key_value_metadata({_SAID: _packed({"format": FORMAT, **metadata})})
    return file.getvalue()


def _packed(said: Mapping[str, Any]) -> bytes:
    # A header lists all devices of a machine, and Parquet compresses no metadata.
    return b64encode(zlib.compress(msgspec.json.encode(said)))


def open_events(source: bytes | str | PathLike[str]) -> pq.ParquetFile:
    """Open the file that `write_events` wrote, for its parts to be read."""
    with pq.ParquetFile(_input(source)) as file:
        schema, metadata = file.schema_arrow, file.metadata
    texts = [column.name for column in schema if not pa.types.is_integer(column.type)]
    return pq.ParquetFile(_input(source), metadata=metadata, read_dictionary=texts)


def _input(source: bytes | str | PathLike[str]) -> Any:
    return pa.BufferReader(source) if isinstance(source, bytes) else source


def metadata_of(source: bytes | str | PathLike[str]) -> dict[str, Any]:
    """Return what a file that `write_events` wrote says of the profile as a whole."""
    with open_events(source) as file:
        return _said_in(file)


def _said_in(file: pq.ParquetFile) -> dict[str, Any]:
    said: dict[str, Any] = msgspec.json.decode(zlib.decompress(b64decode(file.metadata.metadata[_SAID.encode()])))
    return said


def read_events(source: bytes | str | PathLike[str]) -> tuple[Events, dict[str, Any]]:
    """Return the table and the metadata that `write_events` wrote, from the bytes or the path of the file."""
    with open_events(source) as file:
        events, said = Events.from_arrow(file.read()), _said_in(file)
    return events.replace(parent=events.nest().parent), said
