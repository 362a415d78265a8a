import random
from collections import Counter

import pytest

from dnnamo.profiles.timeline import Span, profile_of, self_times


def span(name, start, end, thread="main", **options) -> Span:
    return Span(name, start, end, thread, **options)


def table(spans, steps=()):
    """Calls, self time and total time by name."""
    found = profile_of(spans, steps, source="test").operations
    return {row.name: (row.calls, row.self_ns, row.total_ns) for row in found}


def test_nothing_gives_an_empty_profile():
    profile = profile_of([], [], source="test")

    assert (profile.source, profile.step_ns, profile.covered_ns, profile.operations) == ("test", [], 0, [])
    assert profile.coverage is None


def test_a_child_takes_its_time_from_its_parent_alone():
    spans = [span("a", 0, 100), span("b", 10, 60), span("c", 20, 30), span("c", 40, 45)]

    assert table(spans) == {"a": (1, 50, 100), "b": (1, 35, 50), "c": (2, 15, 15)}


def test_siblings_that_touch_are_not_nested():
    spans = [span("a", 0, 100), span("b", 0, 40), span("c", 40, 100)]

    assert table(spans) == {"a": (1, 0, 100), "b": (1, 40, 40), "c": (1, 60, 60)}


@pytest.mark.parametrize("turned", [False, True])
def test_of_two_spans_with_one_start_the_longer_is_the_parent(turned):
    spans = [span("a", 5, 25), span("b", 5, 15)]

    assert table(spans[::-1] if turned else spans) == {"a": (1, 10, 20), "b": (1, 10, 10)}


def test_of_two_equal_spans_one_has_all_the_self_time():
    assert sorted(table([span("a", 5, 25), span("b", 5, 25)]).values()) == [(1, 0, 20), (1, 20, 20)]


def test_a_span_that_outlasts_the_one_it_starts_in_takes_only_the_shared_part():
    assert table([span("a", 0, 10), span("b", 5, 15)]) == {"a": (1, 5, 10), "b": (1, 10, 10)}


def test_recursion_counts_total_time_at_each_level_and_self_time_once():
    spans = [span("a", 0, 10), span("a", 2, 6), span("b", 3, 5), span("a", 7, 9)]
    assert table(spans) == {"a": (3, 8, 16), "b": (1, 2, 2)}


def test_a_call_that_only_calls_its_namesake_is_one_call():
    spans = [span("a", 0, 10), span("a", 2, 9), span("a", 3, 8), span("b", 4, 5), span("a", 6, 7)]
    assert table(spans) == {"a": (2, 9, 11), "b": (1, 1, 1)}


def test_a_span_that_outlasts_its_parent_takes_the_rest_from_the_next_outer_one():
    spans = [span("a", 0, 20), span("b", 5, 10), span("c", 8, 15)]
    assert table(spans) == {"a": (1, 10, 20), "b": (1, 3, 5), "c": (1, 7, 7)}


def test_threads_do_not_nest_in_one_another():
    spans = [span("a", 0, 10), span("b", 2, 6, "other"), span("c", 3, 5, "other")]
    profile = profile_of(spans, [(0, 20)], source="test")

    assert table(spans) == {"a": (1, 10, 10), "b": (1, 2, 4), "c": (1, 2, 2)}
    assert profile.covered_ns == 10
    assert profile.coverage == 0.5


def test_an_operation_of_no_duration_is_a_call():
    spans = [span("a", 0, 10), span("mark", 4, 4), span("mark", 10, 10), span("b", 12, 12)]

    assert table(spans) == {"a": (1, 10, 10), "mark": (2, 0, 0), "b": (1, 0, 0)}


def test_only_what_starts_within_a_step_counts():
    spans = [
        span("before", 5, 12),
        span("first", 10, 15),
        span("last", 19, 20),
        span("between", 20, 25),
        span("second", 30, 40),
        span("after", 40, 41),
    ]
    profile = profile_of(spans, [(30, 40), (10, 20)], source="test")

    assert {row.name for row in profile.operations} == {"first", "last", "second"}
    assert profile.step_ns == [10, 10]
    assert profile.covered_ns == 5 + 1 + 10
    assert profile.coverage == 16 / 20


def test_what_outlasts_its_step_covers_it_to_its_end_only():
    profile = profile_of([span("a", 5, 15)], [(0, 10)], source="test")

    assert profile.covered_ns == 5
    assert [(row.self_ns, row.total_ns) for row in profile.operations] == [(10, 10)]


def test_a_parent_outside_of_the_steps_takes_no_part():
    assert table([span("all", 0, 100), span("a", 10, 20)], [(5, 50)]) == {"a": (1, 10, 10)}


def test_without_steps_everything_counts_and_covers():
    profile = profile_of([span("a", 0, 10), span("b", 20, 30), span("c", 25, 40, "other")], [], source="test")

    assert len(profile.operations) == 3
    assert profile.covered_ns == 10 + 20
    assert profile.coverage is None


def test_steps_in_which_nothing_ran_count_as_steps():
    profile = profile_of([span("a", 12, 14)], [(0, 10), (10, 20), (20, 30)], source="test")

    assert profile.step_ns == [10, 10, 10]
    assert profile.covered_ns == 2


def test_a_step_of_no_duration_has_no_coverage():
    profile = profile_of([span("a", 5, 6)], [(5, 5)], source="test")

    assert (profile.step_ns, profile.operations, profile.coverage) == ([0], [], None)


def test_machinery_takes_no_part():
    spans = [span("a", 0, 10), span("executor", 2, 8, is_operation=False), span("b", 4, 6)]

    assert table(spans) == {"a": (1, 8, 10), "b": (1, 2, 2)}
    assert profile_of([span("executor", 0, 9, is_operation=False)], [(0, 10)], source="test").covered_ns == 0


def test_rows_are_by_name_and_shapes_and_sorted_by_self_time():
    spans = [
        span("mm", 0, 10, shapes=[[1, 2], [2, 1]], device_ns=100),
        span("mm", 10, 15, shapes=[[1, 2], [2, 1]], device_ns=20),
        span("mm", 20, 50, shapes=[[3, 2], [2, 1]]),
        span("mm", 50, 52),
        span("add", 60, 62, shapes=[[], [4]], device_ns=1),
    ]

    rows = profile_of(spans, [], source="test").operations

    assert [(row.name, row.shapes, row.calls, row.self_ns, row.device_ns) for row in rows] == [
        ("mm", [[3, 2], [2, 1]], 1, 30, 0),
        ("mm", [[1, 2], [2, 1]], 2, 15, 120),
        ("add", [[], [4]], 1, 2, 1),
        ("mm", None, 1, 2, 0),
    ]


def test_self_times_come_in_the_order_of_the_spans():
    assert self_times([span("a", 0, 10), span("b", 1, 4), span("c", 2, 3), span("d", 20, 25)]) == [7, 2, 1, 5]


@pytest.mark.parametrize("seed", range(20))
def test_self_times_of_a_nested_forest_are_the_time_of_the_innermost_span(seed):
    chance = random.Random(seed)
    by_thread = {thread: list(_forest(chance, 0, 300, depth=4, thread=thread)) for thread in "xyz"}
    spans = [found for forest in by_thread.values() for found in forest]
    chance.shuffle(spans)

    own = {name: self_ns for name, (_, self_ns, _) in table(spans).items()}

    expected = Counter({found.name: 0 for found in spans})
    for forest in by_thread.values():
        for moment in range(300):
            running = [found for found in forest if found.start_ns <= moment < found.end_ns]
            if running:
                expected[running[-1].name] += 1  # a forest lists parents before their children
    assert own == dict(expected)
    assert sum(own.values()) == sum(len(_moments(forest)) for forest in by_thread.values())


def _forest(chance, start, end, *, depth, thread):
    """Yield properly nested spans with names of their own, each before the ones nested in it."""
    at = start
    while depth and at < end:
        begin, stop = sorted((chance.randint(at, end), chance.randint(at, end)))
        if begin == stop or (begin, stop) == (start, end):  # who is the parent of whom must be plain
            return
        yield span(f"{thread}{begin}-{stop}-{depth}", begin, stop, thread)
        yield from _forest(chance, begin, stop, depth=depth - 1, thread=thread)
        at = stop


def _moments(spans):
    return {moment for found in spans for moment in range(found.start_ns, found.end_ns)}


@pytest.mark.parametrize("seed", range(20))
def test_coverage_of_any_spans_is_their_union_within_their_steps(seed):
    chance = random.Random(seed)
    cuts = sorted(chance.sample(range(300), 8))
    steps = list(zip(cuts[::2], cuts[1::2], strict=True))
    spans = []
    for number in range(chance.randint(0, 30)):
        start = chance.randint(0, 299)
        spans.append(span(str(number % 5), start, start + chance.randint(0, 60), chance.choice("xyz")))

    profile = profile_of(spans, steps, source="test")

    expected = 0
    for start, end in steps:
        inside = _moments(found for found in spans if start <= found.start_ns < end)
        expected += sum(start <= moment < end for moment in inside)
    assert profile.covered_ns == expected
    assert 0 <= profile.coverage <= 1
