"""The contract of `dnnamo.readers`, which every reader must keep: those of Dnnamo and those of other packages."""

import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from dnnamo.errors import UsageError
from dnnamo.profiles import readers
from dnnamo.profiles.events import Events, Ints, Texts
from dnnamo.profiles.file import read_events, write_events
from dnnamo.profiles.readers import Reader, _loaded, read
from dnnamo.profiles.readers.onnxruntime import SessionProfile
from dnnamo.profiles.recording import Recording
from tests.profiles.readers.test_memory_snapshot import HISTORY, snapshot
from tests.profiles.readers.test_onnxruntime_profile import EVENTS, trace_text
from tests.profiles.readers.test_run_metadata import node, run
from tests.profiles.readers.test_xspace import Event, host

TRACE = {
    "traceEvents": [
        {"ph": "X", "cat": "cpu_op", "name": "aten::mm", "pid": 1, "tid": 2, "ts": 10.5, "dur": 2.0, "args": {"a": 1}}
    ]
}


def finished_profiler(_: Path) -> object:
    if "CI" not in os.environ:
        pytest.importorskip("torch")
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        torch.ones(3) + 1
    return profiler


def written(name: str, content: bytes) -> Callable[[Path], object]:
    def write(folder: Path) -> object:
        path = folder / name
        path.write_bytes(content)
        return path

    return write


SPACE = host(Event("a:Mul", 0, 5_000, "Mul"))

# What each reader must read: made anew for each test in a folder of its own.
OWN: dict[str, list[Callable[[Path], object]]] = {
    "kineto": [finished_profiler],
    "xspace": [
        lambda _: SPACE,
        written("host.xplane.pb", SPACE),
        lambda folder: Path(written("host.xplane.pb", SPACE)(folder)).parent,
    ],
    "run_metadata": [lambda _: run(("/device:CPU:0", [node("a = Op()", 1, 1)]))],
    "memory_snapshot": [lambda _: snapshot(*HISTORY), written("snapshot.pickle", pickle.dumps(snapshot(*HISTORY)))],
    "onnxruntime": [
        lambda _: SessionProfile(trace=trace_text(EVENTS)),
        written("run.json", trace_text(EVENTS)),
    ],
    "chrome": [written("trace.json", json.dumps(TRACE).encode())],
}

ALSO_A_TRACE = {"onnxruntime": {"chrome"}}
"""Readers whose files the more general one can read too; they come before it."""

EXAMPLES = [
    pytest.param(name, make, id=f"{name}{number}") for name, all_ in OWN.items() for number, make in enumerate(all_)
]

UNKNOWN = [None, 3, 1.5, object(), [], [None], {}, {"a": 1}, b"{}", b"PK", int]


def reader_of(name: str) -> Reader:
    return dict(zip(readers.readers(), _loaded(), strict=True))[name]


def test_every_built_in_reader_is_tested_here():
    assert set(OWN) == set(readers._BUILT_IN)


@pytest.mark.parametrize("source", UNKNOWN, ids=lambda source: type(source).__name__)
@pytest.mark.parametrize("name", OWN)
def test_leaves_what_it_does_not_know(name, source):
    assert reader_of(name)(source) is None


@pytest.mark.parametrize("name", OWN)
def test_leaves_other_files_and_empty_folders(name, tmp_path):
    (tmp_path / "empty").mkdir()
    assert reader_of(name)(tmp_path / "empty") is None

    for file, content in [("notes.txt", b"hello"), ("data.bin", bytes(range(256))), ("image.png", b"\x89PNG\r\n")]:
        (tmp_path / file).write_bytes(content)
        assert reader_of(name)(str(tmp_path / file)) is None


@pytest.mark.parametrize(("name", "make"), EXAMPLES)
def test_leaves_what_another_reader_knows(name, make, tmp_path):
    source = make(tmp_path)

    for other in OWN.keys() - {name} - ALSO_A_TRACE.get(name, set()):
        assert reader_of(other)(source) is None, other


def test_a_general_reader_comes_after_those_that_know_more():
    order = list(readers._BUILT_IN)

    assert all(order.index(name) < order.index(other) for name, others in ALSO_A_TRACE.items() for other in others)


@pytest.mark.parametrize(("name", "make"), EXAMPLES)
def test_gives_sorted_and_valid_columns(name, make, tmp_path):
    recording = reader_of(name)(make(tmp_path))

    assert recording is not None
    assert recording.source
    check(recording.events)
    metadata = {"source": recording.source, "base_ns": recording.base_ns, "header": recording.header}
    stored, said = read_events(write_events(recording.events, metadata))
    assert without_links(stored) == without_links(recording.events), "it comes back as it was stored"
    assert said["header"] == json.loads(json.dumps(recording.header)), "JSON values"
    assert all(count > 0 for count in recording.dropped.values())
    assert all(isinstance(content, bytes | Path) for content in recording.native.values())


def without_links(events: Events) -> dict[str, Any]:
    return events.to_arrow().drop_columns(["parent"]).to_pydict()  # which reading finds anew


def check(events: Events) -> None:
    assert len(events) > 0
    for name, column in {**events.columns, **events.args}.items():
        assert len(column) == len(events), name
        if isinstance(column, Texts):
            assert column.codes.dtype == np.int32, name
            assert -1 <= column.codes.min() <= column.codes.max() < len(column.values), name
            assert len(set(column.values)) == len(column.values), f"{name}: each text once"
            assert all(isinstance(text, str) for text in column.values), name
        else:
            assert column.dtype == np.int64, name
    assert (events.duration_ns >= 0).all()
    for name in ("name", "category", "phase", "process", "thread"):
        assert (getattr(events, name).codes >= 0).all(), f"{name}: each event has one"
    for name in ("parent", "step", "launcher", "forward"):
        assert (getattr(events, name) < 0).all(), f"{name}: links are not the reader's"
    columns: tuple[Ints, ...] = (-events.duration_ns, events.start_ns, events.thread.codes, events.process.codes)
    order = np.lexsort(columns)
    assert (order == np.arange(len(events))).all(), "sorted"
    for name, column in events.args.items():
        for text in column.values if isinstance(column, Texts) else []:
            json.loads(text), name


@pytest.mark.parametrize(("name", "make"), EXAMPLES)
def test_what_a_reader_knows_is_read(name, make, tmp_path):
    recording = read(make(tmp_path))

    assert len(recording.events) > 0


def test_a_recording_is_taken_as_it_is():
    recording = Recording(source="own", events=Events.of({"name": Texts.of([])}, {}))

    assert read(recording) is recording


@pytest.mark.parametrize(
    ("source", "described"),
    [(3, "An object of type builtins.int"), (b"{}", "A bytes object of 2 bytes"), (Path(), "The path '.'")],
)
def test_the_error_for_an_unknown_source_lists_what_is_read(source, described, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UsageError) as caught:
        read(source)

    message = str(caught.value)
    assert message.startswith(f"{described} holds no profile that Dnnamo can read.")
    for known in ("torch.profiler.profile", ".json.gz", "*.xplane.pb", "log folder", "RunMetadata", "Recording"):
        assert known in message


@pytest.mark.parametrize("path", ["missing", Path("missing"), "missing.xplane.pb", "missing.json"])
def test_the_error_for_a_missing_file_names_it(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UsageError, match=f"{path}.* cannot be read: No such file"):
        read(path)


@pytest.fixture
def plugin(monkeypatch) -> Recording:
    """An installed plug-in that reads the same files as Dnnamo, and a type of its own."""
    recording = Recording(source="plugin", events=Events.of({"name": Texts.of([])}, {}))
    module: Any = ModuleType("other_package")
    module.read = lambda source: recording if source == "its own" or str(source).endswith(".json") else None
    monkeypatch.setitem(sys.modules, "other_package", module)
    monkeypatch.setattr(
        readers, "installed", lambda group: {"other": "other_package:read"} if group == "dnnamo.readers" else {}
    )
    return recording


def test_an_installed_reader_comes_first(plugin, tmp_path):
    assert next(iter(readers.readers())) == "other"
    assert read("its own") is plugin
    assert read(OWN["chrome"][0](tmp_path)) is plugin
    assert read(SPACE).source == "xspace"


def test_the_error_names_installed_readers(plugin):
    with pytest.raises(UsageError, match="and what these plug-ins read: other"):
        read(3)
