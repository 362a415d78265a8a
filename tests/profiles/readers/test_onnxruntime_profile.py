import gzip
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dnnamo.profiles.build import profile_of
from dnnamo.profiles.readers import onnxruntime, read
from dnnamo.profiles.readers.onnxruntime import SessionProfile


def event(category: str, name: str, start: int, duration: int, **args: Any) -> dict[str, Any]:
    place = {"pid": -1, "tid": -1} if category == "Kernel" else {"pid": 7, "tid": 8}
    return {"cat": category, **place, "dur": duration, "ts": start, "ph": "X", "name": name, "args": args}


def node(name: str, op: str, start: int, duration: int, *shapes: list[int], **args: str) -> dict[str, Any]:
    given = [{"float": shape} for shape in shapes]
    more = {"op_name": op, "provider": "CPUExecutionProvider", "node_index": "3", "input_type_shape": given} | args
    return event("Node", f"{name}_kernel_time", start, duration, **more)


def run(start: int, *operations: dict[str, Any], duration: int = 100) -> list[dict[str, Any]]:
    return [
        *operations,
        event("Session", "SequentialExecutor::Execute", start + 1, duration - 2),
        event("Session", "model_run", start, duration),
    ]


LOADED = [event("Session", "model_loading_uri", 1, 5), event("Session", "session_initialization", 7, 10)]
FIRST = run(100, node("/a/Conv", "Conv", 110, 60, [2, 3], [4]), node("/a/Relu", "Relu", 172, 20, [2, 3]))
SECOND = run(300, node("/a/Conv", "Conv", 310, 40, [2, 3], [4]), node("/a/Relu", "Relu", 352, 21, [2, 3]))
EVENTS = LOADED + FIRST + SECOND


def trace_text(events: list[dict[str, Any]]) -> bytes:
    """As ONNX Runtime writes it: an event a line, and blanks where it has them."""
    return ("[\n" + ",\n".join(json.dumps(each, separators=(",", " :")) for each in events) + "\n]\n").encode()


@pytest.fixture
def file(tmp_path):
    def write(events: list[dict[str, Any]], name: str = "run.json") -> Path:
        path = tmp_path / name
        path.write_bytes(gzip.compress(trace_text(events)) if name.endswith(".gz") else trace_text(events))
        return path

    return write


def table(source: object, grain: str = "name") -> dict[str, tuple[int, int]]:
    profile, _ = profile_of(read(source))
    return {row.name: (row.calls, row.total_ns) for row in profile.operations[grain]}


@pytest.mark.parametrize("name", ["run.json", "run.json.gz", "anything"])
def test_operations_are_named_by_type_with_the_files_own_calls_and_times(name, file):
    assert table(file(EVENTS, name)) == {"Conv": (2, 100_000), "Relu": (2, 41_000)}


def test_each_run_of_the_session_is_a_step(file):
    profile, _ = profile_of(read(file(EVENTS)))

    assert [(step.number, step.wall_ns, step.covered_ns) for step in profile.steps] == [
        (0, 100_000, 80_000),
        (1, 100_000, 61_000),
    ]
    assert (profile.source, profile.verdict, profile.reasons) == ("onnxruntime", "ok", [])
    assert any("whole microseconds" in note for note in profile.notes)
    assert any("the first one too" in note for note in profile.notes)


def test_a_nodes_name_is_its_layer_and_its_shapes_are_kinetos(file):
    profile, events = profile_of(read(file(EVENTS)))

    assert table(file(EVENTS), "layer") == {
        "a/Conv": (2, 100_000),
        "a/Relu": (2, 41_000),
        "a": (0, 141_000),
        "": (0, 141_000),
    }
    assert {(row.name, str(row.shapes)) for row in profile.operations["shape"]} == {
        ("Conv", "[[2, 3], [4]]"),
        ("Relu", "[[2, 3]]"),
    }
    assert set(events.dtypes.to_list()) == {None, '["float","float"]', '["float"]'}
    assert set(events.args["node"].to_list()) == {None, '"/a/Conv"', '"/a/Relu"'}
    assert events.args["node_index"].max() == 3, "a number, though the file has it as text"


def test_an_input_that_is_left_out_has_no_shape(file):
    clip = node("clip", "Clip", 110, 5)
    clip["args"]["input_type_shape"] = [{"float": [2]}, {}, {"int64": []}]

    profile, events = profile_of(read(file(run(100, clip))))

    assert profile.operations["shape"][0].shapes == [[2], [], []]
    assert '["float","","int64"]' in events.dtypes.values


def test_runs_before_the_counted_ones_and_what_came_before_are_left_out():
    source = SessionProfile(trace=trace_text(EVENTS), unmarked=1, steps=1, base_ns=5, layers={"/a/Relu": "net.a"})
    recording = read(source)
    profile, events = profile_of(recording)

    assert table(source) == {"Conv": (1, 40_000), "Relu": (1, 21_000)}
    assert [step.number for step in profile.steps] == [0]
    assert events.start_ns.min() == 300_000
    assert recording.base_ns == 5
    assert {"net.a/a/Relu", "net.a", "net", "a/Conv"} <= set(table(source, "layer"))
    assert not any("the first one too" in note for note in profile.notes)


def test_steps_that_the_profiler_had_no_room_for_make_a_profile_bad():
    profile, _ = profile_of(read(SessionProfile(trace=trace_text(EVENTS), steps=5)))

    assert profile.verdict == "bad"
    assert profile.reasons[0].startswith("It holds 2 of the 5 steps that were run")


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("/layers.0/attn/MatMul", "layers.0/attn/MatMul"),
        ("linear/MatMulAddFusion", "net/linear/MatMulAddFusion"),
        ("fused /a/Gemm", "a/Gemm"),
        ("relu_nchwc", "net/relu_nchwc"),
        ("", None),
    ],
)
def test_fused_operations_belong_where_the_node_did(name, layer):
    trace = trace_text(run(100, node(name, "Op", 110, 5)))
    _, events = profile_of(read(SessionProfile(trace=trace, layers={"linear": "net", "relu": "net"})))

    assert [
        text for text, is_op in zip(events.layer.to_list(), events.category.equal("cpu_op"), strict=True) if is_op
    ] == [layer]


def test_what_runs_in_a_loop_is_part_of_it(file):
    inner = [node("body", "Add", 120, 10), node("body", "Add", 140, 10)]
    profile, _ = profile_of(read(file(run(100, *inner, node("loop", "Loop", 110, 60)))))

    rows = {row.name: (row.calls, row.self_ns, row.total_ns) for row in profile.operations["name"]}
    assert rows == {"Loop": (1, 40_000, 60_000), "Add": (2, 20_000, 20_000)}


def test_fences_of_old_versions_are_no_operations(file):
    fence = event("Node", "conv_fence_before", 105, 1, op_name="Conv")

    assert table(file(run(100, fence, node("conv", "Conv", 110, 60)))) == {"Conv": (1, 60_000)}


def kernel(name: str, parent: str, start: int, duration: int, *, stream: str = "7", size: str = "32") -> dict[str, Any]:
    return event(
        "Kernel", name, start, duration, stream=stream, grid_x=size, parent_name=f"{parent}_kernel_time", op_name="x"
    )


def on_gpu(*kernels: dict[str, Any]) -> list[dict[str, Any]]:
    cuda = {"provider": "CUDAExecutionProvider"}
    return [
        *run(100, node("a", "Gemm", 110, 10, **cuda), node("b", "Relu", 130, 10, **cuda), *kernels[:2]),
        *run(300, node("a", "Gemm", 310, 10, **cuda), node("b", "Relu", 330, 10, **cuda), *kernels[2:]),
    ]


def test_kernels_belong_to_the_operation_of_their_step(file):
    kernels = [
        kernel("gemm", "a", 112, 20),
        kernel("relu", "b", 133, 5),
        kernel("gemm", "a", 311, 30),
        kernel("MemcpyHostToDevice", "b", 350, 4, stream="13", size="-1"),
    ]
    profile, events = profile_of(read(file(on_gpu(*kernels))))

    times = {row.name: (row.total_ns, row.device_ns) for row in profile.operations["name"]}
    assert times == {"Gemm": (20_000, 50_000), "Relu": (20_000, 9_000)}
    assert [step.device_ns for step in profile.steps] == [25_000, 34_000]
    assert {row.name: row.calls for row in profile.operations["kernel"]} == {
        "gemm": 2,
        "relu": 1,
        "MemcpyHostToDevice": 1,
    }
    (device,) = profile.devices
    assert device.copy_ns == 4_000
    assert set(events.stream[events.category.equal("kernel", "gpu_memcpy")].tolist()) == {7, 13}
    assert profile.verdict == "ok", profile.reasons


def test_a_gpu_build_that_records_no_kernels_says_so(file):
    profile, _ = profile_of(read(file(on_gpu())))

    assert any("does not record what the GPU does" in note for note in profile.notes)


def test_a_kernel_of_no_known_operation_is_work_of_the_device_alone(file):
    profile, _ = profile_of(read(file(on_gpu(kernel("stray", "nobody", 112, 20)))))

    assert profile.operations["name"][0].device_ns == 0
    assert profile.verdict == "degraded"
    assert "belong to no operation" in profile.reasons[0]


def test_a_file_that_is_cut_off_is_bad(tmp_path):
    path = tmp_path / "run.json"
    path.write_bytes(trace_text(EVENTS)[:-150])

    profile, _ = profile_of(read(path))

    assert (profile.source, profile.verdict) == ("onnxruntime", "bad")


@pytest.mark.parametrize(
    "events",
    [
        [{"ph": "X", "cat": "Node", "name": "a_kernel_time", "pid": 1, "tid": 1, "ts": 1, "dur": 1}],
        [
            {
                "ph": "X",
                "cat": "cpu_op",
                "name": "model_run",
                "pid": 1,
                "tid": 1,
                "ts": 1,
                "dur": 1,
                "args": {"cat": "Node"},
            }
        ],
    ],
    ids=["of no provider", "of another tool"],
)
def test_a_trace_that_only_looks_alike_is_left_to_the_reader_of_traces(events, file):
    path = file(events)

    assert onnxruntime.read(path) is None
    assert read(path).source == "chrome"


def test_calls_and_totals_are_those_of_a_real_file(tmp_path):
    if "CI" not in os.environ:
        pytest.importorskip("onnxruntime")
    from dnnamo.frameworks.onnxruntime import OnnxModel
    from tests.frameworks.onnx_models import perceptron

    profiled = OnnxModel(perceptron(), batch=64).profile_inference(5)
    path = tmp_path / "run.json"
    path.write_bytes(profiled.trace)
    calls: Counter[str] = Counter()
    times: Counter[str] = Counter()
    for each in json.loads(profiled.trace):
        if each["name"].endswith("_kernel_time"):
            calls[each["args"]["op_name"]] += 1
            times[each["args"]["op_name"]] += 1000 * each["dur"]

    assert len(calls) > 1
    assert table(path) == {name: (count, times[name]) for name, count in calls.items()}
