import random

import pytest

from dnnamo.profiles.lanes import lanes
from tests.profiles.rows import row, table


def found(*spans: tuple[int, int]) -> list[int]:
    return lanes(table(*(row("n", *span) for span in spans))).tolist()


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([(0, 10), (2, 5), (5, 10), (10, 12)], [0, 0, 0, 0]),
        ([(0, 10), (5, 15)], [0, 1]),
        ([(0, 10), (5, 15), (12, 20)], [0, 1, 0]),
        ([(0, 10), (1, 11), (2, 12)], [0, 1, 2]),
        ([(0, 10), (5, 15), (6, 9)], [0, 1, 0]),
        ([(0, 10), (10, 10), (3, 3)], [0, 0, 0]),
        ([], []),
    ],
)
def test_an_event_takes_the_first_lane_in_which_it_fits(spans, expected):
    assert found(*spans) == expected


@pytest.mark.parametrize("seed", range(5))
def test_within_a_lane_events_nest_or_follow(seed):
    chance = random.Random(seed)
    starts = [chance.randrange(1_000) for _ in range(200)]
    events = table(*(row("n", at, at + chance.randrange(60)) for at in starts))

    lane = lanes(events)

    for number in range(int(lane.max()) + 1):
        assert len(events.take(lane == number).nest().overlaps) == 0
