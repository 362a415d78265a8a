import json
import os
from collections import defaultdict
from io import BytesIO
from random import Random

import numpy as np
import pytest

from dnnamo.profiles.events import NONE, Events, Texts
from dnnamo.profiles.exports.chrome import write
from dnnamo.profiles.links import link
from dnnamo.profiles.readers.chrome import read_stream

LINKS = ("parent", "step", "launcher", "forward")
CATEGORIES = ["cpu_op", "kernel", "cuda_runtime", "python_function", "layer", "my own", None]


def exported(events, **metadata):
    file = BytesIO()
    write(events, {"source": "kineto", "base_ns": 0, "header": {}, **metadata}, file)
    return file.getvalue()


def read_back(text):
    return read_stream(BytesIO(text), name="export")


def table(events):
    """The columns as lists; links between rows, which are found anew, left out."""
    columns = {**events.columns, **{f"args.{name}": column for name, column in events.args.items()}}
    return {
        name: column.to_list() if isinstance(column, Texts) else column.tolist()
        for name, column in columns.items()
        if name not in LINKS
    }


def assert_same(first, second):
    ours, theirs = table(first), table(second)
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        assert values == theirs[name], name


def _maybe(random, values, share=0.5):
    return values if random.random() < share else None


def _ints(random, count, low=-(2**62), high=2**62):
    return np.array([random.randrange(low, high) if random.random() < 0.6 else NONE for _ in range(count)])


def _texts(random, count, values):
    return Texts.of([random.choice([*values, None]) for _ in range(count)])


def generated(seed, count=200):
    """A table in which every column has values, events overlap, and names and arguments are strange."""
    random = Random(seed)
    names = ["aten::mm", "[memory]", 'q"uo\\te\n', "ü", "", "void f<int>(a&, b)"]
    phases = [random.choice("XXXXXi") for _ in range(count)]
    spans = [random.randrange(1, 4_000) if phase == "X" else 0 for phase in phases]
    columns = {
        "name": Texts.of([random.choice(names) for _ in range(count)]),
        "category": _texts(random, count, CATEGORIES[:-1]),
        "phase": Texts.of(phases),
        "process": Texts.of(random.choice(["1", "Spans", "-1"]) for _ in range(count)),
        "thread": Texts.of(random.choice(["0", "7", "007", "main"]) for _ in range(count)),
        "start_ns": np.array([random.randrange(-(10**4), 10**5) + 10**15 * (seed % 3) for _ in range(count)]),
        "duration_ns": np.array(spans),
        "shapes": _texts(random, count, ["[[1,2],[]]", "[]"]),
        "dtypes": _texts(random, count, ['["float",""]']),
        "layer": _texts(random, count, ["", 'encoder."0"']),
    }
    numbers = ("device", "stream", "operation", "correlation", "sequence", "forward_thread", "bytes", "flops")
    columns |= {name: _ints(random, count) for name in numbers}
    args = {
        "number": _ints(random, count),
        "any": _texts(random, count, ['"text"', "1.50", "[1,{}]", "null", '{"a":1}', "7"]),
        "stream": Texts.of([None if number != NONE else '"0x0"' for number in columns["stream"].tolist()]),
        "s": Texts.of(['"g"' if phase == "i" else None for phase in phases]),
        "id": Texts.of(['"0x5"' if phase == "i" else None for phase in phases]),
    }
    unlike = np.arange(count)  # so that no row is an exact duplicate of another
    return _sorted_as_read(Events.of(columns, {**args, "row": unlike}))


def _sorted_as_read(events):
    """Order processes and threads as the reader does: numbers first."""

    def ordered(column):
        values = sorted(
            column.values, key=lambda v: (not v.removeprefix("-").isdecimal(), int(v) if v[-1:].isdecimal() else 0, v)
        )
        return Texts(np.array([values.index(v) for v in column.to_list()], np.int32), values)

    columns = {**events.columns, "process": ordered(events.process), "thread": ordered(events.thread)}
    return Events.of(columns, events.args)


@pytest.mark.parametrize("seed", range(12))
def test_an_export_read_again_is_the_same_table(seed):
    events = generated(seed)

    found = read_back(exported(events, source="mine", base_ns=5, header={"a": [1]}))

    assert_same(events, found.events)
    assert (found.source, found.base_ns, found.header["a"]) == ("mine", 5, [1])
    assert (found.dropped, found.damage, found.header["tracks"]) == ({}, [], [])


def test_an_export_of_linked_events_read_again_is_the_same_table():
    events = generated(3)

    assert_same(link(events), read_back(exported(link(events))).events)


def test_an_empty_table_is_still_a_trace():
    empty = Events.of({"name": Texts.of([])}, {})

    whole = json.loads(exported(empty))

    assert whole["traceEvents"] == []
    assert whole["distributedInfo"] == {"rank": 0}


def launch(**columns):
    """A forward operation, its backward one, and the kernels that each launched."""
    rows = [
        ("aten::mm", "cpu_op", "1", "1", 0, 100),
        ("cudaLaunchKernel", "cuda_runtime", "1", "1", 10, 20),
        ("gemm", "kernel", "0", "7", 50, 30),
        ("MmBackward0", "cpu_op", "1", "2", 200, 100),
        ("cudaLaunchKernel", "cuda_runtime", "1", "2", 210, 20),
        ("gemm_t", "kernel", "0", "7", 260, 30),
    ]
    name, category, process, thread, start, duration = zip(*rows, strict=True)
    texts = {"name": name, "category": category, "process": process, "thread": thread}
    return Events.of(
        {
            **{key: Texts.of(values) for key, values in texts.items()},
            "start_ns": np.array(start),
            "duration_ns": np.array(duration),
            "correlation": np.array([NONE, 5, 5, NONE, 6, 6]),
            "sequence": np.array([9, NONE, NONE, 9, NONE, NONE]),
            "forward_thread": np.array([0, NONE, NONE, 1, NONE, NONE]),
            "device": np.array([NONE, NONE, 0] * 2),
            "stream": np.array([NONE, NONE, 7] * 2),
            **columns,
        },
        {},
    )


def test_arrows_lead_from_launches_to_kernels_and_from_forward_to_backward():
    events = json.loads(exported(link(launch())))["traceEvents"]

    arrows = [event for event in events if event["ph"] in "sf"]
    assert {(a["cat"], a["ph"], a["id"], a["pid"], a["tid"], a["ts"]) for a in arrows} == {
        ("ac2g", "s", 5, 1, 1, 0.01),
        ("ac2g", "f", 5, 0, 7, 0.05),
        ("ac2g", "s", 6, 1, 2, 0.21),
        ("ac2g", "f", 6, 0, 7, 0.26),
        ("fwdbwd", "s", 1, 1, 1, 0.0),
        ("fwdbwd", "f", 1, 1, 2, 0.2),
    }
    assert all(arrow.get("bp") == "e" for arrow in arrows if arrow["ph"] == "f")


def test_kernels_are_written_as_kineto_does():
    events = json.loads(exported(launch()))["traceEvents"]

    (kernel,) = [event for event in events if event["name"] == "gemm"]
    assert kernel == {
        "ph": "X",
        "cat": "kernel",
        "name": "gemm",
        "pid": 0,
        "tid": 7,
        "ts": 0.05,
        "dur": 0.03,
        "args": {"device": 0, "stream": 7, "correlation": 5},
    }


@pytest.mark.parametrize("seed", range(5))
def test_slices_of_one_lane_nest_or_follow_each_other(seed):
    events = generated(seed)
    whole = json.loads(exported(events))["traceEvents"]

    lanes = defaultdict(list)
    for event in whole:
        if event["ph"] == "X":
            start = round(event["ts"] * 1000)
            lanes[event["pid"], event["tid"]].append((start, -(start + round(event["dur"] * 1000))))
    assert len(lanes) > len(set(zip(events.process.codes.tolist(), events.thread.codes.tolist(), strict=True)))
    for spans in lanes.values():
        open_ends = []
        for start, end in sorted(spans):
            while open_ends and open_ends[-1] <= start:
                open_ends.pop()
            assert not open_ends or -end <= open_ends[-1]
            open_ends.append(-end)
    named = {(event["pid"], event["tid"]) for event in whole if event["name"] == "thread_name"}
    assert named <= lanes.keys()
    assert named


@pytest.mark.parametrize("metadata", [{}, {"base_ns": 7, "header": {"baseTimeNanoseconds": 7}}])
def test_unix_times_are_written_so_that_a_float_holds_them_and_come_back(metadata):
    events = generated(0)
    events = events.replace(start_ns=events.start_ns + 1_795_640_911_296_423_761)

    text = exported(events, **metadata)

    assert max(abs(event["ts"]) for event in json.loads(text)["traceEvents"] if "ts" in event) < 1_000
    found = read_back(text)
    assert_same(events, found.events)
    assert found.base_ns == metadata.get("base_ns", 0)
    assert found.header.get("baseTimeNanoseconds") == metadata.get("base_ns")
    again = exported(found.events, base_ns=found.base_ns, header=found.header)
    assert_same(events, read_back(again).events)


def test_threads_with_numbers_of_more_than_32_bits_are_drawn_under_their_names_and_come_back():
    threads = ["7", "-2147483649", "6300611701581713424", "main"]
    events = generated(0)
    events = events.replace(thread=Texts.of([threads[row % 4] for row in range(len(events))]))
    events = _sorted_as_read(Events.of(events.columns, events.args))
    track = {"ph": "M", "name": "thread_name", "pid": "Spans", "tid": threads[2], "args": {"name": "worker"}}

    text = exported(events, header={"tracks": [track]})

    whole = json.loads(text)["traceEvents"]
    drawn = {event["tid"] for event in whole if event["ph"] != "M"}
    assert {7, "main"} < drawn
    assert all(isinstance(thread, int) and abs(thread) < 2**31 for thread in drawn - {"main"})
    named = {(event["pid"], event["args"]["name"]) for event in whole if event["ph"] == "M" and event["tid"] in drawn}
    assert {("Spans", "worker"), ("Spans", "-2147483649"), (1, threads[2])} <= named
    found = read_back(text)
    assert_same(events, found.events)
    assert found.header["tracks"] == [track]


def test_names_of_threads_are_written_back():
    track = {"ph": "M", "name": "thread_name", "pid": 1, "tid": 2, "args": {"name": "backward"}}

    text = exported(launch(), header={"tracks": [track], "schemaVersion": 1})

    assert track in json.loads(text)["traceEvents"]
    assert read_back(text).header["tracks"] == [track]


def test_a_rank_that_is_known_is_kept():
    header = {"distributedInfo": {"rank": 3, "world_size": 8}}

    assert json.loads(exported(launch(), header=header))["distributedInfo"] == header["distributedInfo"]


def test_a_capture_of_pytorch_comes_back_whole(tmp_path):
    if "CI" not in os.environ:
        pytest.importorskip("torch")
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    with torch.profiler.profile(record_shapes=True, profile_memory=True, with_stack=True) as profiler:
        model(torch.ones(4, 8)).sum().backward()
    profiler.export_chrome_trace(str(tmp_path / "t.json"))
    with (tmp_path / "t.json").open("rb") as file:
        captured = read_stream(file, name="capture")

    metadata = {"source": captured.source, "base_ns": captured.base_ns, "header": captured.header}
    found = read_back(exported(captured.events, **metadata))

    assert_same(captured.events, found.events)
    assert found.base_ns == captured.base_ns
    assert found.header["tracks"] == captured.header["tracks"]
