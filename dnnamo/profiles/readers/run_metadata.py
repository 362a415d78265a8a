"""TensorFlow's `tf.compat.v1.RunMetadata`, of sessions in graph mode -> `Recording`, without importing TensorFlow.

Each is one step. The format is `tensorflow/core/framework/step_stats.proto`: devices, and the nodes that ran on each.
What a GPU did stands there twice (`ConvertGpuXSpaceToStepStats` in `tensorflow/core/profiler/convert`): on
`…/stream:7` or `…/stream:7<MemcpyH2D>`, and on `…/stream:all` or `…/memcpy`, which are read only where the first are
missing. Times are those that TensorFlow's own `Timeline` shows: from `all_start` to `all_end_rel`.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from dnnamo.errors import UsageError
from dnnamo.profiles.events import NONE, Column, Events, Texts
from dnnamo.profiles.readers.protos import Field, message_class
from dnnamo.profiles.recording import Recording
from dnnamo.profiles.scopes import scope_of

__all__ = ["read"]

_NAME = "tensorflow.RunMetadata"

_LIMITS = [
    "A RunMetadata does not say on which thread of the host a node ran; nodes that overlap stand on lanes.",
    "A RunMetadata does not hold which call launched a kernel, nor when; kernels are not attributed to operations.",
]
_TYPES = (  # noqa: SIM905 (a list would take a line for each)
    "invalid float double int32 uint8 int16 int8 string complex64 int64 bool qint8 quint8 qint32 bfloat16 qint16 "
    "quint16 uint16 complex128 half resource variant uint32 uint64 float8_e5m2 float8_e4m3fn"
).split()
"""`DataType` in `tensorflow/core/framework/types.proto`."""

_label = re.compile(r"(?:.*) = (.*?)\((.*)\)$", re.DOTALL).match
_on_gpu = re.compile(r".*/device:GPU:(\d+)/(?:stream:(\d*|all)(?:<(\w+)>)?|(memcpy|sync))$").match
_details = re.compile(r"\s+(?:regs:|grid:|kind|size:|num_bytes:|@@).*", re.DOTALL)
_size = re.compile(r"\b(?:size|num_bytes|bytes):(\d+)").search

_FIELDS: dict[str, Sequence[Field]] = {
    "RunMetadata": [(1, "step_stats", "StepStats")],
    "StepStats": [(1, "dev_stats", "DeviceStepStats*")],
    "DeviceStepStats": [
        (1, "device", "string"),
        (2, "node_stats", "NodeExecStats*"),
        (3, "thread_names", "ThreadName*"),
    ],
    "ThreadName": [(1, "key", "uint32"), (2, "value", "string")],
    "NodeExecStats": [
        (1, "node_name", "string"),
        (2, "all_start_micros", "int64"),
        (3, "op_start_rel_micros", "int64"),
        (4, "op_end_rel_micros", "int64"),
        (5, "all_end_rel_micros", "int64"),
        (6, "memory", "AllocatorMemoryUsed*"),
        (7, "output", "NodeOutput*"),
        (8, "timeline_label", "string"),
        (9, "scheduled_micros", "int64"),
        (10, "thread_id", "uint32"),
        (12, "memory_stats", "MemoryStats"),
        (13, "all_start_nanos", "int64"),
        (14, "op_start_rel_nanos", "int64"),
        (15, "op_end_rel_nanos", "int64"),
        (16, "all_end_rel_nanos", "int64"),
        (17, "scheduled_nanos", "int64"),
    ],
    "AllocatorMemoryUsed": [
        (1, "allocator_name", "string"),
        (2, "total_bytes", "int64"),
        (3, "peak_bytes", "int64"),
        (4, "live_bytes", "int64"),
    ],
    "NodeOutput": [(1, "slot", "int32"), (3, "tensor_description", "TensorDescription")],
    "TensorDescription": [(1, "dtype", "int32"), (2, "shape", "Shape"), (4, "allocation_description", "Allocation")],
    "Shape": [(2, "dim", "Dim*"), (3, "unknown_rank", "bool")],
    "Dim": [(1, "size", "int64")],
    "Allocation": [(1, "requested_bytes", "int64"), (3, "allocator_name", "string")],
    "MemoryStats": [(1, "temp_memory_size", "int64"), (3, "persistent_memory_size", "int64")],
}


def read(source: object) -> Recording | None:
    """Return the recording in one or a list of `tf.compat.v1.RunMetadata`, each of which is a step.

    Raises:
        UsageError: If none of them was traced.
    """
    found: list[Any] = list(source) if isinstance(source, list | tuple) else [source]
    if not found or not all(map(_is_run_metadata, found)):
        return None
    files = [bytes(run.SerializeToString()) for run in found]
    names = ["run_metadata.pb"] if len(files) == 1 else [f"run_metadata.{number}.pb" for number in range(len(files))]
    runs = [list(_nodes(_message().FromString(data), step)) for step, data in enumerate(files)]
    if not any(runs):
        raise UsageError(
            "No RunMetadata here holds any node that ran. Trace the session: session.run(…, run_metadata=metadata, "
            "options=tf.compat.v1.RunOptions(trace_level=tf.compat.v1.RunOptions.FULL_TRACE))."
        )
    return Recording(
        source="run_metadata",
        events=_events([node for run in runs for node in run] + [_step(run) for run in runs if run]),
        header={"limits": _LIMITS},
        damage=[f"Step {step} was not traced." for step, run in enumerate(runs) if not run],
        native=dict(zip(names, files, strict=True)),
    )


def _is_run_metadata(value: object) -> bool:
    name = getattr(getattr(value, "DESCRIPTOR", None), "full_name", None)
    return name == _NAME and not isinstance(value, type)


@cache
def _message() -> Any:
    return message_class("RunMetadata", _FIELDS)


@dataclass(kw_only=True)
class _Node:
    """A node that ran, or a step: one event."""

    name: str
    category: str
    process: str
    thread: str
    start_ns: int
    duration_ns: int
    step: int
    device: int = NONE
    stream: int = NONE
    bytes: int = NONE
    layer: str | None = None
    args: dict[str, Any] = field(default_factory=dict)

    @property
    def end_ns(self) -> int:
        return self.start_ns + self.duration_ns


def _nodes(run: Any, step: int) -> Iterator[_Node]:
    devices = run.step_stats.dev_stats
    skipped = _repeated([device.device for device in devices])
    for device in devices:
        if device.device in skipped:
            continue
        place = _on_gpu(device.device)
        if place:
            yield from (_work(node, device.device, place, step) for node in device.node_stats)
        else:
            yield from _on_lanes([_operation(node, device, step) for node in device.node_stats])


def _repeated(names: Iterable[str]) -> set[str]:
    """Return the devices that only repeat what stands on single streams."""
    places = [(name, place) for name in names if (place := _on_gpu(name))]
    kernels = {place[1] for _, place in places if (place[2] or "").isdigit() and not place[3]}
    copies = {place[1] for _, place in places if place[3]}
    return {
        name
        for name, place in places
        if (place[2] == "all" and place[1] in kernels) or (place[4] == "memcpy" and place[1] in copies)
    }


def _operation(node: Any, device: Any, step: int) -> _Node:
    label = _label(node.timeline_label)
    memory = [_fields(used) for used in node.memory]
    args = {
        "op": node.node_name,
        "inputs": label[2].split(", ") if label and label[2] else [],
        "outputs": [_output(output) for output in node.output],
        "memory": memory,
        "persistent_bytes": node.memory_stats.persistent_memory_size,
        "temporary_bytes": node.memory_stats.temp_memory_size,
    }
    return _Node(
        name=label[1] if label else node.node_name.rpartition(":")[2],
        category="cpu_op",
        process=device.device,
        thread=_thread(node, device),
        bytes=sum(used["total_bytes"] for used in memory) if memory else NONE,
        layer=scope_of(node.node_name),
        args=args | _further_times(node),
        step=step,
        **_times(node),
    )


def _work(node: Any, device: str, place: re.Match[str], step: int) -> _Node:
    name = _details.sub("", node.timeline_label) or node.node_name
    size = _size(node.timeline_label)
    full, _, kind = node.node_name.rpartition(":")
    return _Node(
        name=name,
        category=_category(name, place),
        process=device,
        thread=str(node.thread_id) if place[4] == "sync" else place[2] or place[4] or "",
        device=NONE if place[4] == "sync" else int(place[1]),
        stream=int(place[2]) if (place[2] or "").isdigit() else NONE,
        bytes=int(size[1]) if size else NONE,
        layer=scope_of(full),
        args={"op": full, "op_type": kind, "details": node.timeline_label} | _further_times(node),
        step=step,
        **_times(node),
    )


def _category(name: str, place: re.Match[str]) -> str:
    if place[4] == "sync":
        return "cuda_runtime"
    if place[3] or place[4] or name.startswith("Memcpy"):
        return "gpu_memcpy"
    if name.startswith("Memset"):
        return "gpu_memset"
    return "kernel" if place[2] else "gpu_other"


def _times(node: Any) -> dict[str, int]:
    if node.all_start_nanos:
        return {"start_ns": node.all_start_nanos, "duration_ns": max(node.all_end_rel_nanos, 0)}
    return {"start_ns": node.all_start_micros * 1000, "duration_ns": max(node.all_end_rel_micros, 0) * 1000}


def _further_times(node: Any) -> dict[str, int]:
    """Return when the node was scheduled, and when its kernel started and ended, from the node's own start."""
    if node.all_start_nanos:
        times = node.scheduled_nanos, node.op_start_rel_nanos, node.op_end_rel_nanos
    else:
        times = node.scheduled_micros * 1000, node.op_start_rel_micros * 1000, node.op_end_rel_micros * 1000
    return dict(zip(("scheduled_ns", "op_start_rel_ns", "op_end_rel_ns"), times, strict=True))


def _thread(node: Any, device: Any) -> str:
    names = {entry.key: entry.value for entry in device.thread_names} if node.thread_id else {}
    return names.get(node.thread_id) or (str(node.thread_id) if node.thread_id else "")


def _output(output: Any) -> dict[str, Any]:
    tensor = output.tensor_description
    shape = None if tensor.shape.unknown_rank else [dim.size for dim in tensor.shape.dim]
    number = tensor.dtype
    dtype = f"{_type(number - 100)}_ref" if number > 100 else _type(number)
    said = {"slot": output.slot, "dtype": dtype, "shape": shape}
    return said | {name: value for name, value in _fields(tensor.allocation_description).items() if value}


def _type(number: int) -> str:
    return _TYPES[number] if number < len(_TYPES) else str(number)


def _fields(message: Any) -> dict[str, Any]:
    return {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields}


def _on_lanes(nodes: list[_Node]) -> list[_Node]:
    """Put nodes without a thread on lanes, on none of which two overlap: one that does, ran on another thread."""
    free_at: list[int] = []
    for node in sorted((node for node in nodes if not node.thread), key=lambda node: node.start_ns):
        lane = next((lane for lane, end in enumerate(free_at) if end <= node.start_ns), len(free_at))
        free_at[lane : lane + 1] = [node.end_ns]
        node.thread = f"lane {lane}"
    return nodes


def _step(nodes: Sequence[_Node]) -> _Node:
    start, end = min(node.start_ns for node in nodes), max(node.end_ns for node in nodes)
    number = nodes[0].step
    return _Node(
        name=str(number),
        category="step",
        process="session",
        thread="steps",
        start_ns=start,
        duration_ns=end - start,
        step=number,
    )


def _events(nodes: Sequence[_Node]) -> Events:
    texts = ("name", "category", "process", "thread", "layer")
    numbers = ("start_ns", "duration_ns", "device", "stream", "bytes")
    columns: dict[str, Column] = {
        **{name: Texts.of(getattr(node, name) for node in nodes) for name in texts},
        **{name: np.array([getattr(node, name) for node in nodes], np.int64) for name in numbers},
    }
    names = dict.fromkeys(name for node in nodes for name in node.args)
    return Events.of(columns, {name: _arg([node.args.get(name) for node in nodes]) for name in names})


def _arg(values: Sequence[Any]) -> Column:
    if all(value is None or isinstance(value, int) for value in values):
        return np.array([NONE if value is None else value for value in values], np.int64)
    return Texts.of(None if value is None else json.dumps(value, ensure_ascii=False) for value in values)
