"""The profile that a session of ONNX Runtime writes -> `Recording`, without importing ONNX Runtime.

It is a list of events in Chrome's format, in whole microseconds. What stands there comes from
`onnxruntime/core/common/profiler_common.h` (the categories), `core/framework/sequential_executor.cc` (the operations)
and `core/providers/cuda/cupti_manager.cc` (the kernels) of microsoft/onnxruntime.
"""

import io
import json
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dnnamo.errors import UsageError
from dnnamo.profiles.events import NONE, Column, Events, Ints, Texts
from dnnamo.profiles.readers import chrome
from dnnamo.profiles.readers.pieces import unpacked
from dnnamo.profiles.recording import Recording

__all__ = ["SessionProfile", "read"]

_OPERATION = "_kernel_time"
"""End of the name of an event that is an operation; it begins with the name of the node."""

_RUN = "model_run"
_FIRST_CATEGORY = re.compile(rb'"cat"\s*:\s*"(Session|Node)"').search
_OWN_WORDS = re.compile(rb'"(?:model_loading_\w+|session_initialization|op_name|model_run)"').search
_WHOLE = re.compile(r'"?-?(?:0|[1-9][0-9]{0,17})"?').fullmatch
_SHAPES, _OP = "input_type_shape", "op_name"
_COPY = "gpu_memcpy"

_ROUNDED = "ONNX Runtime notes times in whole microseconds, so operations that are shorter count as nothing or as one."
_ALL_RUNS = (
    "Each run of the session is a step, the first one too, in which it takes its memory: the file does not say which "
    "were meant to be measured."
)
_NO_KERNELS = (
    "This build of ONNX Runtime does not record what the GPU does, so there is host time alone: of operations there, "
    "the time that it took to launch them."
)

Mask = NDArray[np.bool_]
Rows = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class SessionProfile:
    """What the profiler of a session wrote, and what the one who had it run knows.

    Attributes:
        trace: Content of its file.
        unmarked: How many runs came before those that count.
        steps: How many runs count, each of which is a step; None for all.
        base_ns: Unix time at which its clock was 0, in nanoseconds; 0 where that is unknown.
        layers: Path of the layer by the names of nodes of the graph and of what they give, as far as it is known.
    """

    trace: bytes
    unmarked: int = 0
    steps: int | None = None
    base_ns: int = 0
    layers: Mapping[str, str] = field(default_factory=dict)


def read(source: object) -> Recording | None:
    """Return the recording in the file of a session's profiler, or in a `SessionProfile`.

    Raises:
        UsageError: If the file cannot be read, or is damaged in its middle.
    """
    if isinstance(source, SessionProfile):
        return _translated(chrome.read_stream(io.BytesIO(source.trace), name="ONNX Runtime's profile"), source)
    if not isinstance(source, str | os.PathLike) or not _is_ours(Path(source)):
        return None
    recording = chrome.read(source)
    return recording and _translated(recording, SessionProfile(trace=b""))


def _is_ours(path: Path) -> bool:
    """Return whether a file begins as ONNX Runtime's do; whatever is wrong with it is left to the reader of traces."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            start = b"".join(islice(unpacked(file, []), 1))
    except (OSError, EOFError, UsageError, zlib.error, zipfile.BadZipFile):
        return False
    category = _FIRST_CATEGORY(start)
    return category is not None and b'"cat"' not in start[: category.start()] and _OWN_WORDS(start) is not None


def _translated(recording: Recording, profile: SessionProfile) -> Recording:
    """Put what ONNX Runtime wrote into the words of the normal form."""
    events = _counted(recording.events, profile.unmarked)
    kinds = _Kinds.of(events)
    columns: dict[str, Column] = {
        "phase": events.phase,
        "start_ns": events.start_ns,
        "duration_ns": events.duration_ns,
        "operation": _operation_ids(events, kinds),
        **_named(events, kinds),
        **_placed(events, kinds),
        **_shaped(_argument(events, _SHAPES)),
        "layer": _chosen(kinds.operation, _layers(events.name, profile.layers), Texts.same(None, len(events))),
    }
    return replace(
        recording,
        source="onnxruntime",
        events=Events.of(columns, _arguments(events, kinds)),
        base_ns=profile.base_ns,
        header=recording.header | {"limits": _limits(events, kinds, profile)},
        damage=recording.damage + _missing(int(kinds.run.sum()), profile.steps),
    )


def _counted(events: Events, unmarked: int) -> Events:
    """Return the events without those up to the end of some first runs."""
    ends = np.sort(events.end_ns[_Kinds.of(events).run])
    return events.take(events.start_ns >= ends[unmarked - 1]) if 0 < unmarked <= len(ends) else events


@dataclass(frozen=True)
class _Kinds:
    """Which rows are runs of the session, which operations, and which work of a device."""

    run: Mask
    operation: Mask
    work: Mask

    @classmethod
    def of(cls, events: Events) -> "_Kinds":
        return cls(
            run=events.category.equal("Session") & events.name.equal(_RUN),
            operation=events.category.equal("Node") & events.name.where(lambda name: name.endswith(_OPERATION)),
            work=events.category.equal("Kernel"),
        )


def _missing(found: int, wanted: int | None) -> list[str]:
    if wanted is None or found == wanted:
        return []
    return [
        f"It holds {found:,} of the {wanted:,} steps that were run: ONNX Runtime's profiler takes no events after the "
        "first million. Profile fewer steps."
    ]


def _limits(events: Events, kinds: _Kinds, profile: SessionProfile) -> list[str]:
    on_gpu = _argument(events, "provider").where(lambda provider: "CUDA" in provider or "ROCM" in provider)
    return [
        _ROUNDED,
        *([] if profile.steps is not None else [_ALL_RUNS]),
        *([_NO_KERNELS] if on_gpu.any() and not kinds.work.any() else []),
    ]


def _operation_ids(events: Events, kinds: _Kinds) -> Ints:
    """Number the operations, and give what a device did the number of the operation that launched it."""
    ids = np.where(kinds.operation, np.arange(len(events)), NONE)
    launcher = _latest(events, np.flatnonzero(kinds.operation), np.flatnonzero(kinds.work))
    ids[kinds.work] = launcher
    return ids


def _latest(events: Events, operations: Rows, work: Rows) -> Ints:
    """Return for each piece of work the row of the last operation of its node that had begun by then."""
    parents = _argument(events, "parent_name").take(work)
    codes = Texts.concat([events.name.take(operations), parents]).codes.astype(np.int64)
    starts = events.start_ns - events.start_ns.min(initial=0)
    span = int(starts.max(initial=0)) + 1
    keys = codes[: len(operations)] * span + starts[operations]
    wanted = codes[len(operations) :] * span + starts[work]
    order = np.argsort(keys, kind="stable")
    at = np.searchsorted(keys[order], wanted, side="right") - 1
    found = np.full(len(work), NONE)
    hit = np.flatnonzero((at >= 0) & (parents.codes >= 0))
    hit = hit[keys[order][at[hit]] // span == codes[len(operations) :][hit]]
    found[hit] = operations[order[at[hit]]]
    return found


def _named(events: Events, kinds: _Kinds) -> dict[str, Column]:
    """Name operations by their type and runs by their number, and give all of them categories of the normal form."""
    numbers = np.zeros(len(events), np.int64)
    numbers[np.flatnonzero(kinds.run)[np.argsort(events.start_ns[kinds.run], kind="stable")]] = np.arange(
        int(kinds.run.sum())
    )
    types = _argument(events, _OP)
    name = _chosen(kinds.operation & (types.codes >= 0), types, events.name)
    number = Texts(numbers.astype(np.int32), [*map(str, range(max(int(kinds.run.sum()), 1)))])
    is_copy = kinds.work & _argument(events, "grid_x").equal("-1")
    category = events.category
    for rows, word in ((kinds.operation, "cpu_op"), (kinds.run, "step"), (kinds.work, "kernel"), (is_copy, _COPY)):
        category = _chosen(rows, Texts.same(word, len(events)), category)
    return {"name": _chosen(kinds.run, number, name), "category": category}


def _placed(events: Events, kinds: _Kinds) -> dict[str, Column]:
    """Put what a device did on its streams, which stand in the arguments."""
    stream = np.where(kinds.work, _numbers(_argument(events, "stream")), NONE)
    named = _changed(_argument(events, "stream"), lambda number: f"stream {number}")
    return {
        "process": _chosen(kinds.work, Texts.same("GPU", len(events)), events.process),
        "thread": _chosen(kinds.work & (named.codes >= 0), named, events.thread),
        "device": np.where(kinds.work, 0, NONE),
        "stream": stream,
    }


def _shaped(given: Texts) -> dict[str, Column]:
    """Split `[{"float": [2, 3]}]` into shapes and types, as Kineto has them."""
    return {
        "shapes": _changed(given, lambda text: _each(text, 1)),
        "dtypes": _changed(given, lambda text: _each(text, 0)),
    }


def _each(text: str, which: int) -> str | None:
    """Return the types (0) or the shapes (1) of a list of values as JSON; one that was left out has none."""
    try:
        values = msgspec.json.decode(text, type=list[dict[str, Any]])
    except msgspec.DecodeError:
        return None
    empty: tuple[str, list[int]] = ("", [])
    return msgspec.json.encode([next(iter(value.items()), empty)[which] for value in values]).decode()


def _layers(names: Texts, layers: Mapping[str, str]) -> Texts:
    return _changed(names, lambda name: _layer(name.removesuffix(_OPERATION), layers))


def _layer(node: str, layers: Mapping[str, str]) -> str | None:
    """Return the path of a node: its name, in the layer that it, or the node that it was made of, belongs to.

    What ONNX Runtime fuses has the name of one of the nodes and the rule's (`node_MatMul_1/MatMulAddFusion`, `fused
    /first/Gemm`), and what it lays out anew that of what the node gives (`relu_nchwc`).
    """
    node = node.removeprefix("fused ")
    within = layers.get(node) or layers.get(node.partition("/")[0]) or layers.get(node.removesuffix("_nchwc"))
    return "/".join(filter(None, [within, node.strip("/")])) or None


def _arguments(events: Events, kinds: _Kinds) -> dict[str, Column]:
    """Return what is left of the arguments: numbers as such, and the name of each node."""
    used = {_SHAPES, _OP, "stream"}
    left = {name: column for name, column in events.args.items() if name not in used}
    node = _changed(events.name, lambda name: json.dumps(name.removesuffix(_OPERATION), ensure_ascii=False))
    nodes = _chosen(kinds.operation, node, Texts.same(None, len(events)))
    return {name: _as_numbers(column) for name, column in left.items()} | {"node": nodes}


def _as_numbers(column: Column) -> Column:
    """Return a column of numbers for one of texts that are all whole numbers."""
    if not isinstance(column, Texts) or not all(map(_WHOLE, column.values)):
        return column
    return _numbers(_changed(column, lambda text: text.strip('"')))


def _numbers(column: Texts) -> Ints:
    numbers = [int(text) if _WHOLE(text) else NONE for text in column.values]
    return np.array([*numbers, NONE], np.int64)[column.codes]


def _argument(events: Events, name: str) -> Texts:
    """Return an argument as texts; what is no text in the file is JSON."""
    column = events.args.get(name)
    if column is None:
        return Texts.same(None, len(events))
    if isinstance(column, Texts):
        return _changed(column, lambda text: msgspec.json.decode(text) if text.startswith('"') else text)
    return Texts.of(None if value == NONE else str(value) for value in column.tolist())


def _changed(column: Texts, change: Callable[[str], str | None]) -> Texts:
    """Return the column with each text changed, to None for no text."""
    new = Texts.of(map(change, column.values))
    return Texts(np.append(new.codes, np.int32(-1))[column.codes], new.values)


def _chosen(wanted: Mask, first: Texts, second: Texts) -> Texts:
    """Return the texts of the first column where wanted, else of the second, without those that then are in no row."""
    both = Texts.concat([first, second])
    codes = np.where(wanted, *both.codes.reshape(2, -1))
    there, new = np.unique(codes, return_inverse=True)
    none = int(len(there) > 0 and there[0] < 0)
    return Texts((new - none).astype(np.int32), [both.values[code] for code in there[none:].tolist()])
