import random

import numpy as np
import pytest

from dnnamo.profiles.events import NONE
from tests.profiles.rows import row, table


def parents(*rows):
    """The name of each event's parent, by its own."""
    events = table(*rows)
    found = events.nest().parent.tolist()
    return {events.name[at]: None if parent == NONE else events.name[parent] for at, parent in enumerate(found)}


def self_times(*rows):
    events = table(*rows)
    return dict(zip(events.name.to_list(), events.nest().self_ns().tolist(), strict=True))


def test_no_events_nest_in_nothing():
    nesting = table().nest()

    assert (len(nesting.parent), nesting.levels, len(nesting.self_ns())) == (0, [], 0)


def test_a_child_takes_its_time_from_its_parent_alone():
    rows = row("a", 0, 100), row("b", 10, 60), row("c", 20, 30), row("d", 40, 45)

    assert parents(*rows) == {"a": None, "b": "a", "c": "b", "d": "b"}
    assert self_times(*rows) == {"a": 50, "b": 35, "c": 10, "d": 5}


def test_siblings_that_touch_are_not_nested():
    assert parents(row("a", 0, 40), row("b", 40, 90)) == {"a": None, "b": None}


@pytest.mark.parametrize("turned", [False, True])
def test_of_two_that_start_together_the_longer_is_the_parent(turned):
    rows = [row("a", 5, 25), row("b", 5, 15)]

    assert parents(*(rows[::-1] if turned else rows)) == {"a": None, "b": "a"}


def test_of_two_that_are_equal_the_first_is_the_parent():
    assert self_times(row("a", 5, 25), row("b", 5, 25)) == {"a": 0, "b": 20}


def test_threads_and_processes_do_not_nest_in_one_another():
    rows = row("a", 0, 10), row("b", 2, 6, "other"), row("c", 3, 5, "other"), row("d", 3, 5, process="2")

    assert parents(*rows) == {"a": None, "b": None, "c": "b", "d": None}


def test_a_moment_lies_in_what_has_begun_and_not_ended():
    rows = row("a", 0, 10), row("b", 4, 8), row("in", 4, 4), row("at_end", 8, 8), row("later", 10, 10), row("x", 3, 3)

    assert parents(*rows) == {"a": None, "b": "a", "in": "b", "at_end": "a", "later": None, "x": "a"}


def test_a_moment_holds_nothing():
    assert parents(row("a", 0, 0), row("b", 0, 0), row("c", 0, 5)) == {"c": None, "a": "c", "b": "c"}


def test_what_outlasts_the_one_it_starts_in_takes_only_the_shared_part():
    events = table(row("a", 0, 10), row("b", 5, 15))

    assert events.nest().overlaps.tolist() == [1]
    assert events.nest().self_ns().tolist() == [5, 10]


def test_what_outlasts_its_parent_takes_the_rest_from_the_next_outer_one():
    assert self_times(row("a", 0, 20), row("b", 5, 10), row("c", 8, 15)) == {"a": 10, "b": 3, "c": 7}


def test_threads_that_nest_are_right_beside_one_that_does_not():
    tidy = [row("a", 0, 10, "x"), row("b", 1, 9, "x"), row("c", 2, 3, "x")]
    untidy = [row("d", 0, 10, "y"), row("e", 5, 15, "y"), row("f", 11, 12, "y")]

    assert parents(*untidy, *tidy) == {"a": None, "b": "a", "c": "b", "d": None, "e": "d", "f": "e"}


def test_times_that_make_no_sense_still_nest():
    far = 2**61
    rows = (
        row("a", -far, far, "x"),
        row("b", 0, 5, "x"),
        row("c", -far, -far + 10, "y"),
        row("d", -far + 1, -far + 2, "y"),
    )

    assert parents(*rows) == {"a": None, "b": "a", "c": None, "d": "c"}


@pytest.mark.parametrize("seed", range(30))
def test_any_events_nest_as_a_stack_says(seed):
    chance = random.Random(seed)
    longest = chance.choice([3, 30, 200])
    rows = []
    for number in range(chance.randint(1, 60)):
        start = chance.randint(0, 200)
        rows.append(row(str(number), start, start + chance.randint(0, longest), chance.choice("xyz")))
    events = table(*rows)
    expected, own = by_stack(events)

    nesting = events.nest()

    assert nesting.parent.tolist() == expected
    assert nesting.self_ns().tolist() == own


def by_stack(events):
    """Parents and self times, worked out moment by moment and event by event."""
    parents, around = [], []
    own = np.zeros(len(events), int)
    starts, ends = events.start_ns.tolist(), events.end_ns.tolist()
    for at, (start, end) in enumerate(zip(starts, ends, strict=True)):
        while around and (events.thread[around[-1]] != events.thread[at] or ends[around[-1]] <= start):
            around.pop()
        parents.append(around[-1] if around else NONE)
        if end > start:
            around.append(at)
    for thread in set(events.thread.to_list()):
        rows = [at for at in range(len(events)) if events.thread[at] == thread]
        for moment in range(min(starts, default=0), max(ends, default=0)):
            running = [at for at in rows if starts[at] <= moment < ends[at]]
            if running:
                own[max(running)] += 1  # the one that began last is the innermost
    return parents, own.tolist()


def test_sums_and_maxima_rise_and_codes_sink():
    nesting = table(row("a", 0, 100), row("b", 10, 60), row("c", 20, 30), row("d", 200, 300)).nest()

    assert nesting.with_nested(np.array([1, 2, 4, 8])).tolist() == [7, 6, 4, 8]
    assert nesting.greatest_nested(np.array([1, NONE, 4, NONE])).tolist() == [4, 4, 4, NONE]
    assert nesting.inherited(np.array([5, -1, -1, -1])).tolist() == [5, 5, 5, -1]
    assert nesting.inherited(np.array([-1, 3, -1, 4])).tolist() == [-1, 3, 3, 4]
