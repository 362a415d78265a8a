import os
from collections import defaultdict

import pytest

if "CI" not in os.environ:
    pytest.importorskip("torch")

import torch

from dnnamo.frameworks.pytorch import TorchModel, profile_from
from dnnamo.loaders.demos import pytorch as demos
from dnnamo.profiles.kineto import STEP_MARK, profile_from_events

N_STEPS = 3
AVERAGED_MARK = "ProfilerStep*"
"""What PyTorch's own tables call all of the step marks."""

DEMOS = {
    "mlp": lambda: demos.mlp(batch=4, hidden=16),
    "cnn": lambda: demos.cnn(batch=2),
    "transformer": lambda: demos.transformer(batch=2, length=8, width=16, layers=1),
}


@pytest.fixture(scope="module", params=[(name, mode) for name in DEMOS for mode in ("inference", "training")], ids=str)
def recorded(request) -> torch.profiler.profile:
    """What PyTorch recorded of some steps of a demo."""
    name, mode = request.param
    model = DEMOS[name]()
    getattr(model, f"run_{mode}")(1)
    finished: torch.profiler.profile = getattr(model, f"profile_{mode}")(N_STEPS)
    return finished


def raw(recorded):
    return recorded.profiler.kineto_results.events()


def by_name(profile):
    """Calls, self time and total time in microseconds by name."""
    rows = defaultdict(lambda: [0, 0.0, 0.0])
    for operation in profile.operations:
        row = rows[operation.name]
        row[0] += operation.calls
        row[1] += operation.self_ns / 1000
        row[2] += operation.total_ns / 1000
    return dict(rows)


def assert_same(ours, theirs):
    assert {name: row[0] for name, row in ours.items()} == {name: row[0] for name, row in theirs.items()}
    for name, row in theirs.items():
        assert ours[name][1:] == pytest.approx(row[1:], abs=1), name


def test_everything_agrees_with_key_averages(recorded):
    unmarked = [event for event in raw(recorded) if not event.name().startswith(STEP_MARK)]

    ours = by_name(profile_from_events(unmarked))

    theirs = {
        row.key: [row.count, row.self_cpu_time_total, row.cpu_time_total]
        for row in recorded.key_averages(group_by_input_shape=False)
        if row.key != AVERAGED_MARK
    }
    assert len(theirs) > 3
    assert_same(ours, theirs)


def test_what_ran_within_steps_agrees_with_pytorchs_own_events(recorded):
    events = recorded.events()
    steps = [event.time_range for event in events if event.name == AVERAGED_MARK]
    theirs = defaultdict(lambda: [0, 0.0, 0.0])
    for event in events:
        inside = any(step.start <= event.time_range.start < step.end for step in steps)
        if inside and event.name != AVERAGED_MARK:
            row = theirs[event.name]
            row[0] += 1
            row[1] += event.self_cpu_time_total
            row[2] += event.cpu_time_total

    profile = profile_from_events(raw(recorded))

    assert_same(by_name(profile), theirs)
    assert profile.step_ns == pytest.approx([1000 * (step.end - step.start) for step in steps], abs=1000)


def test_rows_tell_shapes_apart_as_key_averages_does(recorded):
    unmarked = [event for event in raw(recorded) if not event.name().startswith(STEP_MARK)]

    ours = {(row.name, str(row.shapes or "")): row.calls for row in profile_from_events(unmarked).operations}

    theirs = {
        (row.key, str(row.input_shapes or "")): row.count
        for row in recorded.key_averages(group_by_input_shape=True)
        if row.key != AVERAGED_MARK
    }
    assert ours == theirs


def test_each_step_is_marked_and_most_of_it_covered(recorded):
    profile = profile_from_events(raw(recorded))

    assert profile.source == "kineto"
    assert len(profile.step_ns) == N_STEPS
    assert min(profile.step_ns) > 0
    assert 0 < profile.coverage <= 1
    assert sum(row.self_ns for row in profile.operations) <= sum(profile.step_ns)
    assert not any(row.name.startswith(STEP_MARK) for row in profile.operations)
    assert all(row.device_ns == 0 for row in profile.operations)


def test_an_operations_calls_are_those_of_the_steps_alone(recorded):
    calls = {name: row[0] for name, row in by_name(profile_from_events(raw(recorded))).items()}

    assert [name for name, count in calls.items() if count % N_STEPS] == []


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

    profile, _ = profile_from(getattr(model, f"profile_{mode}")(3))

    assert sum(row.self_ns for row in profile.operations) == pytest.approx(sum(profile.step_ns), rel=0.1)


def test_a_profile_without_marks_counts_everything():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as recorded:
        torch.ones(3) + 1

    profile = profile_from_events(raw(recorded))

    assert profile.step_ns == []
    assert profile.coverage is None
    assert {"aten::ones", "aten::add"} <= set(by_name(profile))


def test_annotations_that_only_look_like_steps_are_operations():
    recorded = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
    with recorded, torch.profiler.record_function(f"{STEP_MARK}one"):
        torch.ones(3)

    profile = profile_from_events(raw(recorded))

    assert profile.step_ns == []
    assert f"{STEP_MARK}one" in by_name(profile)


def test_steps_that_a_schedule_marked_are_found():
    activities = [torch.profiler.ProfilerActivity.CPU]
    schedule = torch.profiler.schedule(wait=0, warmup=1, active=2, repeat=1)
    with torch.profiler.profile(activities=activities, schedule=schedule) as recorded:
        for _ in range(3):
            torch.ones(3)
            recorded.step()

    profile = profile_from_events(raw(recorded))

    assert len(profile.step_ns) == 2
    assert by_name(profile)["aten::ones"][0] == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_device_time_agrees_with_key_averages(mode):
    network = torch.nn.Linear(512, 512)
    model = TorchModel(network, lambda: (torch.randn(64, 512), torch.randint(512, (64,))))
    getattr(model, f"run_{mode}")(2)
    recorded = getattr(model, f"profile_{mode}")(N_STEPS)
    unmarked = [event for event in raw(recorded) if not event.name().startswith(STEP_MARK)]

    ours = defaultdict(float)
    for row in profile_from_events(unmarked).operations:
        ours[row.name] += row.device_ns / 1000

    theirs = {
        row.key: row.self_device_time_total
        for row in recorded.key_averages()
        if row.device_type.name == "CPU" and row.key != AVERAGED_MARK
    }
    assert sum(theirs.values()) > 0
    assert dict(ours) == pytest.approx(theirs, abs=1)
