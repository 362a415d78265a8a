import json
import os
import subprocess
import sys
from typing import Any, NamedTuple

import pytest

from dnnamo.errors import DnnamoError, UsageError
from dnnamo.profiles.xspace import _message_class, parse_xspace, profile_from_xspace

N_STEPS = 4
N_MATMULS = 2

WITHOUT_TENSORFLOW = """
import json, sys
sys.modules["tensorflow"] = None
from dnnamo.profiles.xspace import profile_from_xspace
print(json.dumps(profile_from_xspace(open(sys.argv[1], "rb").read()).to_dict()))
"""


@pytest.fixture(scope="module")
def trace(tmp_path_factory) -> bytes:
    """A profile that TensorFlow recorded: steps of two matrix products in a function, then one run eagerly."""
    if "CI" not in os.environ:
        pytest.importorskip("tensorflow")
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("trace")
    matrix = tf.random.normal((200, 200))
    product = tf.function(lambda x: tf.linalg.matmul(tf.linalg.matmul(x, x), x))
    product(matrix)
    tf.profiler.experimental.start(str(folder))
    for index in range(N_STEPS):
        with tf.profiler.experimental.Trace("train", step_num=index, _r=1):
            product(matrix).numpy()
    with tf.profiler.experimental.Trace("eager", step_num=N_STEPS, _r=1):
        tf.linalg.cross([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]).numpy()
    tf.profiler.experimental.stop()
    (path,) = folder.rglob("*.xplane.pb")
    return path.read_bytes()


def test_reads_the_same_events_as_tensorflows_own_parser(trace):
    from tensorflow.tsl.profiler.protobuf.xplane_pb2 import XSpace

    oracle = XSpace.FromString(trace)
    names = [{key: (value.name, value.display_name) for key, value in p.event_metadata.items()} for p in oracle.planes]
    stats = [{key: value.name for key, value in p.stat_metadata.items()} for p in oracle.planes]

    ours = parse_xspace(trace)

    assert [{e.key: (e.value.name, e.value.display_name) for e in p.event_metadata} for p in ours.planes] == names
    assert [{e.key: e.value.name for e in p.stat_metadata} for p in ours.planes] == stats
    assert [_lines(plane) for plane in ours.planes] == [_lines(plane) for plane in oracle.planes]
    assert sum(len(line.events) for line in ours.planes[0].lines) > N_STEPS


def _lines(plane: Any) -> list[Any]:
    return [
        (plane.name, line.id, line.name, line.timestamp_ns, [_event(event) for event in line.events])
        for line in plane.lines
    ]


def _event(event: Any) -> Any:
    stats = [(stat.metadata_id, stat.str_value, stat.ref_value) for stat in event.stats]
    return event.metadata_id, event.offset_ps, event.duration_ps, stats


def test_finds_the_marked_steps_and_their_operations(trace):
    profile = profile_from_xspace(trace)

    calls = {operation.name: operation.calls for operation in profile.operations}
    assert profile.source == "xspace"
    assert len(profile.step_ns) == N_STEPS + 1
    assert all(duration > 0 for duration in profile.step_ns)
    assert sum(count for name, count in calls.items() if "MatMul" in name) == N_MATMULS * N_STEPS
    assert calls["Cross"] == 1, "run eagerly"
    assert 0 < profile.covered_ns <= sum(profile.step_ns)
    assert not any("::" in name or "__" in name for name in calls), "the runtime around operations is no operation"


def test_needs_no_tensorflow(trace, tmp_path):
    path = tmp_path / "host.xplane.pb"
    path.write_bytes(trace)
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW, path]

    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert json.loads(output) == profile_from_xspace(trace).to_dict()


class Event(NamedTuple):
    name: str
    start_ps: int
    duration_ps: int
    kind: str = ""
    stats: dict[str, str] = {}


def xspace(*events: Event, plane: str = "/host:CPU", threads: int = 1) -> bytes:
    """A space of one plane, with the same events on each of its threads."""
    space = _message_class()()
    host = space.planes.add(name=plane)
    stats = {name: key for key, name in enumerate(sorted({name for event in events for name in event.stats}), start=1)}
    for name, key in stats.items():
        host.stat_metadata.add(key=key).value.name = name
    for key, event in enumerate(events, start=1):
        metadata = host.event_metadata.add(key=key).value
        metadata.name, metadata.display_name = event.name, event.kind
    for thread in range(threads):
        line = host.lines.add(id=thread, name="python", timestamp_ns=1_000)
        for key, event in enumerate(events, start=1):
            added = line.events.add(metadata_id=key, offset_ps=event.start_ps, duration_ps=event.duration_ps)
            for name, value in event.stats.items():
                added.stats.add(metadata_id=stats[name], str_value=value)
    return bytes(space.SerializeToString())


def table(data: bytes) -> list[tuple[str, int, int, int]]:
    return [(op.name, op.calls, op.self_ns, op.total_ns) for op in profile_from_xspace(data).operations]


def test_counts_only_operations():
    data = xspace(
        Event("ThreadpoolListener::Record", 0, 9_000),
        Event("Iterator::Root::Prefetch", 0, 9_000, "Iterator::Prefetch"),
        Event("dense/MatMul:MatMul", 1_000, 5_000, "MatMul"),
    )

    assert table(data) == [("MatMul", 1, 5, 5)]


def test_sums_an_operation_over_threads():
    assert table(xspace(Event("a:Mul", 0, 5_000, "Mul"), threads=3)) == [("Mul", 3, 15, 15)]


def test_keeps_nesting_when_rounding_to_nanoseconds():
    data = xspace(Event("a:Case", 900, 1_600, "Case"), Event("b:Mul", 1_900, 600, "Mul"))

    assert table(data) == [("Case", 1, 1, 2), ("Mul", 1, 1, 1)], "both end at 2,500 ps"


def test_counts_an_eager_operation_once():
    alone = Event("EagerLocalExecute: MatMul", 0, 9_000)
    function = Event("EagerLocalExecute: __inference_step_1", 0, 20_000)
    kernel = Event("MatMul:MatMul", 2_000, 5_000, "MatMul")

    assert table(xspace(alone, function)) == [("MatMul", 1, 9, 9)]
    assert table(xspace(alone, function, kernel)) == [("MatMul", 1, 5, 5)]


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("(float[32,10];float[10,4])", [[32, 10], [10, 4]]),
        ("(;int32[])", [None, []]),
        ("float[32", None),
    ],
)
def test_reads_input_shapes_where_the_tracer_recorded_them(text, shapes):
    data = xspace(Event("a:MatMul", 0, 5_000, "MatMul", {"shape": text}))

    (operation,) = profile_from_xspace(data).operations

    assert operation.shapes == shapes


def test_takes_the_outer_of_nested_step_marks():
    data = xspace(
        Event("epoch", 0, 10_000, stats={"step_num": ""}),
        Event("train", 2_000, 3_000, stats={"step_num": ""}),
        Event("train", 10_000, 3_000, stats={"step_num": ""}),
    )

    assert profile_from_xspace(data).step_ns == [10, 3]


def test_leaves_device_planes_out():
    profile = profile_from_xspace(xspace(Event("a:Mul", 0, 5_000, "Mul"), plane="/device:GPU:0"))

    assert profile.operations == []
    assert profile.coverage is None


@pytest.mark.parametrize("damage", [lambda data: data[:-7], lambda data: b"\n" + data, lambda data: b"{}"])
def test_refuses_what_is_no_xspace(damage):
    data = damage(xspace(Event("a:Mul", 0, 5_000, "Mul")))

    with pytest.raises(ValueError, match=f"{len(data)} bytes are no TensorFlow profile") as caught:
        profile_from_xspace(data)
    assert isinstance(caught.value, DnnamoError)


def test_explains_an_empty_file():
    with pytest.raises(UsageError, match="over 2 GB"):
        profile_from_xspace(b"")


def test_refuses_a_space_without_planes():
    with pytest.raises(UsageError, match="no planes"):
        profile_from_xspace(b"\x22\x02vm")
