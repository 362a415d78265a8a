"""A look at the next batch changes nothing for whoever takes batches."""

import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dnnamo.frameworks.batches import Batches, PlainDraws


def drawn() -> Callable[[], Any]:
    return lambda: (np.random.standard_normal(3).tolist(), random.random())


def counted() -> Callable[[], Any]:
    return itertools.count().__next__


def both() -> Callable[[], Any]:
    count = itertools.count()
    return lambda: (next(count), np.random.randint(1000))


def taken(make: Callable[[], Any], *, looks: int) -> list[Any]:
    """Take some batches, and numbers between them; look ahead each time."""
    batches = Batches(make, PlainDraws())
    np.random.seed(0)
    random.seed(0)
    found: list[Any] = []
    for _ in range(4):
        for _ in range(looks):
            with batches.peek():
                np.random.standard_normal()  # as a network may
                random.random()
        found += [batches(), np.random.standard_normal(), random.random()]
    return found


@pytest.mark.parametrize("make", [drawn, counted, both])
@pytest.mark.parametrize("looks", [1, 2])
def test_batches_and_random_numbers_are_the_same_with_and_without_a_look(
    make: Callable[[], Callable[[], Any]], looks: int
) -> None:
    assert taken(make(), looks=looks) == taken(make(), looks=0)


def test_what_is_seen_is_the_batch_that_comes_next() -> None:
    batches = Batches(counted(), PlainDraws())
    assert batches() == 0
    with batches.peek() as seen:
        pass
    assert seen == batches()


def test_after_a_new_seed_a_drawn_batch_is_drawn_again() -> None:
    batches = Batches(drawn(), PlainDraws())
    with batches.peek():
        pass
    np.random.seed(7)
    random.seed(7)
    found = batches()
    np.random.seed(7)
    random.seed(7)
    assert found == batches()


def test_the_batch_is_left_where_the_look_fails() -> None:
    batches = Batches(counted(), PlainDraws())
    with pytest.raises(OSError, match="no room"), batches.peek():
        raise OSError("no room")
    assert batches() == 0
