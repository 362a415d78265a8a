"""What the events of an XSpace's planes are, in the words of the normal form.

The names of planes, lines and stats are laid down in `xla/tsl/profiler/utils/xplane_schema.cc` of openxla/xla. What
counts as an operation follows `ParseTfOpFullname` in `tf_op_utils.cc` beside it: TensorFlow traces one as
`scope/name:OpType`, `OpType` being its display name. What stands on a stream of a GPU, and the host's call that
launched it, is written by `xla/backends/profiler/gpu/cupti_collector.cc` and its sister for AMD.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnnamo.profiles.events import NONE, Column, Ints, Texts, nothing
from dnnamo.profiles.readers.xplanes import Rows
from dnnamo.profiles.scopes import scope_of

__all__ = ["RUNTIME", "is_host", "meanings"]

RUNTIME = "runtime"
"""Category of what was traced on a host and is no operation: the executor's machinery, and marks without a number."""

_EAGER = "EagerLocalExecute: "
_COUNTERS = "_counters_"

_CHANGES = {"MemoryAllocation": 1, "MemoryDeallocation": -1}

# What a stream of a GPU holds besides kernels, as one stat of each tells.
_ON_STREAM = {
    "memcpy_details": "gpu_memcpy",
    "Memset_details": "gpu_memset",
    "memalloc_details": "MemoryAlloc",
    "MemFree_details": "MemoryFree",
    "MemoryResidency_details": "MemoryResidency",
}

_stream = re.compile(r"Stream #(\d+)").match
_bytes = re.compile(r"\b(?:size|num_bytes):(\d+)").search
_shape = re.compile(r"(\w*)\[([\d,]*)\]$").search

Mask = NDArray[np.bool_]
Columns = dict[str, Column]


def is_host(plane: Any) -> bool:
    """Return whether a plane holds threads of a host."""
    return bool(plane.name.startswith("/host:"))


def meanings(plane: Any, rows: Rows, devices: Mapping[str, int]) -> tuple[Columns, Columns]:
    """Return what the events of a plane are, as columns of `Events`, and its stats, as far as no column has them.

    Args:
        plane: The message.
        rows: Its events.
        devices: Numbers of the devices of its host, by the names of their planes.
    """
    args = dict(rows.stats)
    columns = _on_host(rows, args, devices) if is_host(plane) else _on_device(plane, rows, devices)
    args.pop("correlation_id", None)
    given = {"correlation": _ints(rows, "correlation_id"), "flops": _ints(rows, "flops")}
    return {**given, **columns}, args


class _Kind(NamedTuple):
    name: str
    category: str
    full: str | None = None


def _kind(name: str, display: str) -> _Kind:
    if display and name.endswith(f":{display}"):
        return _Kind(display, "cpu_op", name.removesuffix(f":{display}"))
    # Two underscores begin the name of a function, whose operations are traced themselves.
    if name.startswith(_EAGER) and not name.startswith(f"{_EAGER}__"):
        return _Kind(name.removeprefix(_EAGER), "cpu_op")
    if name.startswith("$"):  # so the tracer of Python calls marks its own
        return _Kind(name[1:], "python_function")
    if name.startswith("NVTX:"):
        return _Kind(name.removeprefix("NVTX:"), "user_annotation")
    return _Kind(name, RUNTIME)


def _on_host(rows: Rows, args: Columns, devices: Mapping[str, int]) -> Columns:
    kinds = [_kind(*names) for names in rows.kinds]
    name, category, full = (_by_kind(rows, [kind[part] for kind in kinds]) for part in range(3))
    category = _put(category, _around_traced(rows, category.equal("cpu_op"), full.codes >= 0), RUNTIME)
    is_hlo, is_call = _has(rows, "hlo_op"), _has(rows, "correlation_id")
    category = _put(category, is_hlo, "cpu_op")
    category = _put(category, is_call, "cuda_runtime")
    name = _overlaid(name, is_hlo & ~is_call, _mapped(name, _hlo_kind))
    steps = _steps(rows)
    name, category = _overlaid(name, steps.codes >= 0, steps), _put(category, steps.codes >= 0, "step")
    args["op"] = _mapped(full, _json)
    columns = {"name": name, "category": category, "layer": _layers(rows, full), **_inputs(rows)}
    is_change = _ints(rows, "allocation_bytes") != NONE
    return columns | _memory(rows, args, devices, name=name, category=category) if is_change.any() else columns


def _around_traced(rows: Rows, is_operation: Mask, is_traced: Mask) -> Mask:
    """Return which operations run one by one from Python hold the kernel's own trace, so that each counts once."""
    is_eager, found = is_operation & ~is_traced, np.zeros(len(rows), bool)
    for line in np.unique(rows.line[is_eager]).tolist():
        traced = np.sort(rows.start_ns[is_traced & (rows.line == line)])
        eager = np.flatnonzero(is_eager & (rows.line == line))
        found[eager] = np.searchsorted(traced, rows.start_ns[eager]) < np.searchsorted(traced, rows.end_ns[eager])
    return found


def _hlo_kind(name: str) -> str:
    """Return what an operation of XLA is, by its name: `dot.3` is a dot."""
    return re.sub(r"(\.\d+)+$", "", name)


def _layers(rows: Rows, full: Texts) -> Texts:
    """Return the scope of each operation and kernel: TensorFlow's, or the one that JAX gave to XLA as `name`."""
    of_tf = _mapped(_texts(rows, "tf_op"), lambda text: scope_of(json.loads(text).rpartition(":")[0]))
    of_hlo = _mapped(_texts(rows, "name"), lambda text: scope_of(json.loads(text)))
    layers = _overlaid(Texts.same(None, len(rows)), _has(rows, "hlo_op"), of_hlo)
    for scopes in (of_tf, _mapped(full, scope_of)):
        layers = _overlaid(layers, scopes.codes >= 0, scopes)
    return layers


def _inputs(rows: Rows) -> Columns:
    """Return what `OpKernel::ShapeTraceString` says: "(float[32,10];;int32[])", an empty part being no tensor."""
    said = _texts(rows, "shape")
    return {
        "shapes": _mapped(said, lambda text: _parts(text, lambda found: [int(n) for n in found[2].split(",") if n])),
        "dtypes": _mapped(said, lambda text: _parts(text, lambda found: found[1])),
    }


def _parts(text: str, part: Callable[[re.Match[str]], Any]) -> str | None:
    text = json.loads(text)
    if not (text.startswith("(") and text.endswith(")")):
        return None
    found = map(_shape, text[1:-1].split(";"))
    return _json([part(match) if match else None for match in found])


def _steps(rows: Rows) -> Texts:
    """Return the number of each mark that is a step; of marks that overlap, on whatever threads, of the first."""
    numbers, until = _ints(rows, "step_num"), NONE
    marks = np.flatnonzero(numbers != NONE)
    kept = []
    for row in marks[np.lexsort((-rows.end_ns[marks], rows.start_ns[marks]))].tolist():
        if rows.start_ns[row] >= until:
            kept.append(row)
            until = rows.end_ns[row]
    said = Texts.of(map(str, numbers[kept].tolist()))
    codes = np.full(len(rows), -1, np.int32)
    codes[kept] = said.codes
    return Texts(codes, said.values)


def _memory(rows: Rows, args: Columns, devices: Mapping[str, int], *, name: Texts, category: Texts) -> Columns:
    """Return the columns with Kineto's memory events in place of what XLA's allocators trace."""
    signs = np.array([_CHANGES.get(name, 0) for name, _ in rows.kinds])
    size, sign = _ints(rows, "allocation_bytes"), signs[rows.kind]
    is_change = (sign != 0) & (size != NONE)
    args["Total Allocated"], args["Addr"] = _ints(rows, "bytes_allocated"), _ints(rows, "addr")
    for stat in ("allocation_bytes", "bytes_allocated", "addr"):
        args.pop(stat, None)
    allocators = _texts(rows, "allocator_name")
    where = {f'"GPU_{plane.removeprefix("/device:GPU:")}_bfc"': number for plane, number in devices.items()}
    numbers = np.array([*(where.get(allocator, NONE) for allocator in allocators.values), NONE])
    return {
        "name": _put(name, is_change, "[memory]"),
        "category": _put(category, is_change, "cpu_instant_event"),
        "phase": _put(Texts.same("X", len(rows)), is_change, "i"),
        "bytes": np.where(is_change, size * sign, NONE),
        "device": np.where(is_change, numbers[allocators.codes], NONE),
    }


def _on_device(plane: Any, rows: Rows, devices: Mapping[str, int]) -> Columns:
    lines = [_line(plane.name, line) for line in plane.lines]
    stream = np.array([stream for _, stream in lines], np.int64)[rows.line]
    category = Texts.of(category for category, _ in lines).take(rows.line)
    name = _by_kind(rows, [name for name, _ in rows.kinds])
    works = stream != NONE
    category = _put(category, works & name.where(lambda text: text.startswith("Memcpy")), "gpu_memcpy")
    category = _put(category, works & name.where(lambda text: text.startswith("Memset")), "gpu_memset")
    for stat, meaning in _ON_STREAM.items():
        category = _put(category, works & _has(rows, stat), meaning)
    if plane.name.startswith("/device:TPU:"):  # its loops and calls hold the operations that they ran
        category = _put(category, works & _around_others(rows), "gpu_user_annotation")
    return {
        "name": name,
        "category": category,
        "phase": _put(Texts.same("X", len(rows)), category.equal(_COUNTERS), "C"),
        "device": np.full(len(rows), devices.get(plane.name, NONE)),
        "stream": stream,
        "layer": _layers(rows, Texts.same(None, len(rows))),
        "bytes": np.where(category.equal("gpu_memcpy", "gpu_memset"), _sizes(rows), NONE),
    }


def _line(plane: str, line: Any) -> tuple[str, int]:
    """Return what is on a line of a device, and its stream; lines that are none repeat or sum up what is on streams."""
    found = _stream(line.name) if plane.startswith("/device:GPU:") else None
    if found:
        return "kernel", int(found[1])
    if plane.startswith("/device:TPU:") and line.name == "XLA Ops":
        return "kernel", line.id
    return "overhead" if line.name == "CUPTI overhead" else line.name or plane, NONE


def _around_others(rows: Rows) -> Mask:
    """Return which events hold another one on the same line."""
    order = np.lexsort((-rows.end_ns, rows.start_ns, rows.line))
    line, start, end = rows.line[order], rows.start_ns[order], rows.end_ns[order]
    found = np.zeros(len(rows), bool)
    found[order[:-1]] = (line[1:] == line[:-1]) & (start[1:] < end[:-1]) & (end[1:] <= end[:-1])
    return found


def _sizes(rows: Rows) -> Ints:
    sizes = nothing(len(rows))
    for stat in ("memcpy_details", "Memset_details"):
        said = _texts(rows, stat)
        found = [_bytes(text) for text in said.values]
        numbers = np.array([*(int(match[1]) if match else NONE for match in found), NONE])
        sizes = np.where(said.codes >= 0, numbers[said.codes], sizes)
    return sizes


def _by_kind(rows: Rows, texts: Sequence[str | None]) -> Texts:
    return Texts.of(texts).take(rows.kind)


def _ints(rows: Rows, stat: str) -> Ints:
    """Return a stat of whole numbers; where it is none, no values."""
    column = rows.stats.get(stat)
    return column if isinstance(column, np.ndarray) else nothing(len(rows))


def _texts(rows: Rows, stat: str) -> Texts:
    """Return a stat of JSON; where it is none, no values."""
    column = rows.stats.get(stat)
    return column if isinstance(column, Texts) else Texts.same(None, len(rows))


def _has(rows: Rows, stat: str) -> Mask:
    column = rows.stats.get(stat)
    if column is None:
        return np.zeros(len(rows), bool)
    return column.codes >= 0 if isinstance(column, Texts) else column != NONE


def _mapped(column: Texts, function: Callable[[str], str | None]) -> Texts:
    new = Texts.of(map(function, column.values))
    return Texts(np.append(new.codes, np.int32(-1))[column.codes], new.values)


def _put(column: Texts, rows: Mask, text: str) -> Texts:
    return _overlaid(column, rows, Texts.same(text, len(column)))


def _overlaid(column: Texts, rows: Mask, other: Texts) -> Texts:
    """Return the column with the other one's texts in some rows."""
    moved = np.where(other.codes < 0, -1, other.codes + len(column.values))
    return Texts(np.where(rows, moved, column.codes).astype(np.int32), column.values + other.values)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
