import random
from collections import Counter

import pytest

from dnnamo.profiles.overview import overview, step_columns
from tests.profiles.rows import kernel, row, table


def views(rows, *, start=0, end=100, columns=10):
    return overview(table(*rows), {}, start_ns=start, end_ns=end, columns=columns)


def test_a_column_has_the_share_that_was_busy_and_what_ran_most():
    (view,) = views([row("a", 0, 25), row("b", 10, 16), row("c", 27, 28), row("d", 95, 300)])

    assert view.busy == [1.0, 1.0, 0.6, 0, 0, 0, 0, 0, 0, 0.5]
    assert view.dominant == ["a", "b", "a", None, None, None, None, None, None, "d"]
    assert view.busy_share == pytest.approx(0.31)


def test_each_thread_and_stream_that_ran_has_its_own():
    found = views([row("a", 0, 10), row("b", 0, 5, thread="2"), kernel("k", 20, 40), row("late", 200, 300, thread="3")])

    assert [(view.track.name, view.track.is_device) for view in found] == [
        ("thread main", False),
        ("thread 2", False),
        ("device 0 stream 7", True),
    ]


def test_what_stands_around_operations_is_not_busy():
    marks = [
        row("ProfilerStep#3", 0, 100, category="user_annotation"),
        row("net.0", 0, 90, category="layer"),
        row("f.py(3): f", 0, 80, category="python_function"),
    ]
    (view,) = views([*marks, row("op", 10, 20)])

    assert view.busy == [0, 1.0, 0, 0, 0, 0, 0, 0, 0, 0]
    (view,) = views(marks)
    assert view.dominant == ["f.py(3): f"] * 8 + ["net.0", "ProfilerStep#3"]


def test_steps_stand_where_they_start():
    marks = [row(f"ProfilerStep#{at}", at * 40, at * 40 + 30, category="user_annotation") for at in range(3)]
    marks.append(row("7", 55, 60, category="step"))

    assert step_columns(table(*marks), start_ns=10, end_ns=110, columns=10) == {3: "1", 7: "2", 4: "7"}


@pytest.mark.parametrize("seed", range(6))
def test_columns_agree_with_a_look_at_each_nanosecond(seed):
    chance = random.Random(seed)
    rows = []
    for _ in range(4):  # nested three deep, none of which overlap another
        begin = chance.randrange(300)
        rows.append(row("a", begin, begin + 90))
        rows += [row("b", begin + 10, begin + chance.randrange(11, 60)), row("c", begin + 60, begin + 70)]
        rows = rows if all(end <= begin or begin + 90 <= start for start, end in outer(rows[:-3])) else rows[:-3]

    (view,) = views(rows, start=20, end=380, columns=9)

    for column in range(9):
        inner = [innermost(rows, moment) for moment in range(20 + column * 40, 60 + column * 40)]
        counts = Counter(name for name in inner if name)
        assert view.busy[column] == pytest.approx(counts.total() / 40)
        assert counts[view.dominant[column]] == max(counts.values(), default=0)


def outer(rows):
    return [(it["start_ns"], it["start_ns"] + it["duration_ns"]) for it in rows if it["name"] == "a"]


def innermost(rows, moment):
    around = [it for it in rows if it["start_ns"] <= moment < it["start_ns"] + it["duration_ns"]]
    return min(around, key=lambda it: it["duration_ns"])["name"] if around else None


def test_columns_narrower_than_a_nanosecond_and_no_events_are_no_trouble():
    assert views([]) == []
    (view,) = views([row("a", 0, 3)], start=0, end=3, columns=10)
    assert len(view.busy) == 10
    assert "a" in view.dominant
