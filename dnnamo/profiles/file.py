"""The file that a profile's event table is stored as: Parquet, made small rather than common.

It holds no times but the gaps between them, see `dnnamo.profiles.gaps`, which are alike for events of one name. So do
most other columns say the same of these. That is why values stand in the order of the events' names, all of one name
together; only those columns keep the order of the rows whose values go with it. `name_code` has the number of each
row's name, in the order of the rows, by which reading puts them back. `parent` follows from the times and is left out,
and so is what has no value in any row.

Most columns are about one kind of event and have no value in the other rows, and a null in Parquet takes as long to
write as a value. So there are none: a row group is a single row, in which each column is the list of its values.
Which rows have one is told by the lengths of runs of those that do not and those that do, by turns and in the order of
the names; columns of the same rows share them, in a column `there.` and a number. A column of text is the numbers of
its texts, which stand in the first row group alone, in a column `texts.` and its name.

| format | |
|---|---|
| 3 | this one |
| 2 | a row an event, with nulls; it is still read |
| 1 | `start_ns` and `duration_ns` as they are, all columns in the order of the rows; it is still read, too |
"""

import zlib
from base64 import b64decode, b64encode
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from itertools import accumulate, pairwise
from os import PathLike
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dnnamo.errors import SchemaMismatch
from dnnamo.profiles.arrow import LEAF, column_of, lists_of, numbers_of, texts_of
from dnnamo.profiles.events import Column, Events, Ints, Texts, take
from dnnamo.profiles.gaps import Gaps, gaps_of, order_of, times_of
from dnnamo.profiles.lists import TEXTS, Lists, Values, spread
from dnnamo.profiles.nesting import Nesting

__all__ = ["FORMAT", "Part", "Source", "begin_ns", "metadata_of", "read_events", "read_overlapping", "write_events"]

FORMAT = 3
"""Version of the file; it stands in each that is written."""

Source = bytes | str | PathLike[str]
Rows = NDArray[np.intp]

_ROWS_A_GROUP = 1 << 17
_ROWS_A_PIECE = 1 << 15  # such pieces stay in a processor's cache
_SAID = "dnnamo"

_CODE = "name_code"
_GAPS = ("closed", "before_start_ns", "before_end_ns")
_OWN = {_CODE, *_GAPS}
_TIMES = ("start_ns", "duration_ns")
_LEFT_OUT = {*_TIMES, "parent"}
_OF_FILE = ("format", "by_name", "there", "rows", "bounds")

# What goes with the order of the rows: where they ran, and numbers that count up with them.
_AS_ROWS = frozenset(
    {"process", "thread", "layer", "operation", "correlation", "sequence", "step", "launcher", "forward"}
    | {"args.Ev Idx", "args.Python id"}
)


def write_events(events: Events, metadata: Mapping[str, Any], nesting: Nesting | None = None) -> bytes:
    """Return the table as a file.

    Args:
        events: The table.
        metadata: What belongs to the profile as a whole, JSON values.
        nesting: What `events.nest()` gives, if it is known.
    """
    columns, said = _stored(events, nesting or events.nest())
    return _parquet(columns, {**said, **metadata})


def _stored(events: Events, nesting: Nesting) -> tuple[dict[str, Values], dict[str, Any]]:
    """Return the columns of the file, and what it says of itself."""
    groups = [slice(at, min(at + _ROWS_A_GROUP, len(events))) for at in range(0, len(events), _ROWS_A_GROUP)]
    code = events.name.codes.astype(np.int64)
    lists = Lists(groups, _by_name(code, groups))
    lists.add(_CODE, code, by_name=False)
    for name, gaps in _gaps(events, nesting.depth, groups).items():
        lists.add(name, gaps, by_name=True)
    for name, column in events.kept.items():
        if name not in _LEFT_OUT:
            lists.add(name, column, by_name=name not in _AS_ROWS)
    return lists.columns, {
        "format": FORMAT,
        "by_name": lists.by_name,
        "there": lists.there,
        "rows": [rows.stop - rows.start for rows in groups],
        "bounds": [_bounds(events.start_ns[rows], events.end_ns[rows]) for rows in groups],
    }


def _bounds(start: Ints, end: Ints) -> tuple[int, int]:
    """Return when the first of some events began and the last ended."""
    return (int(start.min()), int(max(start.max(), end.max()))) if len(start) else (0, 0)


def _gaps(events: Events, depth: Ints, groups: Sequence[slice]) -> dict[str, Ints]:
    """Return the times as columns of gaps."""
    gaps = Gaps(*np.empty((len(_GAPS), len(events)), np.int64))
    for rows in _pieces(groups):
        for column, values in zip(gaps, gaps_of(events.start_ns[rows], events.end_ns[rows], depth[rows]), strict=True):
            column[rows] = values
    return dict(zip(_GAPS, gaps, strict=True))


def _pieces(groups: Sequence[slice]) -> list[slice]:
    """Return the rows that are made gaps of by themselves."""
    return [
        slice(at, min(at + _ROWS_A_PIECE, rows.stop))
        for rows in groups
        for at in range(rows.start, rows.stop, _ROWS_A_PIECE)
    ]


def _by_name(code: Ints, groups: Sequence[slice]) -> Rows:
    """Return the rows of each row group sorted by the number of their name, -1 where they have none."""
    order = np.empty(len(code), np.intp)
    for rows in groups:
        order[rows] = rows.start + order_of(code[rows] + 1)
    return order


def _parquet(columns: Mapping[str, Values], said: Mapping[str, Any]) -> bytes:
    lists = {name: lists_of(*values) for name, values in columns.items()}
    schema = pa.schema([pa.field(name, column.type, nullable=False) for name, column in lists.items()])
    numbers = {name: values.all for name, values in columns.items() if isinstance(values.all, np.ndarray)}
    file = BytesIO()
    with pq.ParquetWriter(
        file,
        schema,
        compression="zstd",
        compression_level=3,
        use_dictionary=False,
        column_encoding={LEAF.format(name): _encoding(name, values) for name, values in numbers.items()},
        write_statistics=False,  # they would be most of a small profile's file
        store_schema=False,
    ) as writer:
        writer.write_table(pa.table(lists, schema), row_group_size=1)
        writer.add_key_value_metadata({_SAID: _packed(said)})
    return file.getvalue()


def _encoding(name: str, values: NDArray[Any]) -> str:
    """Return how numbers become smallest: as differences if these repeat more than they do, else byte by byte."""
    is_delta = name in _AS_ROWS or (name not in _OWN and _is_regular(values))
    return "DELTA_BINARY_PACKED" if is_delta else "BYTE_STREAM_SPLIT"


def _is_regular(values: Ints) -> bool:
    """Return whether differences between neighbours repeat clearly more than values do."""
    steps = np.diff(values)
    return bool(np.count_nonzero(steps[1:] != steps[:-1]) < 0.9 * np.count_nonzero(steps))


def _packed(said: Mapping[str, Any]) -> bytes:
    # A header lists all devices of a machine, and Parquet compresses no metadata.
    return b64encode(zlib.compress(msgspec.json.encode(said)))


class Part(NamedTuple):
    """Some events of a file.

    Attributes:
        events: The events without their parents; their links are numbers of rows of the whole table.
        rows: Their own numbers in it.
        whole: How many rows it has.
    """

    events: Events
    rows: Ints
    whole: int


def read_events(source: Source) -> tuple[Events, dict[str, Any]]:
    """Return the table and the metadata that `write_events` wrote, from the bytes or the path of the file.

    Raises:
        SchemaMismatch: If a later version of Dnnamo wrote it, in a format that this one does not know.
    """
    with _opened(source) as file:
        events, metadata = file.read(range(len(file.groups))).events(), file.metadata
    return events.replace(parent=events.nest().parent), metadata


def read_overlapping(source: Source, begin_ns: int, end_ns: int) -> Part:
    """Return the events that overlap a stretch of time, read from those row groups that may have some.

    Args:
        source: Bytes or path of the file.
        begin_ns: Where the stretch begins, on the profiler's clock.
        end_ns: Where it ends, itself not part of it.

    Raises:
        SchemaMismatch: As for `read_events`.
    """
    with _opened(source) as file:
        groups = [at for at, (first, last) in enumerate(file.bounds) if first < end_ns and last >= begin_ns]
        found = file.read(groups)
        numbers = np.concatenate([np.arange(0), *(np.arange(*file.groups[group]) for group in groups)])
        whole = file.groups[-1][1] if file.groups else 0
    inside = found.overlapping(begin_ns, end_ns)
    return Part(found.events(inside if len(inside) < whole else None), numbers[inside], whole)


def metadata_of(source: Source) -> dict[str, Any]:
    """Return what the file says of the profile as a whole; errors as for `read_events`."""
    with _opened(source) as file:
        return file.metadata


def begin_ns(source: Source) -> int:
    """Return when the first event started, on the profiler's clock; 0 for no events. It reads the file's end alone."""
    with _opened(source) as file:
        return min((first for first, _ in file.bounds), default=0)


@dataclass(frozen=True)
class _Table:
    """Events as the file has them, but for the times.

    Attributes:
        columns: The columns by name.
        by_name: Which of them are in the order of the names.
        places: Where the values of each row stand in these.
    """

    columns: dict[str, Column]
    by_name: Collection[str]
    places: Rows

    def overlapping(self, begin_ns: int, end_ns: int) -> Rows:
        """Return the rows of the events that overlap a stretch of time."""
        start, duration = (cast("Ints", self.columns[name]) for name in _TIMES)
        has_begun, is_moment = start < end_ns, duration <= 0
        return np.flatnonzero(has_begun & np.where(is_moment, start >= begin_ns, start + duration > begin_ns))

    def events(self, rows: Rows | None = None) -> Events:
        """Return the events of some rows, by default of all, without their parents."""
        places = self.places if rows is None else self.places[rows]
        columns = {}
        for name, column in self.columns.items():
            wanted = places if name in self.by_name else rows
            columns[name] = column if wanted is None else take(column, wanted)
        return Events.from_named(columns, len(places))


@dataclass(frozen=True)
class _File:
    """A file that is open for its parts to be read.

    Attributes:
        parquet: Its tables.
        said: What it says of itself and of the profile.
    """

    parquet: pq.ParquetFile
    said: dict[str, Any]

    @property
    def metadata(self) -> dict[str, Any]:
        """What it says of the profile as a whole."""
        return {name: value for name, value in self.said.items() if name not in _OF_FILE}

    @cached_property
    def groups(self) -> list[tuple[int, int]]:
        """The first row of each row group, and the one after the last."""
        metadata = self.parquet.metadata
        lengths = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        return list(pairwise(accumulate(self.said.get("rows", lengths), initial=0)))

    @property
    def bounds(self) -> Sequence[tuple[int, int]]:
        """When the first event of each row group began, and when the last ended."""
        return self.said["bounds"] if self.said["format"] > 1 else list(map(self._stated, range(len(self.groups))))

    def _stated(self, group: int) -> tuple[int, int]:
        """Return the bounds of a row group as Parquet's statistics give them."""
        row_group, names = self.parquet.metadata.row_group(group), self.parquet.schema.names
        start, duration = (row_group.column(names.index(name)).statistics for name in _TIMES)
        return (start.min, start.max + duration.max) if row_group.num_rows else (0, 0)

    def read(self, groups: Sequence[int]) -> _Table:
        """Return the events of some row groups."""
        if self.said["format"] == 1:
            flat = self._flat(groups)
            return _Table(flat, (), np.arange(len(flat["name"])))
        ends = accumulate((last - first for first, last in map(self.groups.__getitem__, groups)), initial=0)
        rows = [slice(first, last) for first, last in pairwise(ends)]
        columns, by_name = self._flat(groups) if self.said["format"] == 2 else self._lists(groups), self.said["by_name"]
        code = cast("Ints", columns.pop(_CODE))
        places = np.empty(len(code), np.intp)
        places[_by_name(code, rows)] = np.arange(len(code))
        if self.said["format"] > 2:
            columns = spread(columns, self.said["there"], by_name, places)
        gaps = Gaps(*(cast("Ints", take(columns.pop(name), places)) for name in _GAPS))
        return _Table({**columns, **_times(gaps, rows)}, by_name, places)

    def _flat(self, groups: Sequence[int]) -> dict[str, Column]:
        """Return the columns of some row groups that have a row an event."""
        table = self.parquet.read_row_groups(groups)
        return {name: column_of(table.column(name)) for name in table.column_names}

    def _lists(self, groups: Sequence[int]) -> dict[str, Column]:
        """Return the values of the columns of lists in some row groups."""
        names = self.parquet.schema_arrow.names
        texts = [name for name in names if name.startswith(TEXTS)]
        table = self.parquet.read_row_groups(groups, [name for name in names if name not in texts])
        head = self.parquet.read_row_groups([0][: len(self.groups)], texts)
        columns: dict[str, Column] = {}
        for name in table.column_names:
            numbers = numbers_of(table.column(name))
            columns[name] = (
                Texts(numbers, texts_of(head.column(TEXTS + name)))
                if TEXTS + name in texts
                else numbers.astype(np.int64)
            )
        return columns


def _times(gaps: Gaps, groups: Sequence[slice]) -> dict[str, Ints]:
    """Undo what `_gaps` did."""
    start, end = np.empty((2, len(gaps.closed)), np.int64)
    for rows in _pieces(groups):
        start[rows], end[rows] = times_of(Gaps(*(column[rows] for column in gaps)))
    return dict(zip(_TIMES, (start, end - start), strict=True))


@contextmanager
def _opened(source: Source) -> Iterator[_File]:
    with pq.ParquetFile(_input(source)) as file:
        schema, metadata = file.schema_arrow, file.metadata
    said = _said_in(metadata)
    if said["format"] > FORMAT:
        what = "The stored event table" if isinstance(source, bytes) else str(source)
        raise SchemaMismatch(
            f"{what} is of format {said['format']}, and this version of Dnnamo reads formats up to {FORMAT}. "
            "A later version wrote it: upgrade Dnnamo to read it."
        )
    # Later formats have no columns of texts as long as the table.
    texts = [field.name for field in schema if said["format"] < 3 and not pa.types.is_integer(field.type)]
    with pq.ParquetFile(_input(source), metadata=metadata, read_dictionary=texts) as file:
        yield _File(file, said)


def _input(source: Source) -> Any:
    return pa.BufferReader(source) if isinstance(source, bytes) else source


def _said_in(metadata: pq.FileMetaData) -> dict[str, Any]:
    said: dict[str, Any] = msgspec.json.decode(zlib.decompress(b64decode(metadata.metadata[_SAID.encode()])))
    return said
