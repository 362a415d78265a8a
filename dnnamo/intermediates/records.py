"""The frozen record of one intermediate."""

from dnnamo.frozen import Record

__all__ = ["BINS", "Intermediate"]

BINS = 64
"""Bins of a histogram."""


class Intermediate(Record, frozen=True, kw_only=True):
    """What the numbers of one array come to; of complex ones, their magnitudes.

    Attributes:
        name: Its identifier.
        dtype: NumPy's name of its type, or `ml_dtypes`'.
        shape: Length of each axis.
        bytes: Its size.
        non_finite: Elements that are infinite or not a number.
        zeros: Elements that are zero.
        min: Least of the finite ones, None if there are none; so are those that follow.
        max: Greatest of them.
        mean: Their mean.
        std: Their standard deviation, with their number as divisor.
        histogram: How many of them are in each of `BINS` bins of one width from `min` to `max`, the last of which
            holds `max` too; all are in the first if all are equal. Empty if there are none.
    """

    name: str
    dtype: str
    shape: list[int]
    bytes: int
    non_finite: int
    zeros: int
    min: float | None
    max: float | None
    mean: float | None
    std: float | None
    histogram: list[int]

    @property
    def count(self) -> int:
        """Number of elements."""
        count = 1
        for length in self.shape:
            count *= length
        return count

    @property
    def zero_fraction(self) -> float | None:
        """Fraction of the elements that are zero, None without any."""
        return self.zeros / self.count if self.count else None

    @property
    def edges(self) -> list[float]:
        """Borders of the histogram's bins, one more than there are bins; empty if there are none."""
        if self.min is None or self.max is None:
            return []
        parts = [number / BINS for number in range(BINS + 1)]
        return [self.min * (1 - part) + self.max * part for part in parts]
