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

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from dnnamo.profiles.arrow import arrow_of, column_of
from dnnamo.profiles.columns import NONE, Column, Ints, Texts, nothing, rows_of
from dnnamo.profiles.nesting import Nesting, nest
from dnnamo.profiles.sparse import Sparse, SparseColumns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["FORMAT", "NONE", "Column", "Events", "Ints", "Texts", "nothing", "take"]

FORMAT = 1
"""Version of the table's columns and of what they mean; it stands in what is exported."""

_ARGS = "args."


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
    args: Mapping[str, Column] = field(default_factory=dict)

    @classmethod
    def of(cls, columns: Mapping[str, Column], args: Mapping[str, Column]) -> Events:
        """Build the table of some columns, all of one length; those that are left out have no values.

        The phase is `X` unless given; the rows are sorted.
        """
        count = len(columns["name"])
        given = {"phase": Texts.same("X", count), **columns}
        whole = {name: given.get(name, _EMPTY[name](count)) for name in _EMPTY}
        return cls(**whole, args=args)._sorted()  # type: ignore[arg-type]

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
        args = {name: take(column, rows) for name, column in self.args.items()}
        return Events(**{n: take(c, rows) for n, c in self.columns.items()}, args=args)  # type: ignore[arg-type]

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

    @property
    def named(self) -> dict[str, Column]:
        """All columns by the names that they have in files: `args.` before those of `args`."""
        return self.columns | {_ARGS + name: column for name, column in self.args.items()}

    @property
    def kept(self) -> Mapping[str, Column | Sparse]:
        """All columns by the same names, as they are kept."""
        args = self.args.kept if isinstance(self.args, SparseColumns) else self.args
        return self.columns | {_ARGS + name: column for name, column in args.items()}

    @classmethod
    def from_named(cls, columns: Mapping[str, Column], count: int) -> Events:
        """Return the table of so many rows whose columns `named` gave; those that are left out have no values."""
        core = {name: columns[name] if name in columns else empty(count) for name, empty in _EMPTY.items()}
        args = {name.removeprefix(_ARGS): column for name, column in columns.items() if name not in _EMPTY}
        return cls(**core, args=args)  # type: ignore[arg-type]

    def to_arrow(self) -> pa.Table:
        """Return the table as Arrow has it: dictionaries for text, nulls for no value, `args.` before their names."""
        return pa.table({name: arrow_of(column) for name, column in self.named.items()})

    @classmethod
    def from_arrow(cls, table: pa.Table) -> Events:
        """Return the table that `to_arrow` gave, or some rows and columns of it."""
        return cls.from_named({name: column_of(table.column(name)) for name in table.column_names}, len(table))


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


def take(column: Column, rows: NDArray[Any]) -> Column:
    """Return some rows of a column: indices, or a mask."""
    return column.take(rows) if isinstance(column, Texts) else rows_of(column, rows)
