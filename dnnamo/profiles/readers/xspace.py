"""TensorFlow's and JAX's XSpace (`*.xplane.pb`) -> `Recording`, without TensorFlow.

The format is `tsl/profiler/protobuf/xplane.proto` of openxla/xla: planes (a host, a device) of lines (threads, streams)
of events, whose names stand in tables of the plane.

At level 2 TensorFlow's host tracer records only operations that it holds for expensive. That is a running estimate
(`KernelStats` in `tensorflow/core/common_runtime/executor.cc`): an operation that takes under 8,000 cycles drops out
after some 90 runs of its function, and trivial ones (Identity, Reshape, Const) are never recorded. So a small operation
that is missing here may have run. TensorFlow 2.21 keeps to level 2 whatever its option `host_tracer_level` says.
"""

import gzip
import os
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from dnnamo.errors import UsageError
from dnnamo.profiles.events import NONE, Column, Events, Texts, nothing
from dnnamo.profiles.readers.protos import Field, message_class
from dnnamo.profiles.readers.xevents import meanings
from dnnamo.profiles.readers.xplanes import Rows
from dnnamo.profiles.recording import Recording

__all__ = ["SUFFIX", "parse_xspace", "read"]

SUFFIX = ".xplane.pb"
"""How the name of such a file ends; it may be gzipped (`.xplane.pb.gz`)."""

_TRACE = f"trace{SUFFIX}"
_HOST = "/host:CPU"
_ENVIRONMENT = "Task Environment"
_device = re.compile(r"/device:(?:GPU|TPU):(\d+)$").match

_Columns = dict[str, Column]

# Planes that XLA's own tools merge into the host's threads before they look at them (`PostProcessSingleHostXSpace`).
_SAME_HOST = {"/host:CUPTI", "/host:ROCTRACER", "/host:NVTX-CUPTI", "/host:python-tracer"}

_CHEAP = (
    "TensorFlow's host tracer leaves out operations that it holds for cheap, and trivial ones (Identity, Reshape, "
    "Const); so small operations may have run more often than they were counted."
)
_NO_SHAPES = "TensorFlow's host tracer recorded no input shapes, so operations are not told apart by them."
_NO_HOST = "The file names no operations of the host, so kernels are not attributed to any; see them by kernel."
_CLOCKS = "The files of the hosts do not all say when they began, so times of different hosts cannot be compared."

_FIELDS: dict[str, Sequence[Field]] = {
    "XSpace": [
        (1, "planes", "XPlane*"),
        (2, "errors", "string*"),
        (3, "warnings", "string*"),
        (4, "hostnames", "string*"),
    ],
    "XPlane": [
        (2, "name", "string"),
        (3, "lines", "XLine*"),
        (4, "event_metadata", "EventMetadataEntry*"),
        (5, "stat_metadata", "StatMetadataEntry*"),
        (6, "stats", "XStat*"),
    ],
    "XLine": [
        (1, "id", "int64"),
        (2, "name", "string"),
        (3, "timestamp_ns", "int64"),
        (4, "events", "XEvent*"),
        (11, "display_name", "string"),
    ],
    "XEvent": [
        (1, "metadata_id", "int64"),
        (2, "offset_ps", "int64"),
        (3, "duration_ps", "int64"),
        (4, "stats", "XStat*"),
        (5, "num_occurrences", "int64"),
    ],
    "XStat": [
        (1, "metadata_id", "int64"),
        (2, "double_value", "double|"),
        (3, "uint64_value", "uint64|"),
        (4, "int64_value", "int64|"),
        (5, "str_value", "string|"),
        (6, "bytes_value", "bytes|"),
        (7, "ref_value", "uint64|"),
    ],
    "EventMetadataEntry": [(1, "key", "int64"), (2, "value", "XEventMetadata")],
    "XEventMetadata": [(2, "name", "string"), (4, "display_name", "string"), (5, "stats", "XStat*")],
    "StatMetadataEntry": [(1, "key", "int64"), (2, "value", "XStatMetadata")],
    "XStatMetadata": [(2, "name", "string")],
}


def read(source: object) -> Recording | None:
    """Return the recording in the bytes or the file of an XSpace, or in the newest run of a TensorFlow log folder.

    Raises:
        UsageError: If a file cannot be read, or is cut short.
    """
    files = _files(source)
    return _recording(files) if files else None


def _files(source: object) -> dict[str, bytes]:
    """Return what to read, by the names that it is kept under."""
    if isinstance(source, bytes):
        # The tag of field 1, `planes`, with which every XSpace begins; no JSON, gzip or zip file does.
        return {_TRACE: source} if source[:1] in (b"", b"\n") else {}
    if not isinstance(source, str | os.PathLike):
        return {}
    path = Path(os.fsdecode(source))
    if os.path.isdir(path):  # noqa: PTH112 (Path.is_dir raises for text too long to be a path)
        run = _newest_run(path)
        names = [f"{host.name.partition(SUFFIX)[0]}{SUFFIX}" if len(run) > 1 else _TRACE for host in run]
        return {name: _content(host) for name, host in zip(names, run, strict=True)}
    return {_TRACE: _content(path)} if path.name.endswith((SUFFIX, f"{SUFFIX}.gz")) else {}


def _newest_run(folder: Path) -> list[Path]:
    """Return the files of the run that was written last, of each host one, which lie in one folder."""
    files = [path for end in (SUFFIX, f"{SUFFIX}.gz") for path in folder.rglob(f"*{end}")]
    newest = max(files, key=lambda path: (path.stat().st_mtime_ns, path), default=None)
    return sorted(path for path in files if newest is not None and path.parent == newest.parent)


def _content(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.name.endswith(".gz") else data
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UsageError(f"The TensorFlow profile {path} is no gzip file, or one cut short: {error}") from error
    except OSError as error:
        raise UsageError(f"The TensorFlow profile {path} cannot be read: {error.strerror}.") from error


def parse_xspace(data: bytes) -> Any:
    """Return the XSpace message in `data`, with the fields that Dnnamo reads.

    Raises:
        UsageError: If the data is no XSpace, or is cut off.
    """
    if not data:
        # XLA discards the error when a message is over protobuf's 2 GB, and leaves an empty file.
        raise UsageError(
            "The TensorFlow profile is empty (0 bytes), as TensorFlow leaves it when a profile would take over 2 GB. "
            "Profile fewer steps."
        )
    space = _message()()
    try:
        space.ParseFromString(data)
    except DecodeError as error:
        raise UsageError(
            f"These {len(data):,} bytes are no TensorFlow profile (XSpace, *{SUFFIX}), or are one cut short: {error}"
        ) from error
    if not any(plane.name for plane in space.planes):
        raise UsageError(f"These {len(data):,} bytes are no TensorFlow profile (XSpace, *{SUFFIX}): it has no planes.")
    return space


@cache
def _message() -> Any:
    return message_class("XSpace", _FIELDS)


@dataclass(kw_only=True)
class _Host:
    """What one file holds.

    Attributes:
        base_ns: Unix time of the moment from which its times count; 0 if they are Unix times, or it does not say.
        parts: The events of each plane: columns of `Events`, and args.
        about: What it says of each plane.
        tracks: Names of processes and threads, as Chrome's metadata events.
        dropped: What was left out of its events.
        damage: What its profiler found wrong.
    """

    base_ns: int
    parts: list[tuple[_Columns, _Columns]] = field(default_factory=list)
    about: dict[str, dict[str, Any]] = field(default_factory=dict)
    tracks: list[dict[str, Any]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    damage: list[str] = field(default_factory=list)


def _recording(files: Mapping[str, bytes]) -> Recording:
    hosts: list[_Host] = []
    taken: set[int] = set()
    for name, data in files.items():
        prefix = f"{name.removesuffix(SUFFIX)} " if len(files) > 1 else ""
        hosts.append(_host(parse_xspace(data), prefix=prefix, number=len(hosts), taken=taken))
    base_ns = min(host.base_ns for host in hosts)
    for host in hosts:
        for columns, _ in host.parts if base_ns else []:
            columns["start_ns"] = np.asarray(columns["start_ns"]) + (host.base_ns - base_ns)
    events = _joined([part for host in hosts for part in host.parts])
    limits = _limits(events) + ([_CLOCKS] if len(hosts) > 1 and not base_ns else [])
    return Recording(
        source="xspace",
        events=events,
        base_ns=base_ns,
        header={
            "planes": {name: about for host in hosts for name, about in host.about.items()},
            "tracks": [track for host in hosts for track in host.tracks],
            "limits": limits,
        },
        dropped=dict(sum((host.dropped for host in hosts), Counter())),
        damage=[sentence for host in hosts for sentence in host.damage],
        native=dict(files),
    )


def _host(space: Any, *, prefix: str, number: int, taken: set[int]) -> _Host:
    """Read one file.

    Args:
        space: The message.
        prefix: What the names of its planes begin with, where there are several hosts.
        number: Position of the host, which keeps apart the ids of launches: each host counts its own.
        taken: Numbers that devices of the hosts before have; this one's are added.
    """
    host = _Host(base_ns=_base_ns(space))
    host.damage += [f"The profiler reports an error: {text}" for text in space.errors]
    host.damage += [f"The profiler warns: {text}" for text in space.warnings]
    devices = _numbered(space, taken)
    for plane in space.planes:
        rows = Rows(plane)
        host.dropped.update(rows.dropped)
        process = prefix + (_HOST if plane.name in _SAME_HOST else plane.name)
        if rows.about:
            host.about[prefix + plane.name] = rows.about
        if "dropped_traces" in rows.about:
            host.damage.append(f"The profiler had no room for all events of {process}: {rows.about['dropped_traces']}")
        if len(rows):
            columns, args = meanings(plane, rows, devices)
            correlation = np.asarray(columns["correlation"])
            columns["correlation"] = np.where(correlation == NONE, NONE, correlation + (number << 40))
            host.parts.append((_with_place(columns, plane, rows, process), args))
            host.tracks += _tracks(plane, process)
    return host


def _base_ns(space: Any) -> int:
    """Return when the profiler started; XLA counts the times in a file from there (`NormalizeTimestamps`)."""
    latest = max((line.timestamp_ns for plane in space.planes for line in plane.lines), default=0)
    for plane in space.planes:
        if plane.name == _ENVIRONMENT:
            start = Rows(plane).about.get("profile_start_time", 0)
            return start if latest < start else 0
    return 0


def _numbered(space: Any, taken: set[int]) -> dict[str, int]:
    """Return a number for each device, its own unless a device of another host has that."""
    numbers = {}
    for plane in space.planes:
        found = _device(plane.name)
        if found:
            own = int(found[1])
            numbers[plane.name] = own if own not in taken else max(taken) + 1
            taken.add(numbers[plane.name])
    return numbers


def _with_place(columns: _Columns, plane: Any, rows: Rows, process: str) -> _Columns:
    return {
        "phase": Texts.same("X", len(rows)),
        **columns,
        "process": Texts.same(process, len(rows)),
        "thread": Texts(rows.line, _threads(plane)),
        "start_ns": rows.start_ns,
        "duration_ns": rows.end_ns - rows.start_ns,
    }


def _threads(plane: Any) -> list[str]:
    """Return the ids of a plane's lines; of several lines with one id, the later ones have a number added."""
    seen: Counter[int] = Counter()
    names = []
    for line in plane.lines:
        seen[line.id] += 1
        names.append(str(line.id) if seen[line.id] == 1 else f"{line.id}.{seen[line.id]}")
    return names


def _tracks(plane: Any, process: str) -> list[dict[str, Any]]:
    named = [
        {
            "ph": "M",
            "name": "thread_name",
            "pid": process,
            "tid": thread,
            "args": {"name": line.display_name or line.name},
        }
        for line, thread in zip(plane.lines, _threads(plane), strict=True)
    ]
    return [{"ph": "M", "name": "process_name", "pid": process, "args": {"name": process}}, *named]


def _joined(parts: Sequence[tuple[_Columns, _Columns]]) -> Events:
    counts = [len(columns["name"]) for columns, _ in parts]
    columns, args = (_stacked([part[side] for part in parts], counts) for side in range(2))
    return Events.of(columns or {"name": Texts.of([])}, args)


def _stacked(tables: Sequence[_Columns], counts: Sequence[int]) -> _Columns:
    names = dict.fromkeys(name for table in tables for name in table)
    return {name: _stack([table.get(name) for table in tables], counts) for name in names}


def _stack(columns: Sequence[Column | None], counts: Sequence[int]) -> Column:
    """Join columns one below the other; as JSON, if one of them is."""
    pairs = list(zip(columns, counts, strict=True))
    if any(isinstance(column, Texts) for column in columns):
        return Texts.concat([_texts(column, count) for column, count in pairs])
    return np.concatenate([nothing(count) if column is None else np.asarray(column) for column, count in pairs])


def _texts(column: Column | None, count: int) -> Texts:
    if column is None:
        return Texts.same(None, count)
    if isinstance(column, Texts):
        return column
    return Texts.of(None if number == NONE else str(number) for number in column.tolist())


def _limits(events: Events) -> list[str]:
    is_operation = events.category.equal("cpu_op")
    limits = []
    if "op" in events.args and is_operation.any():
        limits.append(_CHEAP)
        if not (is_operation & (events.shapes.codes >= 0)).any():
            limits.append(_NO_SHAPES)
    if not is_operation.any() and events.category.equal("kernel").any():
        limits.append(_NO_HOST)
    return limits
