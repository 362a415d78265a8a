import os
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

if "CI" not in os.environ:
    pytest.importorskip("torch")

import torch
from torch.profiler import ProfilerActivity, record_function

from dnnamo.errors import ModelError
from dnnamo.frameworks.pytorch import STEP_MARK, TorchModel
from dnnamo.frameworks.pytorch.layers import LAYER_MARK
from dnnamo.loaders.demos import pytorch as demos
from dnnamo.model import Capturing
from dnnamo.profiles.build import profile_of
from dnnamo.profiles.events import Texts
from dnnamo.profiles.links import is_step
from dnnamo.profiles.readers import kineto

N_STEPS = 3
AVERAGED_MARK = "ProfilerStep*"
"""What PyTorch's own tables call all of the step marks."""

TRACE_MARKS = ("PyTorch Profiler (0)", "Iteration Start: PyTorch Profiler", "Record Window End")
"""What a trace holds beside the events, to mark itself."""

DEMOS = {
    "mlp": lambda: demos.mlp(batch=4, hidden=16),
    "cnn": lambda: demos.cnn(batch=2),
    "transformer": lambda: demos.transformer(batch=2, length=8, width=16, layers=1),
}


@pytest.fixture(scope="module", params=[(name, mode) for name in DEMOS for mode in ("inference", "training")], ids=str)
def finished(request) -> torch.profiler.profile:
    """What PyTorch recorded of some steps of a demo."""
    return record(*request.param)


def record(name="mlp", mode="training", capture=()) -> torch.profiler.profile:
    model = DEMOS[name]()
    getattr(model, f"run_{mode}")(1)
    with Capturing(capture):
        finished: torch.profiler.profile = getattr(model, f"profile_{mode}")(N_STEPS)
    return finished


def on_cpu(**options) -> torch.profiler.profile:
    return torch.profiler.profile(activities=[ProfilerActivity.CPU], **options)


def profile(finished):
    return profile_of(kineto.read(finished))[0]


def unmarked(finished):
    """The profile of everything, within steps and outside of them."""
    recording = kineto.read(finished)
    return profile_of(replace(recording, events=recording.events.take(~is_step(recording.events))))[0]


def by_name(profile):
    """Calls, self time and total time in microseconds by name."""
    return {row.name: [row.calls, row.self_ns / 1000, row.total_ns / 1000] for row in profile.operations["name"]}


def is_mark(name):
    return name == AVERAGED_MARK or name.startswith(LAYER_MARK)


def assert_same(ours, theirs):
    assert {name: row[0] for name, row in ours.items()} == {name: row[0] for name, row in theirs.items()}
    for name, row in theirs.items():
        assert ours[name][1:] == pytest.approx(row[1:], abs=1), name


def test_everything_agrees_with_key_averages(finished):
    theirs = {
        row.key: [row.count, row.self_cpu_time_total, row.cpu_time_total]
        for row in finished.key_averages(group_by_input_shape=False)
        if not is_mark(row.key)
    }

    assert len(theirs) > 3
    assert_same(by_name(unmarked(finished)), theirs)


def test_what_ran_within_steps_agrees_with_pytorchs_own_events(finished):
    events = finished.events()
    steps = [event.time_range for event in events if event.name == AVERAGED_MARK]
    theirs = defaultdict(lambda: [0, 0.0, 0.0])
    for event in events:
        inside = any(step.start <= event.time_range.start < step.end for step in steps)
        if inside and not is_mark(event.name):
            row = theirs[event.name]
            row[0] += 1
            row[1] += event.self_cpu_time_total
            row[2] += event.cpu_time_total

    ours = profile(finished)

    assert_same(by_name(ours), theirs)
    assert ours.step_ns == pytest.approx([1000 * (step.end - step.start) for step in steps], abs=1000)


@pytest.mark.parametrize("name", DEMOS)
def test_rows_tell_shapes_apart_as_key_averages_does(name):
    finished = record(name, capture=["shapes"])

    ours = {(row.name, str(row.shapes or "")): row.calls for row in unmarked(finished).operations["shape"]}

    theirs = {
        (row.key, str(row.input_shapes or "")): row.count
        for row in finished.key_averages(group_by_input_shape=True)
        if not is_mark(row.key)
    }
    assert ours == theirs


def test_each_step_is_marked_and_most_of_it_covered(finished):
    ours = profile(finished)

    assert ours.source == "kineto"
    assert [step.number for step in ours.steps] == list(range(N_STEPS))
    assert min(ours.step_ns) > 0
    assert 0 < ours.coverage <= 1
    names = [row.name for row in ours.operations["name"]]
    assert sum(row.self_ns for row in ours.operations["name"]) <= sum(ours.step_ns)
    assert not any(name.startswith((STEP_MARK, LAYER_MARK)) for name in names)
    assert all(row.device_ns == 0 for row in ours.operations["name"])


def test_an_operations_calls_are_those_of_the_steps_alone(finished):
    calls = {name: row[0] for name, row in by_name(profile(finished)).items()}

    assert [name for name, count in calls.items() if count % N_STEPS] == []


def test_layers_have_rows_and_the_backward_pass_belongs_to_them():
    rows = {row.name: row for row in profile(record("mlp", "training")).operations["layer"]}

    assert {"0", "1", "2", "3", "4", ""} == set(rows)
    inference = {row.name: row for row in profile(record("mlp", "inference")).operations["layer"]}
    assert rows["2"].calls > inference["2"].calls


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_self_times_of_a_network_of_real_size_add_up_to_the_steps(one_thread, mode):
    model = demos.transformer(batch=64)
    getattr(model, f"run_{mode}")(1)

    ours = profile(getattr(model, f"profile_{mode}")(3))

    assert sum(row.self_ns for row in ours.operations["name"]) == pytest.approx(sum(ours.step_ns), rel=0.1)


def test_a_profile_without_marks_counts_everything():
    with on_cpu() as finished:
        torch.ones(3) + 1

    ours = profile(finished)

    assert ours.step_ns == []
    assert ours.coverage is None
    assert {"aten::ones", "aten::add"} <= set(by_name(ours))


def test_annotations_that_only_look_like_steps_are_operations():
    with on_cpu() as finished, record_function(f"{STEP_MARK}one"):
        torch.ones(3)

    ours = profile(finished)

    assert ours.step_ns == []
    assert f"{STEP_MARK}one" in by_name(ours)


def test_steps_that_a_schedule_marked_are_found():
    schedule = torch.profiler.schedule(wait=0, warmup=1, active=2, repeat=1)
    with on_cpu(schedule=schedule) as finished:
        for _ in range(3):
            torch.ones(3)
            finished.step()

    ours = profile(finished)

    assert len(ours.step_ns) == 2
    assert by_name(ours)["aten::ones"][0] == 2


def test_nothing_recorded_is_an_empty_profile_and_no_good_one():
    with on_cpu() as finished:
        pass

    ours = profile(finished)

    assert ours.operations["name"] == []
    assert ours.verdict != "ok"


def assert_same_columns(ours, theirs, *, but=()):
    for name, column in ours.columns.items():
        if name in but:
            continue
        other = theirs.columns[name]
        if isinstance(column, Texts):
            assert column.to_list() == other.to_list(), name
        else:
            assert np.array_equal(column, other), name


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_raw_events_say_what_the_trace_says(mode):
    finished = record("cnn", mode)
    raw = kineto.read(finished)

    saved = kineto._saved(finished.profiler.kineto_results)

    assert (raw.source, saved.source) == ("kineto", "kineto")
    assert raw.base_ns == 0
    assert saved.base_ns > 0
    theirs = saved.events.take(saved.events.category.equal("cpu_op", "user_annotation", "layer"))
    assert_same_columns(raw.events, theirs.replace(start_ns=theirs.start_ns + saved.base_ns))
    assert len(saved.events) - len(theirs) == len(TRACE_MARKS)
    assert "traceName" not in saved.header


def test_what_was_asked_for_is_there():
    recording = kineto.read(record(capture=["shapes", "memory", "stacks"]))

    ours, events = profile_of(recording)

    assert events.name.equal("[memory]").any()
    assert events.category.equal("python_function").any()
    assert ours.peak_bytes["cpu"] > 0
    # Of the three layers any may have taken longest, and so come first.
    assert sorted(row.shapes[0] for row in ours.operations["shape"] if row.name == "aten::addmm") == [[10], [16], [16]]


def test_a_profile_whose_trace_was_exported_is_read_all_the_same(tmp_path):
    finished = record()
    finished.export_chrome_trace(str(tmp_path / "trace.json"))

    assert by_name(profile(finished)) == by_name(profile(finished))
    assert not profile(finished).notes  # of what is missing


def test_a_profile_with_more_in_it_whose_trace_was_exported_says_what_is_missing(tmp_path):
    finished = record(capture=["memory"])
    other = profile(record(capture=["memory"]))
    finished.export_chrome_trace(str(tmp_path / "trace.json"))

    ours, events = profile_of(kineto.read(finished))

    assert {name: row[0] for name, row in by_name(ours).items()} == {
        name: row[0] for name, row in by_name(other).items()
    }
    moments = events.take(events.name.equal("[memory]"))
    assert moments.phase.equal("i").all()
    assert (moments.bytes != 0).all()
    assert "was exported before it was returned" in " ".join(ours.notes)


def test_a_profile_of_the_older_profiler_is_read_too():
    with torch.autograd.profiler.profile(use_kineto=True) as finished:
        torch.ones(2) + 1

    assert "aten::add" in by_name(profile(finished))


def test_a_profile_that_was_not_run_says_so():
    with pytest.raises(ModelError, match="not run, or is still running. Return it after"):
        kineto.read(torch.profiler.profile())


def test_a_profile_that_still_runs_says_so():
    with on_cpu() as running, pytest.raises(ModelError, match="not run, or is still running"):
        kineto.read(running)


@pytest.mark.parametrize("other", [None, 3, b"\n", "trace.json", {}, type("profile", (), {})()])
def test_other_things_are_left_to_other_readers(other):
    assert kineto.read(other) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_device_time_agrees_with_key_averages(mode):
    network = torch.nn.Linear(512, 512)
    model = TorchModel(network, lambda: (torch.randn(64, 512), torch.randint(512, (64,))))
    getattr(model, f"run_{mode}")(2)
    finished = getattr(model, f"profile_{mode}")(N_STEPS)

    ours = {row.name: row.device_ns / 1000 for row in unmarked(finished).operations["name"]}

    theirs = {
        row.key: row.self_device_time_total
        for row in finished.key_averages()
        if row.device_type.name == "CPU" and not is_mark(row.key)
    }
    assert sum(theirs.values()) > 0
    assert ours == pytest.approx(theirs, abs=1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_raw_events_say_what_the_trace_says_but_for_launches():
    model = TorchModel(torch.nn.Linear(64, 64), lambda: (torch.randn(8, 64), torch.randint(64, (8,))))
    finished = model.profile_training(N_STEPS)
    events = finished.profiler.kineto_results.events()

    raw = profile_of(kineto._exported(events))[0]
    saved = profile_of(kineto.read(finished))[0]

    assert raw.operations["kernel"] == saved.operations["kernel"]
    assert raw.operations["name"] == saved.operations["name"]
