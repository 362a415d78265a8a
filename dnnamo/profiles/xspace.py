"""TensorFlow's XSpace (`*.xplane.pb`) -> `Profile`, without TensorFlow.

The format is `tsl/profiler/protobuf/xplane.proto` of openxla/xla: planes (a host, a device) of lines (threads) of
events, whose names stand in tables of the plane. What counts as an operation follows `ParseTfOpFullname` in
`xla/tsl/profiler/utils/tf_op_utils.cc`: TensorFlow traces one as `scope/name:OpType`, `OpType` being its display name.

At level 2 TensorFlow's host tracer records only operations that it holds for expensive. That is a running estimate
(`KernelStats` in `tensorflow/core/common_runtime/executor.cc`): an operation that takes under 8,000 cycles drops out
after some 90 runs of its function, and trivial ones (Identity, Reshape, Const) are never recorded. So a small operation
that is missing here may have run. Device planes are not read.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from dnnamo.errors import UsageError
from dnnamo.profiles.timeline import Interval, Span, profile_of
from dnnamo.records import Profile

__all__ = ["parse_xspace", "profile_from_xspace"]

_HOST = "/host:CPU"
_EAGER = "EagerLocalExecute: "
_SHAPE = re.compile(r"\[([\d,]*)\]$")

# The fields that are read, as (number, name, type); the rest stays in the message unread. A protobuf map is on the wire
# a repeated pair of key and value.
_PACKAGE = "dnnamo.xspace"
_MESSAGES = {
    "XSpace": [(1, "planes", "XPlane*"), (2, "errors", "string*")],
    "XPlane": [
        (2, "name", "string"),
        (3, "lines", "XLine*"),
        (4, "event_metadata", "EventMetadataEntry*"),
        (5, "stat_metadata", "StatMetadataEntry*"),
    ],
    "XLine": [(1, "id", "int64"), (2, "name", "string"), (3, "timestamp_ns", "int64"), (4, "events", "XEvent*")],
    "XEvent": [
        (1, "metadata_id", "int64"),
        (2, "offset_ps", "int64"),
        (3, "duration_ps", "int64"),
        (4, "stats", "XStat*"),
    ],
    "XStat": [(1, "metadata_id", "int64"), (5, "str_value", "string"), (7, "ref_value", "uint64")],
    "EventMetadataEntry": [(1, "key", "int64"), (2, "value", "XEventMetadata")],
    "XEventMetadata": [(2, "name", "string"), (4, "display_name", "string")],
    "StatMetadataEntry": [(1, "key", "int64"), (2, "value", "XStatMetadata")],
    "XStatMetadata": [(2, "name", "string")],
}


def profile_from_xspace(data: bytes) -> Profile:
    """Build a profile from a serialized XSpace.

    Args:
        data: Content of a `*.xplane.pb` file.

    Returns:
        Host time by operation type; only what ran within steps marked with `tf.profiler.experimental.Trace(...,
        step_num=...)` counts, if there are any. Input shapes only where the host tracer recorded them (level 3).

    Raises:
        UsageError: If the data is no XSpace, or is cut off.
    """
    spans: list[Span] = []
    steps: list[Interval] = []
    for plane in parse_xspace(data).planes:
        if plane.name.startswith(_HOST):
            reader = _Plane(plane)
            spans += reader.spans()
            steps += reader.steps()
    return profile_of(spans, _disjoint(steps), source="xspace")


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
    space = _message_class()()
    try:
        space.ParseFromString(data)
    except DecodeError as error:
        raise UsageError(
            f"These {len(data):,} bytes are no TensorFlow profile (XSpace, *.xplane.pb), or are one cut short: {error}"
        ) from error
    if not any(plane.name for plane in space.planes):
        raise UsageError(
            f"These {len(data):,} bytes are no TensorFlow profile (XSpace, *.xplane.pb): it has no planes."
        )
    return space


@cache
def _message_class() -> Any:
    # A pool of our own: TensorFlow registers the original messages in the default one.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_file_descriptor())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.XSpace"))


def _file_descriptor() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="dnnamo/xspace.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field, kind in fields:
            _add_field(message, number, field, kind)
    return file


def _add_field(message: descriptor_pb2.DescriptorProto, number: int, name: str, kind: str) -> None:
    field = message.field.add(name=name, number=number)
    field.label = field.LABEL_REPEATED if kind.endswith("*") else field.LABEL_OPTIONAL
    kind = kind.rstrip("*")
    if kind in _MESSAGES:
        field.type, field.type_name = field.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
    else:
        field.type = descriptor_pb2.FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")


class _Plane:
    """A host's plane, with its names resolved."""

    def __init__(self, plane: Any) -> None:
        self._lines = plane.lines
        self._stats = {entry.key: entry.value.name for entry in plane.stat_metadata}
        self._operations: dict[int, str] = {}
        self._eager: dict[int, str] = {}
        for entry in plane.event_metadata:
            name, kind = entry.value.name, entry.value.display_name
            if kind and name.endswith(f":{kind}"):
                self._operations[entry.key] = kind
            # Two underscores begin the name of a function, whose operations are traced themselves.
            elif name.startswith(_EAGER) and not name.startswith(f"{_EAGER}__"):
                self._eager[entry.key] = name.removeprefix(_EAGER)

    def spans(self) -> Iterator[Span]:
        for line in self._lines:
            thread = f"{line.name}/{line.id}"
            operations = [
                self._span(event, line, thread) for event in line.events if event.metadata_id in self._operations
            ]
            yield from operations
            yield from self._eager_spans(line, thread, operations)

    def steps(self) -> Iterator[Interval]:
        marks = {key for key, name in self._stats.items() if name == "step_num"}
        for line in self._lines:
            for event in line.events:
                if any(stat.metadata_id in marks for stat in event.stats):
                    yield _interval(event, line)

    def _span(self, event: Any, line: Any, thread: str) -> Span:
        start, end = _interval(event, line)
        name = self._operations[event.metadata_id]
        return Span(name=name, start_ns=start, end_ns=end, thread=thread, shapes=self._shapes(event))

    def _eager_spans(self, line: Any, thread: str, operations: list[Span]) -> Iterator[Span]:
        """Operations run one by one from Python, unless the kernel inside was traced as an operation as well."""
        starts = sorted(span.start_ns for span in operations)
        for event in line.events:
            if event.metadata_id in self._eager:
                start, end = _interval(event, line)
                if bisect_left(starts, start) == bisect_left(starts, end):
                    yield Span(name=self._eager[event.metadata_id], start_ns=start, end_ns=end, thread=thread)

    def _shapes(self, event: Any) -> list[Any] | None:
        for stat in event.stats:
            if self._stats.get(stat.metadata_id) == "shape":
                return _parse_shapes(stat.str_value or self._stats.get(stat.ref_value, ""))
        return None


def _interval(event: Any, line: Any) -> Interval:
    # Both ends are rounded down, so that an event within another stays within it.
    start = line.timestamp_ns + event.offset_ps // 1000
    return start, line.timestamp_ns + (event.offset_ps + event.duration_ps) // 1000


def _parse_shapes(text: str) -> list[Any] | None:
    """Read `OpKernel::ShapeTraceString`: "(float[32,10];;int32[])" is [[32, 10], None, []], None being no tensor."""
    if not (text.startswith("(") and text.endswith(")")):
        return None
    return [_parse_shape(item) for item in text[1:-1].split(";")]


def _parse_shape(text: str) -> list[int] | None:
    found = _SHAPE.search(text)
    return [int(size) for size in found[1].split(",") if size] if found else None


def _disjoint(steps: Iterable[Interval]) -> list[Interval]:
    """Keep of steps that overlap (a mark within a mark, or on several threads) the one that starts first."""
    kept: list[Interval] = []
    for start, end in sorted(steps, key=lambda step: (step[0], -step[1])):
        if not kept or start >= kept[-1][1]:
            kept.append((start, end))
    return kept
