import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dnnamo.errors import UsageError
from dnnamo.profiles.build import profile_of
from dnnamo.profiles.events import NONE, Events
from dnnamo.profiles.readers.run_metadata import _message, read
from dnnamo.profiles.recording import Recording

N_STEPS = 2

SESSION = f"""
import sys
import numpy as np
import tensorflow as tf

v1 = tf.compat.v1
v1.disable_eager_execution()
x, y = v1.placeholder(tf.float32, (64, 32)), v1.placeholder(tf.int32, (64,))
with v1.variable_scope("net"):
    hidden = tf.nn.relu(tf.matmul(x, v1.get_variable("w", (32, 64))))
    output = tf.matmul(hidden, v1.get_variable("v", (64, 10)))
loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=output))
train = v1.train.GradientDescentOptimizer(0.1).minimize(loss)
with v1.Session() as session:
    session.run(v1.global_variables_initializer())
    for step in range({N_STEPS}):
        metadata = v1.RunMetadata()
        session.run(
            [train, loss],
            {{x: np.ones((64, 32)), y: np.zeros(64)}},
            options=v1.RunOptions(trace_level=v1.RunOptions.FULL_TRACE),
            run_metadata=metadata,
        )
        with open(f"{{sys.argv[1]}}/{{step}}.pb", "wb") as file:
            file.write(metadata.SerializeToString())
"""


class Run:
    """What the reader asks of a `tf.compat.v1.RunMetadata`."""

    class DESCRIPTOR:
        full_name = "tensorflow.RunMetadata"

    def __init__(self, data: bytes) -> None:
        self._data = data

    def SerializeToString(self) -> bytes:  # noqa: N802
        return self._data


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> list[Run]:
    """The runs of a training graph, in a process of its own: graph mode is for a whole process."""
    if "CI" not in os.environ:
        pytest.importorskip("tensorflow")
    folder = tmp_path_factory.mktemp("session")
    # oneDNN puts operations of other names in place of some, on processors that have what these need.
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}
    subprocess.run([sys.executable, "-c", SESSION, folder], check=True, capture_output=True, text=True, env=environment)
    return [Run((folder / f"{step}.pb").read_bytes()) for step in range(N_STEPS)]


def recorded(*runs: Any) -> Recording:
    recording = read(list(runs))
    assert recording is not None
    return recording


def events_of(*runs: Any) -> Events:
    return recorded(*runs).events


def test_reads_what_tensorflow_hands_over(session):
    from tensorflow.core.protobuf.config_pb2 import RunMetadata

    own = [RunMetadata.FromString(run.SerializeToString()) for run in session]

    assert events_of(*own).to_arrow() == events_of(*session).to_arrow()
    first = read(own[0])
    assert first is not None
    assert first.native == {"run_metadata.pb": own[0].SerializeToString()}


def test_finds_the_steps_and_operations_of_a_training_graph(session):
    from tensorflow.core.protobuf.config_pb2 import RunMetadata

    traced = RunMetadata.FromString(session[0].SerializeToString()).step_stats.dev_stats[0].node_stats
    recording = recorded(*session)
    profile, events = profile_of(recording)

    calls = {operation.name: operation.calls for operation in profile.operations["name"]}
    assert [step.number for step in profile.steps] == list(range(N_STEPS))
    assert calls["MatMul"] == 5 * N_STEPS, "two forward, three backward"
    assert calls["ResourceApplyGradientDescent"] == 2 * N_STEPS
    assert sum(calls.values()) == int(events.category.equal("cpu_op").sum())
    first = events.take(events.category.equal("cpu_op") & (events.step == 0))
    assert sorted(first.start_ns.tolist()) == sorted(node.all_start_nanos for node in traced)
    assert int(first.duration_ns.sum()) == sum(node.all_end_rel_nanos for node in traced)
    assert profile.covered_ns <= sum(step.wall_ns for step in profile.steps)
    assert sorted(recording.native) == ["run_metadata.0.pb", "run_metadata.1.pb"]


def test_keeps_scope_outputs_and_memory_of_an_operation(session):
    events = events_of(session[0])
    (at,) = [row for row, name in enumerate(events.args["op"].to_list()) if name == '"net/MatMul"']

    assert (events.name[at], events.layer[at], events.shapes[at]) == ("MatMul", "net", None)
    (output,) = json.loads(events.args["outputs"][at])
    assert (output["shape"], output["dtype"]) == ([64, 64], "float")
    assert len(json.loads(events.args["inputs"][at])) == 2
    (memory,) = json.loads(events.args["memory"][at])
    assert events.bytes[at] == memory["total_bytes"] == 64 * 64 * 4


def run(*devices: tuple[str, list[dict[str, Any]]]) -> Run:
    metadata = _message()()
    for name, nodes in devices:
        device = metadata.step_stats.dev_stats.add(device=name)
        for node in nodes:
            device.node_stats.add(**node)
    return Run(metadata.SerializeToString())


def node(label: str, start: int, duration: int, name: str = "net/MatMul:MatMul", **more: Any) -> dict[str, Any]:
    times = {"all_start_nanos": start, "all_end_rel_nanos": duration}
    return {"node_name": name, "timeline_label": label, **times, **more}


KERNEL = node("void gemm<float>(int) regs:32 grid:1,1,1", 5_000, 400)
COPY = node("MemcpyH2D kind_src:host size:256 dest:0", 4_000, 100, "edge_1_x")


def test_work_of_a_gpu_is_counted_once():
    gpu = "/job:localhost/replica:0/task:0/device:GPU:1"
    events = events_of(
        run(
            (gpu, [node("net/MatMul = MatMul(a, b)", 3_000, 200, "net/MatMul")]),
            (f"{gpu}/stream:7", [KERNEL]),
            (f"{gpu}/stream:all", [KERNEL]),
            (f"{gpu}/stream:9<MemcpyH2D>", [COPY]),
            (f"{gpu}/memcpy", [COPY]),
        )
    )

    work = events.take(events.device == 1)
    assert work.name.to_list() == ["void gemm<float>(int)", "MemcpyH2D"]
    assert work.category.to_list() == ["kernel", "gpu_memcpy"]
    assert (work.stream.tolist(), work.bytes.tolist()) == ([7, 9], [NONE, 256])
    assert work.layer.to_list() == ["net", None]
    (operation,) = (row for row in range(len(events)) if events.category[row] == "cpu_op")
    assert (events.name[operation], events.device[operation]) == ("MatMul", NONE), "the host's part of it"


def test_work_of_a_gpu_is_read_where_only_its_sums_are_there():
    events = events_of(run(("/device:GPU:0/stream:all", [KERNEL]), ("/device:GPU:0/memcpy", [COPY])))

    work = events.take(events.device == 0)
    assert sorted(filter(None, work.category.to_list())) == ["gpu_memcpy", "kernel"]
    assert work.stream.tolist() == [NONE, NONE]


def test_nodes_that_overlap_ran_on_different_threads():
    events = events_of(
        run(
            (
                "/device:CPU:0",
                [
                    node(f"{name} = Op()", start, length, name)
                    for name, start, length in [("a", 1, 9), ("b", 3, 2), ("c", 10, 1)]
                ],
            )
        )
    )

    lanes = dict(zip(events.args["op"].to_list(), events.thread.to_list(), strict=True))
    assert lanes['"a"'] == lanes['"c"'] != lanes['"b"']


def test_times_may_be_in_microseconds():
    nodes = [{"node_name": "a", "timeline_label": "a = Op()", "all_start_micros": 7, "all_end_rel_micros": 2}]

    events = events_of(run(("/device:CPU:0", nodes)))

    assert (set(events.start_ns.tolist()), set(events.duration_ns.tolist())) == ({7_000}, {2_000})


def test_a_step_without_a_trace_is_damage():
    recording = recorded(run(("/device:CPU:0", [node("a = Op()", 1, 1)])), run())

    assert recording.damage == ["Step 1 was not traced."]
    assert int(recording.events.category.equal("step").sum()) == 1


def test_says_how_to_trace_where_nothing_was():
    with pytest.raises(UsageError, match=r"RunOptions\.FULL_TRACE"):
        read(run())


@pytest.mark.parametrize("other", [None, [], (), [3], Path("run.pb"), b"", Run])
def test_leaves_other_things_to_others(other):
    assert read(other) is None


def test_a_list_must_hold_nothing_else():
    assert read([run(("/device:CPU:0", [node("a = Op()", 1, 1)])), 3]) is None
