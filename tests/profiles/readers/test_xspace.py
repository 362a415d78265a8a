import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dnnamo.errors import DnnamoError, UsageError
from dnnamo.profiles.build import profile_of
from dnnamo.profiles.events import NONE, Events
from dnnamo.profiles.readers.xspace import _message, parse_xspace, read
from dnnamo.profiles.recording import Recording
from dnnamo.records import Operation

N_STEPS = 4
N_MATMULS = 2

WITHOUT_TENSORFLOW = """
import json, sys
sys.modules["tensorflow"] = None
from dnnamo.profiles.readers.xspace import read
print(json.dumps(read(sys.argv[1]).events.name.to_list()))
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
    assert sum(len(line.events) for plane in ours.planes for line in plane.lines) > N_STEPS


def _lines(plane: Any) -> list[Any]:
    return [
        (plane.name, line.id, line.name, line.timestamp_ns, [_event(event) for event in line.events])
        for line in plane.lines
    ]


def _event(event: Any) -> Any:
    stats = [(stat.metadata_id, stat.WhichOneof("value"), stat.int64_value, stat.ref_value) for stat in event.stats]
    return event.metadata_id, event.offset_ps, event.duration_ps, stats


def test_finds_the_marked_steps_and_their_operations(trace):
    recording = recorded(trace)
    profile, _ = profile_of(recording)

    calls = {operation.name: operation.calls for operation in profile.operations["name"]}
    assert profile.source == "xspace"
    assert [step.number for step in profile.steps] == list(range(N_STEPS + 1))
    assert all(step.wall_ns > 0 for step in profile.steps)
    assert sum(count for name, count in calls.items() if "MatMul" in name) == N_MATMULS * N_STEPS
    assert calls["Cross"] == 1, "run eagerly"
    assert 0 < profile.covered_ns <= sum(step.wall_ns for step in profile.steps)
    assert not any("::" in name or "__" in name for name in calls), "the runtime around operations is no operation"
    assert recording.base_ns > 1_700_000_000_000_000_000, "the time at which the profiler started"


def test_needs_no_tensorflow(trace, tmp_path):
    path = tmp_path / "host.xplane.pb"
    path.write_bytes(trace)
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW, path]

    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert json.loads(output) == recorded(trace).events.name.to_list()


class Event(NamedTuple):
    name: str
    start_ps: int
    duration_ps: int
    kind: str = ""
    stats: dict[str, Any] = {}


class Line(NamedTuple):
    events: list[Event]
    name: str = "python"
    id: int = 0


def xspace(*planes: tuple[str, list[Line]], **about: Any) -> bytes:
    """A space of some planes: each has a name and lines, which start 1 us after the profiler."""
    space = _message()()
    for key, value in about.items():
        getattr(space, key).extend(value)
    for name, lines in planes:
        plane = space.planes.add(name=name)
        keys: dict[tuple[str, str], int] = {}
        stats: dict[str, int] = {}
        for line in lines:
            added = plane.lines.add(id=line.id, name=line.name, timestamp_ns=1_000)
            for event in line.events:
                key = keys.setdefault((event.name, event.kind), len(keys) + 1)
                row = added.events.add(metadata_id=key, offset_ps=event.start_ps, duration_ps=event.duration_ps)
                for stat, value in event.stats.items():
                    set_stat(row, stats.setdefault(stat, len(stats) + 1), value)
        for (called, kind), key in keys.items():
            metadata = plane.event_metadata.add(key=key).value
            metadata.name, metadata.display_name = called, kind
        for stat, key in stats.items():
            plane.stat_metadata.add(key=key).value.name = stat
    return bytes(space.SerializeToString())


def set_stat(message: Any, key: int, value: Any) -> None:
    kinds = {int: "int64_value", str: "str_value", float: "double_value", bytes: "bytes_value"}
    kind = "uint64_value" if isinstance(value, int) and value >= 2**63 else kinds[type(value)]
    message.stats.add(metadata_id=key, **{kind: value})


def host(*events: Event, threads: int = 1) -> bytes:
    """A space of a host, with the same events on each of its threads."""
    return xspace(("/host:CPU", [Line(list(events), id=thread) for thread in range(threads)]))


def recorded(data: bytes) -> Recording:
    recording = read(data)
    assert recording is not None
    return recording


def operations(data: bytes) -> list[Operation]:
    return profile_of(recorded(data))[0].operations["name"]


def table(data: bytes) -> list[tuple[str, int, int, int]]:
    return [(op.name, op.calls, op.self_ns, op.total_ns) for op in operations(data)]


def row(events: Events, number: int) -> dict[str, Any]:
    """What one row says, by column."""
    columns = {**events.columns, **events.args}
    values = {name: column[number] for name, column in columns.items()}
    return {name: value for name, value in values.items() if value is not None and value != NONE}


def test_counts_only_operations():
    data = host(
        Event("ThreadpoolListener::Record", 0, 9_000),
        Event("Iterator::Root::Prefetch", 0, 9_000, "Iterator::Prefetch"),
        Event("dense/MatMul:MatMul", 1_000, 5_000, "MatMul"),
    )

    assert table(data) == [("MatMul", 1, 5, 5)]
    assert set(recorded(data).events.category.to_list()) == {"runtime", "cpu_op"}, "the rest is kept as well"


def test_an_operation_belongs_to_the_layer_that_its_scope_names():
    recording = recorded(
        host(Event("model/dense/MatMul:MatMul", 0, 5_000, "MatMul"), Event("Mean:Mean", 6_000, 1, "Mean"))
    )

    assert recording.events.layer.to_list() == ["model/dense", None]
    assert recording.events.args["op"].to_list() == ['"model/dense/MatMul"', '"Mean"']


def test_sums_an_operation_over_threads():
    assert table(host(Event("a:Mul", 0, 5_000, "Mul"), threads=3)) == [("Mul", 3, 15, 15)]


def test_threads_of_one_id_are_told_apart():
    lines = [Line([Event("a:Mul", 0, 5_000, "Mul")]), Line([Event("a:Mul", 1_000, 2_000, "Mul")])]

    assert table(xspace(("/host:CPU", lines))) == [("Mul", 2, 7, 7)]


def test_keeps_nesting_when_rounding_to_nanoseconds():
    data = host(Event("a:Case", 900, 1_600, "Case"), Event("b:Mul", 1_900, 600, "Mul"))

    assert table(data) == [("Case", 1, 1, 2), ("Mul", 1, 1, 1)], "both end at 2,500 ps"


def test_counts_an_eager_operation_once():
    alone = Event("EagerLocalExecute: MatMul", 0, 9_000)
    function = Event("EagerLocalExecute: __inference_step_1", 0, 20_000)
    kernel = Event("MatMul:MatMul", 2_000, 5_000, "MatMul")

    assert table(host(alone, function)) == [("MatMul", 1, 9, 9)]
    assert table(host(alone, function, kernel)) == [("MatMul", 1, 5, 5)]


@pytest.mark.parametrize(
    ("text", "shapes", "dtypes"),
    [
        ("(float[32,10];float[10,4])", "[[32,10],[10,4]]", '["float","float"]'),
        ("(;int32[])", "[null,[]]", '[null,"int32"]'),
        ("float[32", None, None),
    ],
)
def test_reads_input_shapes_where_the_tracer_recorded_them(text, shapes, dtypes):
    recording = recorded(host(Event("a:MatMul", 0, 5_000, "MatMul", {"shape": text})))

    assert recording.events.shapes.to_list() == [shapes]
    assert recording.events.dtypes.to_list() == [dtypes]
    assert any("no input shapes" in limit for limit in recording.header["limits"]) == (shapes is None)


def test_takes_the_outer_of_nested_step_marks():
    data = host(
        Event("epoch", 0, 10_000, stats={"step_num": 7}),
        Event("train", 2_000, 3_000, stats={"step_num": 0}),
        Event("train", 10_000, 3_000, stats={"step_num": 8, "_r": 1}),
    )

    profile, events = profile_of(recorded(data))

    assert [(step.number, step.wall_ns) for step in profile.steps] == [(7, 10), (8, 3)]
    assert sorted(filter(None, events.name.to_list())) == ["7", "8", "train"]


def test_calls_of_python_are_told_from_the_runtime():
    events = recorded(host(Event("$model.py:12 call", 0, 5_000))).events

    assert (events.name.to_list(), events.category.to_list()) == (["model.py:12 call"], ["python_function"])


def test_operations_of_xla_on_the_host_are_operations():
    hlo = {"hlo_op": "dot.3", "hlo_module": "jit_step"}

    assert table(host(Event("dot.3", 0, 5_000, stats=hlo), Event("dot.41", 5_000, 5_000, stats=hlo))) == [
        ("dot", 2, 10, 10)
    ]


def test_keeps_every_value_that_an_event_has():
    stats = {"id": -(2**62), "_p": 2**63 + 1, "ratio": 0.25, "text": "ä", "raw": b"\x00\xff", "nan": float("nan")}
    mixed = [Event("a", 0, 1, stats=stats | {"mixed": 1}), Event("b", 1_000, 1, stats={"mixed": "one"})]

    events = recorded(host(*mixed)).events

    said = row(events, 0)
    assert (said["id"], said["_p"], said["ratio"]) == (-(2**62), str(2**63 + 1), "0.25")
    assert (said["text"], said["raw"], said["nan"]) == ('"ä"', '"AP8="', '"nan"')
    assert events.args["mixed"].to_list() == ["1", '"one"']


def test_values_of_a_name_hold_for_its_events_unless_they_say_otherwise():
    space = _message().FromString(host(Event("a", 0, 1), Event("a", 2_000, 1, stats={"flops": 7})))
    set_stat(space.planes[0].event_metadata[0].value, space.planes[0].stat_metadata[0].key, 5)

    assert recorded(space.SerializeToString()).events.flops.tolist() == [5, 7]


def test_values_may_be_names_of_the_plane():
    space = _message().FromString(host(Event("a", 0, 1, stats={"where": "here"})))
    plane = space.planes[0]
    plane.stat_metadata.add(key=99).value.name = "there"
    plane.lines[0].events[0].stats[0].ref_value = 99

    assert recorded(space.SerializeToString()).events.args["where"].to_list() == ['"there"']


KERNEL = "void cutlass::Kernel<half>(int)"


def gpu(number: int = 0) -> tuple[str, list[Line]]:
    """A device as CUPTI's collector writes it, with lines that XLA derives from it."""
    launched = {"correlation_id": 5, "tf_op": "model/dense/MatMul:MatMul", "kernel_details": "regs:32 grid:1,1,1"}
    return f"/device:GPU:{number}", [
        Line([Event(KERNEL, 10_000, 4_000, stats=launched)], "Stream #7(Compute)", 7),
        Line(
            [
                Event(
                    "MemcpyH2D", 0, 3_000, stats={"correlation_id": 4, "memcpy_details": "kind_src:host size:64 dest:0"}
                ),
                Event(
                    "Memset", 4_000, 1_000, stats={"correlation_id": 6, "Memset_details": "kind:device num_bytes:32"}
                ),
                Event("MemoryAlloc", 6_000, 1_000, stats={"memalloc_details": "kind:device num_bytes:128"}),
            ],
            "Stream #14(MemcpyH2D,Memset)",
            14,
        ),
        Line([Event("jit_step", 0, 14_000)], "XLA Modules", 20_000),
        Line([Event("dot.1", 10_000, 4_000)], "XLA Ops", 20_001),
        Line([Event("gpu_power", 9_000, 0, stats={"gpu_power": 81.5})], "_counters_", 20_002),
    ]


LAUNCHES = Line(
    [
        Event("model/dense/MatMul:MatMul", 0, 9_000, "MatMul"),
        Event("cuMemcpyHtoDAsync", 500, 500, stats={"correlation_id": 4, "device_id": 0}),
        Event("cuLaunchKernel", 2_000, 1_000, stats={"correlation_id": 5, "device_id": 0}),
    ]
)


def test_a_devices_kernels_copies_and_their_launches():
    events = recorded(xspace(("/host:CPU", [LAUNCHES]), gpu())).events

    work = events.take(events.device == 0)
    found = list(
        zip(work.name.to_list(), work.category.to_list(), work.stream.tolist(), work.bytes.tolist(), strict=True)
    )
    assert found[1:5] == [
        ("MemcpyH2D", "gpu_memcpy", 14, 64),
        ("Memset", "gpu_memset", 14, 32),
        ("MemoryAlloc", "MemoryAlloc", 14, NONE),
        ("jit_step", "XLA Modules", NONE, NONE),
    ]
    kernel = row(work, work.name.to_list().index(KERNEL))
    assert (kernel["category"], kernel["stream"], kernel["correlation"]) == ("kernel", 7, 5)
    assert (kernel["layer"], kernel["process"], kernel["thread"]) == ("model/dense", "/device:GPU:0", "7")
    assert json.loads(kernel["kernel_details"]) == "regs:32 grid:1,1,1"
    assert events.take(events.category.equal("cuda_runtime")).name.to_list() == ["cuMemcpyHtoDAsync", "cuLaunchKernel"]
    assert events.take(events.phase.equal("C")).name.to_list() == ["gpu_power"]


def test_kernels_that_jax_launched_on_an_amd_gpu():
    hlo = {"tf_op": "XlaModule:", "name": "jit(step)/conv", "hlo_op": "fusion.1", "program_id": 15}
    call = Event("hipModuleLaunchKernel", 0, 3_000, stats={"correlation_id": 2**40, "device_id": 47645, **hlo})
    kernel = Event("fusion_1.kd", 5_000, 2_000, stats={"correlation_id": 2**40, **hlo})
    data = xspace(
        ("/device:GPU:0", []),
        ("/device:GPU:3", [Line([kernel], "Stream #16(Kernel)", 16)]),
        ("/host:CPU", [Line([call], "Host Threads/583", 583)]),
    )

    profile, events = profile_of(recorded(data))

    assert events.category.to_list() == ["kernel", "cuda_runtime"]
    assert (events.device.tolist(), events.stream.tolist()) == ([3, NONE], [16, NONE])
    assert events.correlation.tolist() == [2**40] * 2
    assert events.layer.to_list() == ["jit(step)"] * 2, "the scope that JAX gave"
    assert profile.devices[0].busy_ns == 2


def test_device_time_is_counted_once_and_for_its_operation():
    profile, _ = profile_of(recorded(xspace(("/host:CPU", [LAUNCHES]), gpu())))

    (device,) = profile.devices
    product = next(op for op in profile.operations["name"] if op.name == "MatMul")
    assert (device.busy_ns, device.compute_ns, device.copy_ns) == (8, 4, 4)
    assert (product.device_total_ns, product.total_ns) == (7, 9)


def test_launches_that_stand_in_a_plane_of_their_own_are_on_the_hosts_threads():
    operation, *calls = LAUNCHES.events
    merged = xspace(("/host:CPU", [LAUNCHES]), gpu())
    apart = xspace(("/host:CPU", [Line([operation])]), ("/host:CUPTI", [Line(calls)]), gpu())

    assert operations(apart) == operations(merged)


def test_what_a_loop_of_a_tpu_ran_is_counted_once():
    loop, inner = Event("while", 0, 10_000), Event("fusion.1", 1_000, 4_000, stats={"flops": 100})
    data = xspace(("/device:TPU:0", [Line([loop, inner], "XLA Ops", 3), Line([Event("1", 0, 10_000)], "Steps", 1)]))

    profile, events = profile_of(recorded(data))

    assert events.category.to_list() == ["gpu_user_annotation", "kernel", "Steps"]
    assert events.flops.tolist() == [NONE, 100, NONE]
    assert profile.devices[0].busy_ns == 4


def test_says_that_kernels_have_no_operations_where_the_host_was_not_traced():
    (limit,) = recorded(xspace(gpu())).header["limits"]

    assert "no operations of the host" in limit


def test_allocations_of_xla_are_memory_events():
    def change(name: str, at: int, total: int) -> Event:
        about = {"allocator_name": "GPU_1_bfc", "allocation_bytes": 100, "bytes_allocated": total, "addr": 4096}
        return Event(name, at, 0, stats=about)

    changes = Line([change("MemoryAllocation", 0, 150), change("MemoryDeallocation", 5_000, 50)])
    data = xspace(("/host:CPU", [changes]), ("/device:GPU:1", []))

    profile, events = profile_of(recorded(data))

    assert (events.name.to_list(), events.phase.to_list()) == (["[memory]"] * 2, ["i"] * 2)
    assert (events.bytes.tolist(), events.device.tolist()) == ([100, -100], [1, 1])
    assert profile.peak_bytes == {"gpu 1": 150}


def test_hosts_of_one_run_are_read_together(tmp_path):
    first, second = tmp_path / "run" / "first.xplane.pb", tmp_path / "run" / "second.xplane.pb"
    first.parent.mkdir()
    for path, start in [(first, 1_000_000), (second, 1_000_500)]:
        space = _message().FromString(xspace(("/host:CPU", [LAUNCHES]), gpu(), ("Task Environment", [])))
        environment = space.planes[2]
        environment.stat_metadata.add(key=1).value.name = "profile_start_time"
        set_stat(environment, 1, start)
        path.write_bytes(space.SerializeToString())

    recording = read(tmp_path)

    assert recording is not None
    assert recording.base_ns == 1_000_000
    assert sorted(recording.native) == ["first.xplane.pb", "second.xplane.pb"]
    kernels = recording.events.take(recording.events.category.equal("kernel"))
    assert kernels.device.tolist() == [0, 1]
    assert kernels.start_ns.tolist() == [1_010, 1_510], "on one clock"
    profile, _ = profile_of(recording)
    product = next(op for op in profile.operations["name"] if op.name == "MatMul")
    assert (product.calls, product.device_total_ns) == (2, 14), "each launch finds the kernel of its own host"


def test_the_newest_run_of_a_log_folder_is_read(tmp_path):
    for name, event, time in [("old", "a:Mul", 0), ("new", "b:Add", 1_000_000_000)]:
        path = tmp_path / "plugins" / "profile" / name / "host.xplane.pb"
        path.parent.mkdir(parents=True)
        path.write_bytes(host(Event(event, 0, 5_000, event[2:])))
        os.utime(path, (time, time))

    recording = read(str(tmp_path))

    assert recording is not None
    assert recording.events.name.to_list() == ["Add"]
    assert list(recording.native) == ["trace.xplane.pb"]


def test_a_gzipped_file_is_read(tmp_path):
    data = host(Event("a:Mul", 0, 5_000, "Mul"))
    path = tmp_path / "host.xplane.pb.gz"
    path.write_bytes(gzip.compress(data))

    recording = read(path)

    assert recording is not None
    assert recording.native == {"trace.xplane.pb": data}


# named, since gzip writes the time into the bytes and the processes of one run must agree on a test's name
@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b"\n" * 100)[:-9]], ids=["no gzip", "cut short"])
def test_a_damaged_gzip_file_is_named(content, tmp_path):
    path = tmp_path / "host.xplane.pb.gz"
    path.write_bytes(content)

    with pytest.raises(UsageError, match=r"host\.xplane\.pb\.gz is no gzip file, or one cut short"):
        read(path)


def test_a_missing_file_is_named():
    with pytest.raises(UsageError, match=r"missing\.xplane\.pb cannot be read: No such file"):
        read(Path("missing.xplane.pb"))


def test_what_the_profiler_reports_is_damage():
    recording = recorded(xspace(("/host:CPU", []), errors=["out of buffers"], warnings=["slow"]))

    assert recording.damage == ["The profiler reports an error: out of buffers", "The profiler warns: slow"]


def test_what_cannot_be_placed_in_time_is_counted():
    space = _message().FromString(host(Event("a:Mul", 0, 5_000, "Mul"), Event("b:Mul", 9_000, -1, "Mul")))
    space.planes[0].lines[0].events.add(metadata_id=1, num_occurrences=12, duration_ps=500)

    recording = recorded(space.SerializeToString())

    assert len(recording.events) == 1
    assert recording.dropped == {
        "events that end before they start": 1,
        "events without a start, which stand for several": 1,
    }


def test_names_of_threads_are_kept():
    data = xspace(("/host:CPU", [Line([Event("a", 0, 1)], "tf_Compute/12", 12)]))

    tracks = recorded(data).header["tracks"]

    assert {
        "ph": "M",
        "name": "thread_name",
        "pid": "/host:CPU",
        "tid": "12",
        "args": {"name": "tf_Compute/12"},
    } in tracks


@pytest.mark.parametrize("damage", [lambda data: data[:-7], lambda data: b"\n" + data])
def test_refuses_what_is_no_xspace(damage):
    data = damage(host(Event("a:Mul", 0, 5_000, "Mul")))

    with pytest.raises(ValueError, match=f"{len(data)} bytes are no TensorFlow profile") as caught:
        read(data)
    assert isinstance(caught.value, DnnamoError)


def test_explains_an_empty_file():
    with pytest.raises(UsageError, match="over 2 GB"):
        read(b"")


def test_refuses_a_space_without_planes():
    with pytest.raises(UsageError, match="no planes"):
        parse_xspace(b"\x22\x02vm")
