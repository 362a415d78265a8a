"""The traces that benchmarks read are like those that PyTorch writes: the figures mean nothing otherwise."""

import gzip
import json
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks.traces import write_trace

EVENTS = 12_000
KERNEL_ARGS = {
    "External id",
    "queued",
    "device",
    "context",
    "stream",
    "correlation",
    "registers per thread",
    "shared memory",
    "blocks per SM",
    "warps per SM",
    "grid",
    "block",
    "est. achieved occupancy %",
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return _write(tmp_path_factory.mktemp("traces") / "trace.json")


@pytest.fixture(scope="module")
def events(written: dict[str, Any]) -> list[dict[str, Any]]:
    return written["traceEvents"]


def _write(path: Path, **options: Any) -> dict[str, Any]:
    count = write_trace(path, events=EVENTS, **options)
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    written: dict[str, Any] = json.loads(data)
    assert len(written["traceEvents"]) == count >= EVENTS
    return written


def _of(events: list[dict[str, Any]], *categories: str) -> list[dict[str, Any]]:
    return [event for event in events if event.get("cat") in categories and event["ph"] == "X"]


def test_header_is_what_readers_ask_for(written: dict[str, Any]) -> None:
    assert {"deviceProperties", "distributedInfo", "baseTimeNanoseconds", "displayTimeUnit"} <= written.keys()


def test_every_kind_of_event_is_there(events: list[dict[str, Any]]) -> None:
    counts = Counter((event["ph"], event.get("cat")) for event in events)
    for kind in ("cpu_op", "python_function", "cuda_runtime", "kernel", "gpu_memcpy", "user_annotation"):
        assert counts["X", kind], kind
    assert counts["i", "cpu_instant_event"]
    assert counts["M", None]
    assert counts["s", "ac2g"] == counts["f", "ac2g"] == counts["X", "kernel"] + counts["X", "gpu_memcpy"]


def test_host_events_nest(events: list[dict[str, Any]]) -> None:
    host = _of(events, "cpu_op", "python_function", "cuda_runtime", "user_annotation")
    spans = sorted((_ns(event["ts"]), -_ns(event["dur"])) for event in host)
    open_until = [float("inf")]
    for start, negated in spans:
        end = start - negated
        while open_until[-1] <= start:
            open_until.pop()
        assert end <= open_until[-1]
        open_until.append(end)


def test_work_of_one_stream_does_not_overlap(events: list[dict[str, Any]]) -> None:
    streams = defaultdict(list)
    for event in _of(events, "kernel", "gpu_memcpy"):
        assert event["tid"] == event["args"]["stream"]
        streams[event["tid"]].append((_ns(event["ts"]), _ns(event["dur"])))
    assert len(streams) == 2
    for spans in streams.values():
        spans.sort()
        assert all(start + length <= after for (start, length), (after, _) in pairwise(spans))


def test_each_kernel_has_one_launch_before_it(events: list[dict[str, Any]]) -> None:
    calls = {call["args"]["correlation"]: call for call in _of(events, "cuda_runtime")}
    operations = {op["args"]["External id"]: op for op in _of(events, "cpu_op")}
    kernels = _of(events, "kernel")
    assert len({kernel["args"]["correlation"] for kernel in kernels}) == len(kernels)
    for kernel in kernels:
        assert kernel["args"].keys() == KERNEL_ARGS
        call, operation = calls[kernel["args"]["correlation"]], operations[kernel["args"]["External id"]]
        assert call["name"] == "cudaLaunchKernel"
        assert call["ts"] < kernel["ts"]
        assert operation["ts"] < call["ts"] < operation["ts"] + operation["dur"]


def test_operations_tell_their_inputs(events: list[dict[str, Any]]) -> None:
    for operation in _of(events, "cpu_op"):
        args = operation["args"]
        dims, strides = args["Input Dims"], args["Input Strides"]
        assert len(dims) == len(strides) == len(args["Input type"]) == len(args["Concrete Inputs"])
        assert [len(each) for each in dims] == [len(each) for each in strides]


def test_calls_of_python_name_the_call_around_them(events: list[dict[str, Any]]) -> None:
    calls = {call["args"]["Python id"]: call for call in _of(events, "python_function")}
    parents = Counter(call["args"]["Python parent id"] is None for call in calls.values())
    assert parents[True] < parents[False]
    for call in calls.values():
        parent = call["args"]["Python parent id"]
        assert parent is None or calls[parent]["ts"] <= call["ts"] <= calls[parent]["ts"] + calls[parent]["dur"]


def test_bare_traces_are_smaller_and_say_the_same_of_the_device(tmp_path: Path, events: list[dict[str, Any]]) -> None:
    bare = _write(tmp_path / "bare.json.gz", detail=False)["traceEvents"]
    assert not _of(bare, "python_function")
    assert all(op["args"].keys() == {"External id"} for op in _of(bare, "cpu_op"))
    assert {k["name"] for k in _of(bare, "kernel")} == {k["name"] for k in _of(events, "kernel")}
    assert all(kernel["args"].keys() == KERNEL_ARGS for kernel in _of(bare, "kernel"))


def test_same_arguments_give_the_same_file(tmp_path: Path) -> None:
    first, again, other = (tmp_path / name for name in ("first.json", "again.json", "other.json"))
    write_trace(first, events=EVENTS)
    write_trace(again, events=EVENTS)
    write_trace(other, events=EVENTS, seed=1)
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()


def _ns(microseconds: float) -> int:
    return round(microseconds * 1000)
