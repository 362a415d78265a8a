import gzip
import json
import os
import subprocess
import sys
import zipfile
from collections import Counter
from decimal import Decimal
from io import BytesIO
from random import Random

import msgspec
import pytest

from dnnamo.profiles.events import NONE, Texts
from dnnamo.profiles.readers import pieces
from dnnamo.profiles.readers import read as read_any
from dnnamo.profiles.readers.chrome import NAMES, read, read_stream

BASE = 1_751_410_836_000_000_000
HEADER = {"schemaVersion": 1, "deviceProperties": [{"id": 0, "name": "GPU"}], "baseTimeNanoseconds": BASE}


def text_of(events, *, indent=None, after=None, **header):
    """A trace as a file holds it; what is in `after` stands behind the events."""
    whole = {**header, "traceEvents": events, **(after or {})}
    return json.dumps(whole, indent=indent).encode()


def recording(events, **header):
    return read_stream(BytesIO(text_of(events, **header)), name="trace")


def span(name="aten::add", cat="cpu_op", ts=1.0, dur=1.0, pid=7, tid=7, args=None, **fields):
    event = {"ph": "X", "cat": cat, "name": name, "pid": pid, "tid": tid, "ts": ts, "dur": dur, **fields}
    return event if args is None else {**event, "args": args}


def lists(events):
    """Every column as a list, those without any value left out."""
    columns = {**events.columns, **events.args}
    found = {name: c.to_list() if isinstance(c, Texts) else c.tolist() for name, c in columns.items()}
    return {name: [None if v == NONE else v for v in values] for name, values in found.items()}


def rows(events):
    """What each event says: name, category, phase, process, thread, start, duration, arguments by Kineto's names."""
    columns = lists(events)
    common = ("name", "category", "phase", "process", "thread", "start_ns", "duration_ns")
    core = [columns.pop(name) for name in common]
    kineto = {column: name for name, column in NAMES.items()}
    found = []
    for row, values in enumerate(zip(*core, strict=True)):
        args = {}
        for name, column in columns.items():
            value = column[row]
            if value is None:
                continue
            key = (
                "bytes"
                if name == "bytes" and values[0] != "[memory]"
                else kineto.get(name, name).removesuffix(" (null)")
            )
            args[key] = json.loads(value) if isinstance(value, str) else value
        found.append((*values, json.dumps(args, sort_keys=True)))
    return Counter(found)


def expected(text):
    """The same of a file's text, as Python's own decoder reads it; metadata and arrows left out."""
    whole = json.loads(text, parse_float=Decimal)
    found = []
    for event in whole["traceEvents"] if isinstance(whole, dict) else whole:
        if event["ph"] in "Mstf":
            continue
        args = dict(event.get("args") or {})
        beside = event.keys() - {"ph", "cat", "name", "pid", "tid", "ts", "dur", "args"}
        args |= {name: event[name] for name in beside}
        times = [int(Decimal(event.get(name, 0)) * 1000) for name in ("ts", "dur")]
        ids = [str(event[name]) for name in ("pid", "tid")]
        said = json.dumps(args, sort_keys=True, default=float)
        found.append((event["name"], event.get("cat"), event["ph"], *ids, *times, said))
    return Counter(found)


def generated(seed, count=300):
    """Events of all kinds, with arguments that come, go and change their types."""
    random = Random(seed)
    makers = [_operation, _frame, _kernel, _memory, _other]
    return [random.choice(makers)(random, number) for number in range(count)]


def _time(random):
    return round(random.randrange(10**9, 2 * 10**9) / 1000, 3)


def _operation(random, number):
    args = {"External id": number, "Ev Idx": number}
    if random.random() < 0.5:
        args |= {
            "Input Dims": [[random.randrange(9), 3], []],
            "Input type": ["float", ""],
            "Concrete Inputs": ["", "},{"],
        }
    if random.random() < 0.2:
        args |= {"Sequence number": number, "Fwd thread id": random.randrange(2), "note": random.choice([1, "1", 1.5])}
    return span(random.choice(["aten::mm", 'q"uo\\te', "ü {", "] } , {"]), ts=_time(random), dur=number / 8, args=args)


def _frame(random, number):
    parent, module = (None if random.random() < 0.1 else number for _ in range(2))
    args = {"Python parent id": parent, "Python id": number, "Python module id": module}
    return span("<built-in f>", "python_function", _time(random), 3, tid="main", args=args)


def _kernel(random, number):
    args = {"External id": number, "device": 0, "stream": 7, "correlation": number, "grid": [1, number, 1]}
    return span("gemm", "kernel", _time(random), 2.5, pid=0, tid=7, args=args | {"blocks per SM": random.random()})


def _memory(random, number):
    args = {"Bytes": number - 100, "Addr": 2**47 + number, "Total Allocated": 4, "Device Id": -1, "Device Type": 0}
    event = {"ph": "i", "s": "t", "cat": "cpu_instant_event", "name": "[memory]", "pid": 7, "tid": 7}
    return {**event, "ts": _time(random), "args": args}


def _other(random, number):
    fields = random.choice(
        [{}, {"args": {}}, {"cname": "good", "tts": number}, {"args": {"deep": [{"a": {}}, {"b": 1}]}}]
    )
    return {"ph": "X", "name": f"other {number}", "pid": "p", "tid": -1, "ts": number, "dur": 0, **fields}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("indent", [None, 2])
def test_nothing_that_a_file_says_is_lost_or_changed(seed, indent):
    text = text_of(generated(seed), indent=indent, **HEADER)

    found = read_stream(BytesIO(text), name="trace")

    assert rows(found.events) == expected(text)
    assert (found.dropped, found.damage, found.base_ns, found.source) == ({}, [], BASE, "kineto")


@pytest.mark.parametrize("size", [64, 500, 4_000, 1 << 20])
@pytest.mark.parametrize("indent", [None, 1])
def test_where_a_file_is_cut_into_pieces_makes_no_difference(monkeypatch, size, indent):
    events = [*generated(1, 60), span(args={"long": [{"x": "},{"}] * 40}), *generated(2, 40)]
    text = text_of(events, indent=indent, **HEADER, after={"tail": [{"a": 1}, {"b": [{}, {}]}] * 30})
    monkeypatch.setattr(pieces, "CHUNK", size)

    found = read_stream(BytesIO(text), name="trace")

    assert rows(found.events) == expected(text)
    assert len(found.header["tail"]) == 60
    assert found.damage == []


def test_a_piece_is_all_that_is_decoded_at_once(monkeypatch):
    monkeypatch.setattr(pieces, "CHUNK", 10_000)
    taken = []
    text = pieces.TraceText(pieces.unpacked(BytesIO(text_of(generated(3, 2_000))), []))
    assert text.begins()

    text.each(lambda piece: taken.append(len(piece)) or len(msgspec.json.decode(piece)))

    assert text.events == 2_000
    assert max(taken) <= 30_000


@pytest.mark.parametrize("ts", ["1712195495520883.7", "1712195495520883.724", "1712195495520883", "8796093022208.001"])
def test_times_are_exact_to_the_nanosecond_however_large(ts):
    later = str(Decimal(ts) + Decimal("0.001"))
    text = b'[{"ph":"X","name":"a","pid":1,"tid":1,"ts":%b,"dur":0.001},' % ts.encode()
    text += b'{"ph":"X","name":"b","pid":1,"tid":1,"ts":%b,"dur":1}]' % later.encode()

    found = read_stream(BytesIO(text), name="trace").events

    assert found.start_ns.tolist() == [int(Decimal(ts) * 1000), int(Decimal(ts) * 1000) + 1]
    assert found.duration_ns.tolist() == [1, 1000]


def test_all_nanoseconds_of_a_random_sample_below_the_bound_are_exact():
    random = Random(0)
    wanted = sorted(random.randrange(2**43 * 1000) for _ in range(20_000))
    text = ",".join(
        f'{{"ph":"X","name":"a","pid":1,"tid":1,"ts":{ns // 1000}.{ns % 1000:03},"dur":1}}' for ns in wanted
    )

    found = read_stream(BytesIO(f"[{text}]".encode()), name="trace").events

    assert found.start_ns.tolist() == wanted


def test_rows_are_sorted_and_parents_come_first():
    found = recording(
        [span("late", ts=9), span("inner", ts=1, dur=1), span("outer", ts=1, dur=5), span("first", tid=3)]
    )

    assert found.events.name.to_list() == ["first", "outer", "inner", "late"]
    assert found.events.thread.to_list() == ["3", "7", "7", "7"]


def test_a_trace_of_the_cpu_alone_has_no_device_columns():
    events = recording(generated(0)[:1], **HEADER).events

    assert (events.device == NONE).all()
    assert (events.stream == NONE).all()


def test_ids_of_a_gpu_trace_become_columns():
    call = span("cudaLaunchKernel", "cuda_runtime", args={"External id": 5, "cbid": 211, "correlation": 9})
    args = {"External id": 5, "device": 0, "context": 1, "stream": 7, "correlation": 9, "grid": [564, 1, 1]}
    copy = {"device": 0, "stream": 7, "correlation": 10, "bytes": 4096, "memory bandwidth (GB/s)": 1.5}
    found = recording(
        [
            call,
            span("gemm", "kernel", ts=5, pid=0, tid=7, args=args),
            span("Memcpy", "gpu_memcpy", ts=9, pid=0, tid=7, args=copy),
        ],
        **HEADER,
    ).events

    columns = lists(found)
    assert found.name.to_list() == ["gemm", "Memcpy", "cudaLaunchKernel"]
    assert columns["operation"] == [5, None, 5]
    assert columns["correlation"] == [9, 10, 9]
    assert (columns["device"], columns["stream"]) == ([0, 0, None], [7, 7, None])
    assert columns["bytes"] == [None, 4096, None]
    assert columns["grid"] == ["[564,1,1]", None, None]
    assert columns["memory bandwidth (GB/s)"] == [None, "1.5", None]


def test_streams_that_amd_writes_as_text_stay_arguments():
    call = span(
        "hipLaunchKernel", "cuda_runtime", args={"correlation": 1, "stream": "0x0", "kernel": "gemm", "cid": 200}
    )
    kernel = span(
        "gemm", "kernel", 3, pid=2, tid=0, args={"device": 2, "stream": 0, "correlation": 1, "kind": "Dispatch"}
    )

    columns = lists(recording([call, kernel], **HEADER).events)

    assert columns["name"] == ["gemm", "hipLaunchKernel"]
    events = recording([call, kernel], **HEADER).events
    assert events.stream.tolist() == [0, NONE]
    assert events.args["stream"].to_list() == [None, '"0x0"']


def test_all_kernels_of_a_cuda_graph_keep_the_one_launch_they_share():
    launch = span("cudaGraphLaunch", "cuda_runtime", args={"correlation": 77, "External id": 3})
    kernels = [
        span(f"k{i}", "kernel", 10 + i, 0.5, 0, 7, {"correlation": 77, "device": 0, "stream": 7}) for i in range(9)
    ]
    arrow = {"cat": "ac2g", "name": "ac2g", "id": 77, "ts": 1}
    arrows = [{"ph": "s", "pid": 7, "tid": 7, **arrow}, *[{"ph": "f", "bp": "e", "pid": 0, "tid": 7, **arrow}] * 9]

    found = recording([launch, *kernels, *arrows], **HEADER)

    assert found.events.correlation.tolist() == [77] * 10
    assert found.dropped == {}


def test_what_triton_says_of_its_kernels_is_kept():
    args = {"External id": 1, "kernel_backend": "triton", "kernel_file": "k.py", "stream": 7, "grid": "grid(1, 2, 3)"}

    events = recording([span("triton_poi_fused_add_0", args=args)], **HEADER).events

    assert events.args["kernel_backend"].to_list() == ['"triton"']
    assert events.args["grid"].to_list() == ['"grid(1, 2, 3)"']
    assert events.stream.tolist() == [7]


def test_begins_and_ends_become_one_event_with_the_arguments_of_both():
    found = recording(
        [
            {"ph": "B", "name": "outer", "cat": "c", "pid": 1, "tid": 1, "ts": 1, "args": {"x": 1}},
            {"ph": "B", "name": "inner", "cat": "c", "pid": 1, "tid": 1, "ts": 2},
            {"ph": "B", "name": "elsewhere", "cat": "c", "pid": 1, "tid": 2, "ts": 2},
            {"ph": "E", "pid": 1, "tid": 1, "ts": 3},
            {"ph": "E", "name": "outer", "pid": 1, "tid": 1, "ts": 5, "args": {"y": "z"}},
            {"ph": "E", "pid": 1, "tid": 3, "ts": 5},
        ]
    )

    assert found.source == "chrome"
    assert found.events.name.to_list() == ["outer", "inner"]
    assert found.events.phase.to_list() == ["X", "X"]
    assert found.events.duration_ns.tolist() == [4000, 1000]
    assert lists(found.events)["x"] == [1, None]
    assert lists(found.events)["y"] == ['"z"', None]
    assert found.dropped == {"begins or ends of events without the other": 2}


def test_counters_marks_and_asynchronous_events_stay_with_their_ids():
    place = {"pid": 1, "tid": 1, "cat": "c"}
    events = [
        {"ph": "C", "name": "memory", "ts": 1, "args": {"used": 5}, **place},
        {"ph": "b", "name": "request", "ts": 2, "id": "0x1", **place},
        {"ph": "e", "name": "request", "ts": 4, "id": "0x1", **place},
        {"ph": "I", "name": "mark", "ts": 5, "s": "g", **place},
    ]

    columns = lists(recording(events).events)

    assert columns["phase"] == ["C", "b", "e", "i"]
    assert columns["id"] == [None, '"0x1"', '"0x1"', None]
    assert columns["used"] == [5, None, None, None]
    assert columns["s"] == [None, None, None, '"g"']


def test_arrows_are_kept_only_where_they_say_more_than_ids_do():
    known, unknown = [
        {"ph": "s", "cat": "ac2g", "name": "ac2g", "id": number, "pid": 7, "tid": 7, "ts": 1} for number in (9, 10)
    ]
    other = {"ph": "f", "cat": "mine", "name": "mine", "id": 9, "bp": "e", "pid": 7, "tid": 7, "ts": 2}

    found = recording([span(args={"correlation": 9}), known, unknown, other]).events

    assert [(row[2], json.loads(row[-1])) for row in rows(found)] == [
        ("X", {"correlation": 9}),
        ("s", {"id": 10}),
        ("f", {"bp": "e", "id": 9}),
    ]


@pytest.mark.parametrize("numbered", [True, False])
def test_arrows_to_backward_operations_go_where_sequence_numbers_say_the_same(numbered):
    arrow = {"ph": "s", "cat": "fwdbwd", "name": "fwdbwd", "id": 1, "pid": 7, "tid": 7, "ts": 1}

    found = recording([span(args={"Sequence number": 4} if numbered else {"x": 1}), arrow]).events

    assert len(found) == (1 if numbered else 2)


def test_marks_of_layers_become_events_of_layers():
    events = recording(
        [span("dnnamo.layer:encoder.0", "user_annotation"), span("x", "layer", ts=5), span("y", ts=9)]
    ).events

    assert events.name.to_list() == ["encoder.0", "x", "y"]
    assert events.category.to_list() == ["layer", "layer", "cpu_op"]


def test_names_of_processes_and_threads_stand_in_the_header():
    named = {"ph": "M", "name": "process_name", "pid": 7, "tid": 0, "ts": 0.5, "args": {"name": "python"}}

    found = recording([named, span()], **HEADER, after={"traceName": "x.json"})

    assert found.header == {**HEADER, "traceName": "x.json", "tracks": [named]}
    assert len(found.events) == 1


def test_arguments_of_too_many_names_are_kept_as_one_text():
    events = [span(args={f"key {number}": number}, ts=number) for number in range(400)]

    found = recording(events).events

    assert len(found.args) == 1
    assert found.args["*"].to_list() == [f'{{"key {number}":{number}}}' for number in range(400)]


def test_any_number_of_categories_can_be_read():
    events = [span(cat=f"category {number}", ts=number, args={"n": number}) for number in range(600)]

    found = recording(events).events

    assert found.category.to_list() == [f"category {number}" for number in range(600)]
    assert found.args["n"].tolist() == list(range(600))


def test_numbers_too_large_for_a_column_are_kept_as_text():
    found = recording([span(args={"Addr": 2**64 - 1}), span(ts=5, args={"Addr": 3})]).events

    assert found.args["Addr"].to_list() == [str(2**64 - 1), "3"]


@pytest.mark.parametrize("ending", [b"", b"]", b",\n", b"]\n", b",]", b" ,\n ]"])
def test_a_list_of_events_alone_is_a_trace_even_unclosed(ending):
    text = b"[" + b",".join(json.dumps(event).encode() for event in generated(5, 20)) + ending

    found = read_stream(BytesIO(text), name="trace")

    assert len(found.events) == 20
    assert found.damage == []


def _plain(path, text):
    path.write_bytes(text)


def _gzipped(path, text):
    path.write_bytes(gzip.compress(text[:500]) + gzip.compress(text[500:]))


def _zipped(path, text):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/trace.json", text)


@pytest.mark.parametrize("name", ["t.json", "t.json.gz", "t.zip", "nothing"])
@pytest.mark.parametrize("written", [_plain, _gzipped, _zipped])
def test_how_a_file_is_packed_shows_by_its_content(tmp_path, name, written):
    text = text_of(generated(4), **HEADER)
    written(tmp_path / name, b"\xef\xbb\xbf" + text)

    assert rows(read_any(tmp_path / name).events) == expected(text)
    assert rows(read(str(tmp_path / name)).events) == expected(text)


@pytest.mark.parametrize("source", [b"{}", 5, None, ["x.json"]], ids=str)
def test_what_is_no_path_is_not_for_this_reader(source):
    assert read(source) is None


def test_folders_and_files_that_are_no_json_are_not_for_this_reader(tmp_path):
    (tmp_path / "x.pb").write_bytes(b"\x0a\x05hello")

    assert read(tmp_path) is None
    assert read(tmp_path / "x.pb") is None


def test_reading_does_not_import_what_takes_longer_than_reading(tmp_path):
    (tmp_path / "t.json").write_bytes(text_of(generated(6), **HEADER))
    program = (
        "import sys; from dnnamo.profiles.readers.chrome import read; read(sys.argv[1]);"
        "print([name for name in ('pandas', 'torch', 'pyarrow.compute') if name in sys.modules])"
    )

    ran = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "t.json"], capture_output=True, text=True, check=True
    )

    assert ran.stdout.strip() == "[]"


def test_a_capture_of_pytorch_is_read_whole(tmp_path):
    if "CI" not in os.environ:
        pytest.importorskip("torch")
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    with torch.profiler.profile(record_shapes=True, profile_memory=True, with_stack=True) as profiler:
        model(torch.ones(4, 8)).sum().backward()
    profiler.export_chrome_trace(str(tmp_path / "t.json"))

    found = read(tmp_path / "t.json")

    assert rows(found.events) == expected((tmp_path / "t.json").read_bytes())
    assert found.source == "kineto"
    assert (found.damage, found.dropped) == ([], {})
    raw = profiler.profiler.kineto_results.events()
    operations = [event for event in raw if event.name().startswith("aten::")]
    assert int(found.events.name.where(lambda name: name.startswith("aten::")).sum()) == len(operations)
    starts = {event.start_ns() for event in operations}
    is_operation = found.events.name.where(lambda name: name.startswith("aten::"))
    assert set((found.events.start_ns[is_operation] + found.base_ns).tolist()) == starts
