"""The bars: what each fault may cost, what it did cost, and the two sizes of every test."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

__all__ = ["ROWS", "Row", "at_length", "sized", "worst"]


@dataclass
class Row:
    """One line of the table. A test says what it measured before it judges that, so that a missed bar shows too.

    Attributes:
        test: Id of the test.
        is_full: Whether it was run at its full size.
        verdict: Filled in when the test is over.
    """

    test: str
    fault: str
    bar: str
    is_full: bool
    measured: str = "nothing: the test ended early"
    verdict: str = "missed"


ROWS: list[Row] = []
"""All lines of this session."""


def sized(names: str, *, small: Sequence[Any], full: Sequence[Any], minutes: int) -> pytest.MarkDecorator:
    """Run a test at two sizes: a small one with all other tests, and the full one, in so many minutes, on demand.

    The bars are for the full size. Beside other tests a machine may be slow, so times have more room there.
    """
    return pytest.mark.parametrize(
        names, [pytest.param(*small, id="small"), pytest.param(*full, id="full", marks=at_length(minutes))]
    )


def at_length(minutes: int) -> list[pytest.MarkDecorator]:
    """Return the marks of a test that runs on demand only, for so many minutes at most."""
    return [pytest.mark.chaos, pytest.mark.timeout(minutes * 60)]


def worst(seconds: Sequence[float], share: float = 0.99) -> float:
    """Return the time that a share of the times do not exceed, 0 if there are none."""
    return sorted(seconds)[math.ceil(share * len(seconds)) - 1] if seconds else 0.0
