"""Operation tables: the calls of a linked event table, added up by what they have in common."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dnnamo.profiles.columns import sum_at
from dnnamo.profiles.events import NONE, Events, Ints
from dnnamo.profiles.flops import CountedOperation
from dnnamo.profiles.links import DEVICE_WORK, RUNTIME, is_step
from dnnamo.profiles.memory import Allocations
from dnnamo.profiles.nesting import Nesting
from dnnamo.records import Grain, Operation

__all__ = ["OPERATIONS", "Calls", "calls_of", "tables"]

OPERATIONS = ("cpu_op", "user_annotation", *RUNTIME)
"""Categories of what counts as an operation on the host."""

# What PyTorch's own tables leave out (`torch.autograd.profiler.profile._parse_kineto_results`, `_filter_name`).
_NO_OPERATIONS = (
    "[memory]",
    "[OutOfMemory]",
    "profiler::_record_function_enter",
    "profiler::_record_function_enter_new",
    "profiler::_record_function_exit",
    "aten::is_leaf",
    "aten::output_nr",
    "aten::_version",
)

_OF_CALLS = ("name", "process", "thread", "start_ns", "duration_ns", "bytes", "shapes", "layer")
_OF_WORK = ("name", "category", "start_ns", "duration_ns", "device", "correlation", "bytes", "step", "launcher")

Rows = NDArray[np.intp]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Calls:
    """The calls of operations within the counted part of a profile; all columns have a row a call.

    Attributes:
        events: The calls.
        self_ns: Host time of each, without the operations that it called.
        device_ns: Time of the kernels and copies that it launched itself.
        device_total_ns: Time of those that it or an operation that it called launched.
        bytes: Bytes that it copied, set or allocated itself, NONE where that is not known.
        peak_bytes: Most memory that was allocated at once while it ran, NONE where that is not known.
        kept: Rows that count as a call. An operation that only dispatches to its namesake and that one are one call, as
            in PyTorch's own tables (`torch.autograd.profiler_util.EventList._remove_dup_nodes`): `aten::mean` goes
            through several dispatch keys, each of which records it.
        overlaps: How many ended after the one that they began in.
        work: What devices did for these calls.
    """

    events: Events
    self_ns: Ints
    device_ns: Ints
    device_total_ns: Ints
    bytes: Ints
    peak_bytes: Ints
    kept: Rows
    overlaps: int
    work: Events


def _is_counted(events: Events) -> Mask:
    """Return which rows lie in the counted part of a profile: the marked steps, or everything if there are none."""
    return events.step != NONE if is_step(events).any() else np.ones(len(events), bool)


def calls_of(events: Events, nesting: Nesting, changes: Allocations) -> Calls:
    """Find the calls of a linked table, with what each of them took.

    Args:
        events: The table.
        nesting: How its events lie within each other.
        changes: What was allocated meanwhile.
    """
    counted = _is_counted(events)
    is_work = events.category.equal(*DEVICE_WORK)
    is_call = events.category.equal(*OPERATIONS) & events.phase.equal("X") & ~events.name.equal(*_NO_OPERATIONS)
    rows = np.flatnonzero(is_call & counted & ~is_step(events))
    calls, work = events.only(*_OF_CALLS).take(rows), events.only(*_OF_WORK).take(is_work & counted)
    at = np.full(len(events), NONE)
    at[rows] = np.arange(len(rows))
    among_calls = calls.nest()
    device = sum_at(_within(at, work.launcher), work.duration_ns, len(rows))
    allocated, peak = _memory(changes, nesting.inherited(np.where(at == NONE, -1, at)), len(rows))
    copied = sum_at(_within(at, work.launcher), work.bytes, len(rows), missing=NONE)
    return _merged(
        Calls(
            events=calls,
            self_ns=among_calls.self_ns(),
            device_ns=device,
            device_total_ns=among_calls.with_nested(device),
            bytes=_plus(calls.bytes, _plus(copied, allocated)),
            peak_bytes=among_calls.greatest_nested(peak),
            kept=np.arange(len(rows)),
            overlaps=len(among_calls.overlaps),
            work=work,
        ),
        among_calls,
    )


def _within(at: Ints, rows: Ints) -> Ints:
    """Return the positions of rows, NONE for those that have none."""
    found = np.full(len(rows), NONE)
    known = rows != NONE
    found[known] = at[rows[known]]
    return found


def _plus(a: Ints, b: Ints) -> Ints:
    return np.where(a == NONE, b, np.where(b == NONE, a, a + b))


def _memory(changes: Allocations, call_around: Ints, count: int) -> tuple[Ints, Ints]:
    """Return for each call what was allocated right in it, and the most that was allocated at once meanwhile."""
    caller, size = call_around[changes.rows], changes.bytes
    allocated = sum_at(np.where((caller >= 0) & (size > 0), caller, NONE), size, count, missing=NONE)
    peak = np.full(count, NONE)
    np.maximum.at(peak, caller[caller >= 0], changes.held_bytes[caller >= 0])
    return allocated, peak


def _merged(calls: Calls, nesting: Nesting) -> Calls:
    """Take an operation whose only callee is its namesake, and that one, as one call."""
    count = len(calls.events)
    inner = np.flatnonzero(nesting.parent != NONE)
    callees = np.bincount(nesting.parent[inner], minlength=count)
    name, outermost = calls.events.name.codes, np.arange(count)
    for rows in nesting.inner_levels:
        caller = outermost[nesting.parent[rows]]
        same = (callees[caller] == 1) & (name[caller] == name[rows])
        outermost[rows[same]] = caller[same]
        callees[caller[same]] = callees[rows[same]]
    own, device = np.zeros(count, np.int64), np.zeros(count, np.int64)
    np.add.at(own, outermost, calls.self_ns)
    np.add.at(device, outermost, calls.device_ns)
    return replace(
        calls,
        self_ns=own,
        device_ns=device,
        bytes=sum_at(outermost, calls.bytes, count, missing=NONE),
        kept=np.flatnonzero(outermost == np.arange(count)),
    )


def tables(calls: Calls, *, counted: Sequence[CountedOperation] = (), steps: int = 1) -> dict[Grain, list[Operation]]:
    """Return the operation table at each grain that the calls tell something of.

    Args:
        calls: The calls.
        counted: Floating-point operations of one step.
        steps: How many steps the calls are of.
    """
    found: dict[Grain, list[Operation]] = {"name": _by_name(calls, counted, steps)}
    if (calls.events.shapes.codes >= 0).any():
        found["shape"] = _by_shape(calls, counted, steps)
    if (calls.events.layer.codes >= 0).any():
        found["layer"] = _by_layer(calls, counted, steps)
    if len(calls.work):
        found["kernel"] = _by_kernel(calls.work)
    return found


def _by_name(calls: Calls, counted: Sequence[CountedOperation], steps: int) -> list[Operation]:
    name = calls.events.name
    flops = _flops(counted, steps, lambda operation: operation.name)
    rows = _rows(calls, name.codes.astype(np.int64))
    return _by_self_time(
        Operation(name=name.values[key], flops=flops.get(name.values[key]), **row) for key, row in rows
    )


def _by_shape(calls: Calls, counted: Sequence[CountedOperation], steps: int) -> list[Operation]:
    name, shapes = calls.events.name, calls.events.shapes
    flops = _flops(counted, steps, lambda operation: (operation.name, operation.shapes))
    width = len(shapes.values) + 1
    decoded = [*(msgspec.json.decode(text) for text in shapes.values), None]
    rows = _rows(calls, name.codes.astype(np.int64) * width + shapes.codes + 1)

    def row_of(key: int, row: dict[str, Any]) -> Operation:
        which, shape = name.values[key // width], key % width - 1
        text = shapes.values[shape] if shape >= 0 else None
        return Operation(name=which, shapes=decoded[shape], flops=flops.get((which, text)), **row)

    return _by_self_time(row_of(key, row) for key, row in rows)


def _by_layer(calls: Calls, counted: Sequence[CountedOperation], steps: int) -> list[Operation]:
    """Return a row a layer, those included in which nothing ran but in the layers below them."""
    values = [*calls.events.layer.values, ""]
    codes = np.where(calls.events.layer.codes < 0, values.index(""), calls.events.layer.codes)
    own = {values[key]: row for key, row in _rows(calls, codes)}
    flops = _flops(counted, steps, lambda operation: operation.layer or "")
    table: dict[str, dict[str, Any]] = {}
    for path, row in own.items():
        for layer in (path, *_above(path)):
            whole = table.setdefault(layer, {**_NOTHING, **own.get(layer, {}), "total_ns": 0, "device_total_ns": 0})
            whole["total_ns"] += row["self_ns"]
            whole["device_total_ns"] += row["device_ns"]
    return _by_self_time(Operation(name=path, flops=flops.get(path), **row) for path, row in table.items())


_NOTHING = {"calls": 0, "self_ns": 0, "device_ns": 0}


def _above(path: str) -> list[str]:
    """Return the paths of the layers that one is part of, the whole model's, which is empty, included."""
    ends = [at for at, letter in enumerate(path) if letter in "./"]
    return [path[:end] for end in ends if end] + ([""] if path else [])


def _by_kernel(work: Events) -> list[Operation]:
    count = len(work.name.values)
    keys = work.name.codes.astype(np.int64)
    calls, device = np.bincount(keys, minlength=count).tolist(), sum_at(keys, work.duration_ns, count).tolist()
    moved = sum_at(keys, work.bytes, count, missing=NONE).tolist()
    rows = [
        Operation(
            name=work.name.values[key],
            calls=calls[key],
            self_ns=0,
            total_ns=0,
            device_ns=device[key],
            device_total_ns=device[key],
            bytes=_known(moved[key]),
        )
        for key in np.unique(keys).tolist()
    ]
    return sorted(rows, key=lambda row: (-row.device_ns, row.name))


def _rows(calls: Calls, keys: Ints) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each key with the figures of its calls, as `Operation` names them."""
    kept = calls.kept
    found, group = _groups(keys[kept])
    count = len(found)
    peak = np.full(count, NONE)
    np.maximum.at(peak, group, calls.peak_bytes[kept])
    columns = {
        "calls": np.bincount(group, minlength=count),
        "self_ns": sum_at(group, calls.self_ns[kept], count),
        "total_ns": sum_at(group, calls.events.duration_ns[kept], count),
        "device_ns": sum_at(group, calls.device_ns[kept], count),
        "device_total_ns": sum_at(group, calls.device_total_ns[kept], count),
        "bytes": sum_at(group, calls.bytes[kept], count, missing=NONE),
        "peak_bytes": peak,
    }
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    for key, row in zip(found.tolist(), values, strict=True):
        yield key, {name: _known(value) for name, value in zip(columns, row, strict=True)}


def _groups(keys: Ints) -> tuple[Ints, Ints]:
    """Return the different keys, and for each row the position of its own among them; as `np.unique`, faster."""
    if not len(keys) or np.ptp(keys) > 4 * len(keys):
        return np.unique(keys, return_inverse=True)
    least = keys.min()
    there = np.bincount(keys - least) > 0
    return np.flatnonzero(there) + least, (np.cumsum(there) - 1)[keys - least]


def _known(value: int) -> int | None:
    return None if value == NONE else value


def _flops(counted: Sequence[CountedOperation], steps: int, key: Callable[[CountedOperation], Any]) -> dict[Any, int]:
    """Add up what was counted by a key, for all steps; keys with an operation that was not counted are left out."""
    sums: dict[Any, int] = {}
    for operation in counted:
        sums[key(operation)] = sums.get(key(operation), 0) + (operation.flops or 0) * steps
    unknown = {key(operation) for operation in counted if operation.flops is None}
    return {found: flops for found, flops in sums.items() if found not in unknown}


def _by_self_time(rows: Iterator[Operation]) -> list[Operation]:
    return sorted(rows, key=lambda row: (-row.self_ns, row.name))
