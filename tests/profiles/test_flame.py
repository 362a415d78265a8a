import random

import pytest

from dnnamo.profiles.events import Texts
from dnnamo.profiles.flame import Frame, call_trees
from dnnamo.profiles.links import link
from tests.profiles.rows import kernel, row, table

ROWS = [
    row("outer", 0, 100, operation=1),
    row("inner", 10, 30, operation=2),
    row("inner", 40, 60),
    row("leaf", 45, 50),
    row("outer", 200, 210),
    row("worker", 0, 40, thread="2"),
    kernel("gemm", 50, 80, operation=2),
    kernel("copy", 90, 95, operation=1),
    row("mark", 55, 55, phase="i", category="cpu_instant_event"),
]


def figures(frame: Frame) -> tuple[int, int, int, int, int]:
    return frame.calls, frame.self_ns, frame.total_ns, frame.device_ns, frame.device_total_ns


def tree(frame: Frame) -> dict[str, tuple[int, int, int, int, int]]:
    return {"/".join(path): figures(it) for path, it in frame.stacks()}


@pytest.mark.parametrize("prepare", [link, lambda events: events])
def test_calls_are_added_up_by_their_callers(prepare):
    first, second = call_trees(prepare(table(*ROWS)), {})

    assert tree(first) == {
        "thread main": (0, 0, 110, 0, 35),
        "thread main/outer": (2, 70, 110, 5, 35),
        "thread main/outer/inner": (2, 35, 40, 30, 30),
        "thread main/outer/inner/leaf": (1, 5, 5, 0, 0),
    }
    assert tree(second) == {"thread 2": (0, 0, 40, 0, 0), "thread 2/worker": (1, 40, 40, 0, 0)}


def test_work_that_nothing_launched_stands_below_its_stream():
    work = [kernel("lost", 0, 10), kernel("lost", 20, 25), kernel("found", 30, 31, operation=1)]
    spans = [row("mark", 0, 40, process="gpu0", thread="7", category="gpu_user_annotation")]

    host, stream = call_trees(link(table(*[row("op", 0, 5, operation=1), *work, *spans])), {})

    assert tree(host)["thread main/op"] == (1, 5, 5, 1, 1)
    assert tree(stream) == {
        "device 0 stream 7": (0, 0, 0, 0, 15),
        "device 0 stream 7/lost": (2, 0, 0, 15, 15),
    }


def test_threads_have_the_names_that_the_source_gives_them():
    marks = [
        {"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": {"name": "python"}},
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": "main", "args": {"name": "first"}},
    ]
    events = table(*[row("a", 0, 1), row("b", 0, 1, thread="2"), row("b", 0, 1, thread="2", process="11")])

    found = call_trees(events, {"header": {"tracks": marks}})

    assert [frame.name for frame in found] == ["first", "thread 2 (1 2)", "thread 2 (11 2)"]


def test_children_come_by_their_time():
    (thread,) = call_trees(table(*[row("short", 0, 5), row("long", 10, 40), row("b", 50, 60), row("a", 70, 80)]), {})

    assert [child.name for child in thread.children] == ["long", "a", "b", "short"]


def test_a_deep_stack_is_no_trouble():
    count = 5_000
    (thread,) = call_trees(table(*[row(f"f{at}", at, 2 * count - at) for at in range(count)]), {})

    assert sum(1 for _ in thread.stacks()) == count + 1


@pytest.mark.parametrize("seed", range(5))
def test_self_times_add_up_to_what_ran(seed):
    chance = random.Random(seed)
    starts = [chance.randrange(5_000) for _ in range(300)]
    rows = [row(chance.choice("abcd"), at, at + chance.randrange(1, 400)) for at in starts]  # overlaps included

    (thread,) = call_trees(table(*rows), {})

    ran = {moment for it in rows for moment in range(it["start_ns"], it["start_ns"] + it["duration_ns"])}
    assert sum(frame.self_ns for _, frame in thread.stacks()) == len(ran)
    assert sum(frame.calls for _, frame in thread.stacks()) == len(rows)


def test_nothing_has_no_trees():
    assert call_trees(table(*[]), {}) == []
    assert call_trees(table(*[row("mark", 5, 5)]).replace(phase=Texts.same("i", 1)), {}) == []
