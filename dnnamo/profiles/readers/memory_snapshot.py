"""PyTorch's memory snapshot (`torch.cuda.memory._snapshot`, `_dump_snapshot`) -> `Recording`.

The format is written by `_memory_snapshot_pickled` in `torch/csrc/cuda/memory_snapshot.cpp`: segments of memory, with
the blocks in them as they were in the end, and for each device what its allocator did until then. Sizes of allocations
in the history are the requested ones.
"""

import os
import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import numpy as np

from dnnamo.errors import UsageError
from dnnamo.profiles.events import NONE, Column, Events, Ints, Texts
from dnnamo.profiles.recording import Recording

__all__ = ["read"]

_ALLOCATED = {"alloc": 1, "free_completed": -1}
_RESERVED = {"segment_alloc": 1, "segment_map": 1, "segment_free": -1, "segment_unmap": -1}
_CUDA = 1
"""`DeviceType::CUDA` in PyTorch's `c10/core/DeviceType.h`, as Kineto's memory events have it."""

_KNOWN = {"action", "addr", "size", "stream", "time_us"}
_NO_TIMES = "PyTorch recorded no times in this snapshot, so its events stand 1 µs apart in their order."
_DAMAGED = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
)
"""What Python's unpickler raises for bytes that make no sense."""


def read(source: object) -> Recording | None:
    """Return the recording in a memory snapshot: the dictionary, or the path of the file.

    Raises:
        UsageError: If the file holds code or is cut short, or if no history was recorded.
    """
    snapshot = source if isinstance(source, dict) else _from_file(source)
    if not isinstance(snapshot, dict) or not {"segments", "device_traces"} <= snapshot.keys():
        return None
    try:
        return _recording(snapshot)
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UsageError(
            f"This memory snapshot of PyTorch is damaged: {type(error).__name__} ({error}) where the allocator's "
            "history should be. Take it again with torch.cuda.memory._dump_snapshot(path)."
        ) from error


def _from_file(source: object) -> object:
    """Return what is in a pickle, None for what is no pickle."""
    if not isinstance(source, str | os.PathLike) or not os.path.isfile(source):  # noqa: PTH113 (as in `xspace`)
        return None
    with Path(os.fsdecode(source)).open("rb") as file:
        head = file.read(2)
        if len(head) < 2 or head[0] != 0x80 or head[1] > pickle.HIGHEST_PROTOCOL:
            return None
        file.seek(0)
        try:
            return _DataOnly(file).load()
        except UsageError as error:
            raise UsageError(f"The pickle {os.fsdecode(source)} is not read: {error}") from None
        except _DAMAGED as error:
            raise UsageError(f"The pickle {os.fsdecode(source)} is damaged, or cut short: {error}") from error


class _DataOnly(pickle.Unpickler):
    """Reads containers, numbers and text, and never runs what a pickle names."""

    def find_class(self, module: str, name: str, /) -> NoReturn:
        raise UsageError(f"it holds code ({module}.{name}), which a memory snapshot of PyTorch never does.")


def _recording(snapshot: dict[str, Any]) -> Recording:
    traces = [(device, trace) for device, trace in enumerate(snapshot["device_traces"]) if trace]
    if not traces:
        raise UsageError(
            "This memory snapshot of PyTorch holds no history. Call torch.cuda.memory._record_memory_history() before "
            "the steps, and take the snapshot after them."
        )
    segments = snapshot["segments"]
    entries = [entry for _, trace in traces for entry in trace]
    devices = np.repeat([device for device, _ in traces], [len(trace) for _, trace in traces])
    allocated, reserved = _changes(entries, _ALLOCATED), _changes(entries, _RESERVED)
    totals = {
        "Total Allocated": _running(allocated, devices, {device: _requested(segments, device) for device, _ in traces}),
        "Total Reserved": _running(reserved, devices, {device: _held(segments, device) for device, _ in traces}),
    }
    timed = all("time_us" in entry for entry in entries)
    return Recording(
        source="memory_snapshot",
        events=_events(entries, devices, allocated, reserved, totals, timed=timed),
        header={
            **{name: value for name, value in snapshot.items() if name not in ("segments", "device_traces")},
            "segments": [{k: v for k, v in segment.items() if k not in ("blocks", "frames")} for segment in segments],
            "limits": [] if timed else [_NO_TIMES],
        },
        damage=_doubts(totals["Total Allocated"], allocated, devices),
    )


def _changes(entries: Sequence[dict[str, Any]], signs: dict[str, int]) -> Ints:
    """Return by how much each entry changed a sum."""
    return np.array([signs.get(entry["action"], 0) * entry["size"] for entry in entries], np.int64)


def _requested(segments: Iterable[dict[str, Any]], device: int) -> int:
    """Return the bytes that were asked for and are in use, or about to be free, in the end."""
    return sum(
        block.get("requested_size", block["size"])
        for segment in segments
        for block in segment["blocks"]
        if segment.get("device", 0) == device and block["state"] != "inactive"
    )


def _held(segments: Iterable[dict[str, Any]], device: int) -> int:
    """Return the bytes that the allocator holds in the end."""
    return sum(segment["total_size"] for segment in segments if segment.get("device", 0) == device)


def _running(changes: Ints, devices: Ints, final: dict[int, int]) -> Ints:
    """Return the sum after each change, which ends for each device at what is known of the end."""
    sums = np.empty_like(changes)
    for device, end in final.items():
        rows = devices == device
        after = np.cumsum(changes[rows])
        sums[rows] = after + (end - after[-1])
    return sums


def _events(
    entries: Sequence[dict[str, Any]],
    devices: Ints,
    allocated: Ints,
    reserved: Ints,
    totals: dict[str, Ints],
    *,
    timed: bool,
) -> Events:
    count = len(entries)
    is_memory = np.array([entry["action"] in _ALLOCATED for entry in entries])
    has_size = is_memory | np.array([entry["action"] in _RESERVED for entry in entries])
    times = [entry["time_us"] for entry in entries] if timed else range(count)
    columns: dict[str, Column] = {
        "name": Texts.of("[memory]" if entry["action"] in _ALLOCATED else entry["action"] for entry in entries),
        "category": Texts.same("cpu_instant_event", count),
        "phase": Texts.same("i", count),
        "process": Texts.of(f"device {device}" for device in devices.tolist()),
        "thread": Texts.same("allocator", count),
        "start_ns": np.array(times, np.int64) * 1000,
        "duration_ns": np.zeros(count, np.int64),
        "device": devices,
        "stream": np.array([entry.get("stream", NONE) for entry in entries], np.int64),
        "bytes": np.where(has_size, allocated + reserved, NONE),
    }
    args: dict[str, Column] = {
        "Addr": np.array([entry.get("addr", NONE) for entry in entries], np.int64),
        "size": np.array([entry["size"] for entry in entries], np.int64),
        "Device Type": np.where(is_memory, _CUDA, NONE),
        "Device Id": np.where(is_memory, devices, NONE),
        **{name: np.where(is_memory, total, NONE) for name, total in totals.items()},
    }
    further = dict.fromkeys(name for entry in entries for name in entry if name not in _KNOWN)
    return Events.of(columns, args | {name: _arg([entry.get(name) for entry in entries]) for name in further})


def _arg(values: Sequence[Any]) -> Column:
    if all(value is None or type(value) is int for value in values):
        return np.array([NONE if value is None else value for value in values], np.int64)
    return Texts.of(None if value is None else msgspec.json.encode(value).decode() for value in values)


def _doubts(held: Ints, changes: Ints, devices: Ints) -> list[str]:
    impossible = (held < 0) | (held - changes < 0)
    return [
        f"The history of device {device} does not fit its segments: less than nothing would have been allocated."
        for device in np.unique(devices[impossible]).tolist()
    ]
