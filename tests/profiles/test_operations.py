import random
from collections import Counter

import pytest

from dnnamo.profiles.flops import CountedOperation
from tests.profiles.rows import kernel, launch, memory, profile, row, step


def times(*rows):
    """Calls, self time and total time by name."""
    return {found.name: (found.calls, found.self_ns, found.total_ns) for found in profile(*rows).operations["name"]}


def figures(rows, *names):
    return [tuple(getattr(found, name) for name in names) for found in rows]


def test_a_child_takes_its_time_from_its_parent_alone():
    rows = row("a", 0, 100), row("b", 10, 60), row("c", 20, 30), row("c", 40, 45)

    assert times(*rows) == {"a": (1, 50, 100), "b": (1, 35, 50), "c": (2, 15, 15)}


def test_recursion_counts_total_time_at_each_level_and_self_time_once():
    rows = row("a", 0, 10), row("a", 2, 6), row("b", 3, 5), row("a", 7, 9)

    assert times(*rows) == {"a": (3, 8, 16), "b": (1, 2, 2)}


def test_a_call_that_only_calls_its_namesake_is_one_call():
    rows = row("a", 0, 10), row("a", 2, 9), row("a", 3, 8), row("b", 4, 5), row("a", 6, 7)

    assert times(*rows) == {"a": (2, 9, 11), "b": (1, 1, 1)}


def test_an_operation_of_no_duration_is_a_call():
    rows = row("a", 0, 10), row("mark", 4, 4), row("mark", 10, 10), row("b", 12, 12)

    assert times(*rows) == {"a": (1, 10, 10), "mark": (2, 0, 0), "b": (1, 0, 0)}


def test_only_what_starts_within_a_step_counts():
    steps = step(1, 30, 40), step(0, 10, 20)
    rows = row("before", 5, 12), row("first", 10, 15, "t"), row("last", 19, 20), row("between", 20, 25)
    rows += row("second", 30, 40, "t"), row("after", 40, 41)

    assert set(times(*steps, *rows)) == {"first", "last", "second"}


def test_a_parent_outside_of_the_steps_takes_no_part():
    assert times(step(0, 5, 50, "t"), row("all", 0, 100), row("a", 10, 20)) == {"a": (1, 10, 10)}


@pytest.mark.parametrize("category", ["python_function", "overhead", "layer", "Trace", "cpu_instant_event"])
def test_what_is_no_operation_takes_no_part(category):
    rows = row("a", 0, 10), row("machinery", 2, 8, category=category), row("b", 4, 6)

    assert times(*rows) == {"a": (1, 8, 10), "b": (1, 2, 2)}


def test_ranges_of_the_user_and_calls_of_the_runtime_are_rows():
    rows = row("Optimizer.step", 0, 20, category="user_annotation"), row("add_", 2, 12), launch(5, 8, 1)

    assert times(*rows) == {"Optimizer.step": (1, 10, 20), "add_": (1, 7, 10), "cudaLaunchKernel": (1, 3, 3)}


def test_rows_of_shapes_are_by_name_and_shapes():
    rows = (
        row("mm", 0, 10, shapes="[[1,2],[2,1]]", operation=1),
        row("mm", 10, 15, shapes="[[1,2],[2,1]]", operation=2),
        row("mm", 20, 50, shapes="[[3,2],[2,1]]"),
        row("mm", 50, 52),
        row("add", 60, 62, shapes="[[],[4]]"),
        kernel("k", 70, 170, operation=1),
        kernel("k", 170, 190, operation=2),
    )
    found = profile(*rows).operations

    assert figures(found["shape"], "name", "shapes", "calls", "self_ns", "device_ns") == [
        ("mm", [[3, 2], [2, 1]], 1, 30, 0),
        ("mm", [[1, 2], [2, 1]], 2, 15, 120),
        ("add", [[], [4]], 1, 2, 0),
        ("mm", None, 1, 2, 0),
    ]
    assert figures(found["name"], "name", "shapes", "calls") == [("mm", None, 4), ("add", None, 1)]


def test_grains_that_the_profile_tells_nothing_of_are_left_out():
    assert set(profile(row("a", 0, 1)).operations) == {"name"}
    assert profile().operations == {"name": []}


def test_device_time_is_the_operation_s_own_and_that_of_its_callees():
    rows = row("linear", 0, 30, operation=1), row("addmm", 5, 25, operation=2), row("copy_", 30, 40, operation=3)
    work = kernel("gemm", 50, 150, operation=2), kernel("bias", 150, 160, operation=1)
    copy = kernel("Memcpy HtoD", 160, 165, operation=3, category="gpu_memcpy", bytes=4096)

    found = {row.name: row for row in profile(*rows, *work, copy).operations["name"]}

    assert {name: (row.device_ns, row.device_total_ns, row.bytes) for name, row in found.items()} == {
        "linear": (10, 110, None),
        "addmm": (100, 100, None),
        "copy_": (5, 5, 4096),
    }


def test_a_namesake_s_kernels_count_once():
    rows = row("mean", 0, 30, operation=1), row("mean", 5, 25, operation=2), kernel("k", 50, 150, operation=2)
    (found,) = profile(*rows).operations["name"]

    assert (found.calls, found.device_ns, found.device_total_ns) == (1, 100, 100)


def test_rows_of_kernels_are_by_kernel_sorted_by_device_time():
    work = kernel("b", 0, 5), kernel("a", 10, 12, stream=8), kernel("a", 20, 30, device=1)
    spans = kernel("step 3", 0, 99, category="gpu_user_annotation")
    found = profile(*work, spans).operations["kernel"]

    assert figures(found, "name", "calls", "device_ns", "self_ns") == [("a", 2, 12, 0), ("b", 1, 5, 0)]


def test_rows_of_layers_add_up_to_the_whole():
    marks = row("net", 0, 100, category="layer"), row("net.fc", 10, 50, category="layer")
    rows = row("relu", 0, 8), row("addmm", 10, 40, operation=5), row("mm", 15, 25), row("step", 100, 130)
    found = profile(*marks, *rows, kernel("k", 200, 207, operation=5)).operations["layer"]

    assert figures(found, "name", "calls", "self_ns", "total_ns", "device_ns", "device_total_ns") == [
        ("", 1, 30, 68, 0, 7),
        ("net.fc", 2, 30, 30, 7, 7),
        ("net", 1, 8, 38, 0, 7),
    ]


def test_layers_in_which_only_deeper_ones_run_are_there():
    names = [found.name for found in profile(row("a", 0, 9, layer="top/mid.0/leaf")).operations["layer"]]

    assert names == ["top/mid.0/leaf", "", "top", "top/mid", "top/mid.0"]


def test_memory_is_what_an_operation_allocates_itself_and_the_most_that_was_held():
    rows = row("linear", 0, 100), row("addmm", 10, 50), row("relu", 200, 210)
    changes = memory(5, 100, 100), memory(20, 400, 500), memory(30, -300, 200), memory(150, 900, 1100)
    found = {row.name: row for row in profile(*rows, *changes).operations["name"]}

    assert {name: (row.bytes, row.peak_bytes) for name, row in found.items()} == {
        "linear": (100, 500),
        "addmm": (400, 500),
        "relu": (None, None),
    }


def counted(name, flops, calls=1, shapes=None, layer=None):
    return CountedOperation(name=name, shapes=shapes, layer=layer, calls=calls, flops=flops)


def test_floating_point_operations_are_of_all_steps():
    steps = step(0, 0, 10), step(1, 10, 20)
    rows = [row("mm", start, start + 2, shapes="[[2,2]]", layer="fc") for start in (1, 4, 11, 14)]
    count = [counted("mm", 30, 2, "[[2,2]]", "fc"), counted("relu", None)]
    found = profile(*steps, *rows, counted=count)

    assert {grain: figures(found.operations[grain], "name", "flops") for grain in ("name", "shape")} == {
        "name": [("mm", 60)],
        "shape": [("mm", 60)],
    }
    assert ("fc", 60) in figures(found.operations["layer"], "name", "flops")
    assert (found.flops.flops, found.flops.coverage, found.flops.uncounted) == (30, 2 / 3, {"relu": 1})


def test_what_is_known_in_part_is_unknown():
    count = [counted("mm", 30, shapes="[[2,2]]"), counted("mm", None, shapes="[[3,3]]")]
    found = profile(row("mm", 0, 2, shapes="[[2,2]]"), row("mm", 4, 7, shapes="[[3,3]]"), counted=count)

    assert figures(found.operations["name"], "name", "flops") == [("mm", None)]
    assert figures(found.operations["shape"], "shapes", "flops") == [([[3, 3]], None), ([[2, 2]], 30)]


@pytest.mark.parametrize("seed", range(20))
def test_self_times_of_a_nested_forest_are_the_time_of_the_innermost(seed):
    chance = random.Random(seed)
    by_thread = {thread: list(_forest(chance, 0, 300, depth=4, thread=thread)) for thread in "xyz"}
    rows = [found for forest in by_thread.values() for found in forest]
    chance.shuffle(rows)

    own = {name: self_ns for name, (_, self_ns, _) in times(*rows).items()}

    expected = Counter({found["name"]: 0 for found in rows})
    for forest in by_thread.values():
        for moment in range(300):
            running = [at for at in forest if at["start_ns"] <= moment < at["start_ns"] + at["duration_ns"]]
            if running:
                expected[running[-1]["name"]] += 1  # a forest lists parents before their children
    assert own == dict(expected)


def _forest(chance, start, end, *, depth, thread):
    """Yield properly nested events with names of their own, each before the ones nested in it."""
    at = start
    while depth and at < end:
        begin, stop = sorted((chance.randint(at, end), chance.randint(at, end)))
        if begin == stop or (begin, stop) == (start, end):  # who is the parent of whom must be plain
            return
        yield row(f"{thread}{begin}-{stop}-{depth}", begin, stop, thread)
        yield from _forest(chance, begin, stop, depth=depth - 1, thread=thread)
        at = stop
