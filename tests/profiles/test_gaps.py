import numpy as np
import pytest

from dnnamo.profiles.gaps import gaps_of, order_of, times_of
from dnnamo.profiles.nesting import nest

LEAST, GREATEST = -(2**63), 2**63 - 1


def test_gaps_are_those_between_neighbouring_borders():
    #  0 [a] 100; 10 [b] 40; 12 [c] 20; 50 [d] 60
    start, end, depth = np.array([[0, 10, 12, 50], [100, 40, 20, 60], [0, 1, 2, 1]])

    gaps = gaps_of(start, end, depth)

    assert gaps.closed.tolist() == [0, 0, 0, 2]
    assert gaps.before_start.tolist() == [0, 10, 2, 10]
    assert gaps.before_end.tolist() == [40, 20, 8, 10]


@pytest.mark.parametrize("seed", range(20))
def test_any_times_come_back(seed):
    random = np.random.default_rng(seed)
    count = int(random.integers(0, 300))
    start = random.integers(0, 200 * (1 + seed % 4), count)
    end = start + random.integers(0, 60, count) * random.integers(0, 2, count)
    track = random.integers(0, 3, count)
    order = np.lexsort((-end, start, track))
    start, end, track = start[order], end[order], track[order]
    depth = nest(start, end, track).depth
    for piece in (slice(None), slice(count // 3, None), slice(count // 2, count // 2 + 1)):
        found = times_of(gaps_of(start[piece], end[piece], depth[piece]))
        assert [times.tolist() for times in found] == [start[piece].tolist(), end[piece].tolist()]


@pytest.mark.parametrize("seed", range(10))
def test_neither_the_times_nor_the_depths_need_make_sense(seed):
    random = np.random.default_rng(seed)
    start, end = random.integers(LEAST, GREATEST, (2, 50), endpoint=True)
    start[:2], end[:2] = [LEAST, GREATEST], [GREATEST, LEAST]
    depth = random.integers(0, 50, 50)

    found = times_of(gaps_of(start, end, depth))

    assert [times.tolist() for times in found] == [start.tolist(), end.tolist()]


@pytest.mark.parametrize("greatest", [3, 2**16 - 1, 2**16, 2**40])
def test_numbers_are_put_in_order_and_equal_ones_left_as_they_come(greatest):
    numbers = np.random.default_rng(0).integers(0, greatest, 500, endpoint=True)
    numbers[17] = greatest

    assert order_of(numbers).tolist() == sorted(range(500), key=lambda row: numbers[row])
