import random

import pytest

from dnnamo.profiles.build import events_file, profile_of
from dnnamo.profiles.file import read_events
from dnnamo.records import Overhead, ProfiledStep
from tests.profiles.rows import kernel, launch, memory, profile, recording, row, step


def test_nothing_gives_an_empty_profile():
    found = profile()

    assert (found.source, found.events, found.span_ns, found.steps, found.covered_ns) == ("test", 0, 0, [], 0)
    assert (found.devices, found.peak_bytes, found.coverage, found.verdict) == ([], {}, None, "bad")


def test_steps_say_what_ran_in_them():
    steps = step(3, 0, 20), step(4, 20, 50)
    rows = row("a", 2, 12, operation=1), row("b", 4, 6, operation=2), row("c", 25, 35), row("d", 30, 45, "t")
    found = profile(*steps, *rows, kernel("k", 60, 67, operation=1), memory(5, 10, 110), memory(15, -10, 100))

    assert found.steps == [
        ProfiledStep(number=3, wall_ns=20, covered_ns=10, calls=2, self_ns=10, device_ns=7, peak_bytes=110),
        ProfiledStep(number=4, wall_ns=30, covered_ns=20, calls=2, self_ns=25, device_ns=0, peak_bytes=100),
    ]
    assert (found.step_ns, found.covered_ns, found.coverage) == ([20, 30], 30, 30 / 50)


def test_steps_that_come_out_of_their_numbers_order_keep_their_work():
    steps = step(9, 0, 10), step(2, 10, 20), step(5, 20, 30)
    rows = [row("a", start, start + 5, operation=start) for start in (1, 11, 21)]
    work = [
        kernel("k", 100 + start, 100 + start + length, operation=start) for start, length in ((1, 1), (11, 2), (21, 3))
    ]

    assert [(found.number, found.device_ns) for found in profile(*steps, *rows, *work).steps] == [
        (9, 1),
        (2, 2),
        (5, 3),
    ]


def test_what_outlasts_its_step_covers_it_to_its_end_only():
    found = profile(step(0, 0, 10, "t"), row("a", 5, 15))

    assert (found.covered_ns, found.operations["name"][0].self_ns) == (5, 10)


def test_steps_in_which_nothing_ran_count_as_steps():
    found = profile(step(0, 0, 10), step(1, 10, 20), step(2, 20, 30), row("a", 12, 14))

    assert (found.step_ns, found.covered_ns) == ([10, 10, 10], 2)


def test_without_steps_everything_counts_and_covers():
    found = profile(row("a", 0, 10), row("b", 20, 30), row("c", 25, 40, "other"))

    assert (len(found.operations["name"]), found.covered_ns, found.coverage, found.span_ns) == (3, 30, None, 40)


@pytest.mark.parametrize("seed", range(20))
def test_coverage_of_any_operations_is_their_union_within_their_steps(seed):
    chance = random.Random(seed)
    cuts = sorted(chance.sample(range(300), 8))
    bounds = list(zip(cuts[::2], cuts[1::2], strict=True))
    rows = [step(number, start, end, "steps") for number, (start, end) in enumerate(bounds)]
    spans = []
    for number in range(chance.randint(0, 30)):
        start = chance.randint(0, 299)
        spans.append((start, start + chance.randint(0, 60)))
        rows.append(row(str(number % 5), *spans[-1], chance.choice("xyz")))

    found = profile(*rows)

    expected = []
    for start, end in bounds:
        inside = {moment for begin, stop in spans if start <= begin < end for moment in range(begin, stop)}
        expected.append(sum(start <= moment < end for moment in inside))
    assert [found.covered_ns for found in found.steps] == expected


def test_device_time_is_split_into_what_it_went_to():
    rows = launch(0, 5, 1), launch(40, 48, 2), launch(50, 52, 3), launch(53, 55, 4)
    work = (
        kernel("gemm", 10, 30, correlation=1),
        kernel("gemm", 50, 60, correlation=2),  # idle from 30: until 48 nobody had launched it, then 2
        kernel("ncclDevKernel_AllReduce", 55, 75, stream=9, correlation=3),
        kernel("Memcpy", 70, 80, stream=11, category="gpu_memcpy", correlation=4),
        kernel("Memset", 90, 91, category="gpu_memset"),
    )
    (found,) = profile(*rows, *work).devices

    assert found.to_dict() == {
        "device": 0,
        "total_ns": 81,
        "busy_ns": 20 + 30 + 1,
        "compute_ns": 30,
        "communication_ns": 20,
        "exposed_communication_ns": 15,
        "copy_ns": 11,
        "exposed_copy_ns": 6,
        "idle_ns": 20 + 10,
        "waiting_for_host_ns": 18,
        "gap_ns": 12,
    }


def test_each_device_is_broken_down_by_itself():
    found = profile(kernel("a", 0, 10), kernel("a", 5, 20, stream=8), kernel("a", 0, 4, device=1))

    assert [(device.device, device.busy_ns) for device in found.devices] == [(0, 20), (1, 4)]


def test_memory_peaks_are_by_device():
    changes = memory(0, 10, 10), memory(1, 20, 30), memory(2, 500, 500, device=1), memory(3, -5, 25)

    assert profile(*changes).peak_bytes == {"cpu": 30, "gpu 1": 500}


def test_a_step_begins_with_what_is_held_before_it():
    found = profile(memory(0, 70, 70), step(0, 10, 20), memory(25, -60, 10), step(1, 30, 40), memory(35, 1, 11))

    assert [step.peak_bytes for step in found.steps] == [70, 11]


def test_the_stored_events_give_the_same_profile():
    rows = (
        step(0, 0, 50),
        row("a", 2, 12, operation=1, shapes="[[2]]"),
        row("b", 4, 6),
        kernel("k", 60, 67, operation=1),
    )
    made = recording(*rows, base_ns=17, header={"distributedInfo": {"rank": 3}})
    found, linked = profile_of(made)

    events, metadata = read_events(events_file(made, linked))

    assert events.launcher.tolist() == linked.launcher.tolist()
    assert events.parent.tolist() == linked.parent.tolist()
    assert metadata == {"source": "test", "base_ns": 17, "header": {"distributedInfo": {"rank": 3}}}
    assert found.events == len(events)


def test_a_clean_profile_is_ok():
    found = profile(step(0, 0, 10), row("a", 0, 9), overhead=Overhead(before_ns=[8], after_ns=[9], profiled_ns=10.0))

    assert (found.verdict, found.reasons, found.notes) == ("ok", [], [])
    assert found.overhead.unprofiled_ns == 8.5
