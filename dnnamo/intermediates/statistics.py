"""What the numbers of an array come to, a piece of it at a time.

Each piece is turned into float64, so that numbers of all types are summed alike; means and squared deviations of pieces
are put together as Chan, Golub and LeVeque do (1979, "Updating formulae and a pairwise algorithm for computing sample
variances").
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dnnamo.intermediates.records import BINS, Intermediate

__all__ = ["describe"]

Array = np.ndarray[Any, Any]

_PIECE = 1 << 17
"""Elements of a piece, 1 MiB of float64."""


def describe(name: str, array: Array) -> Intermediate:
    """Return the statistics of an array of numbers of any type; of complex ones, those of their magnitudes.

    Integers of more than 53 bits are rounded. It takes some MiB of memory, however large the array is.

    Args:
        name: Its identifier.
        array: The array, laid out in memory in any way.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # magnitudes of complex numbers, and NaNs that signal
        extent = _extent(array)
        moments = _moments(array, extent) if extent.finite else None
    return Intermediate(
        name=name,
        dtype=array.dtype.name,
        shape=list(array.shape),
        bytes=array.nbytes,
        non_finite=array.size - extent.finite,
        zeros=extent.zeros,
        min=extent.least if moments else None,
        max=extent.greatest if moments else None,
        mean=moments.mean if moments else None,
        std=moments.std if moments else None,
        histogram=moments.histogram.tolist() if moments else [],
    )


@dataclass
class _Extent:
    """What must be known before sums can be made."""

    finite: int = 0
    zeros: int = 0
    least: float = math.inf
    greatest: float = -math.inf

    @property
    def exponent(self) -> int:
        """The power of two that numbers are divided by, so that their squares neither overflow nor vanish."""
        exponent = math.frexp(max(abs(self.least), abs(self.greatest)))[1]
        return exponent if abs(exponent) > 300 else 0


@dataclass
class _Moments:
    mean: float
    std: float
    histogram: Array


def _extent(array: Array) -> _Extent:
    extent = _Extent()
    for piece in _finite_pieces(array):
        extent.finite += piece.size
        extent.zeros += piece.size - int(np.count_nonzero(piece))
        extent.least = min(extent.least, float(piece.min()))
        extent.greatest = max(extent.greatest, float(piece.max()))
    return extent


def _moments(array: Array, extent: _Extent) -> _Moments:
    exponent = extent.exponent
    least, greatest = (math.ldexp(value, -exponent) for value in (extent.least, extent.greatest))
    scale = BINS / (greatest - least) if greatest > least else 0.0
    histogram = np.zeros(BINS, np.int64)
    count, mean, squares = 0, 0.0, 0.0
    for piece in _finite_pieces(array):
        above = (np.ldexp(piece, -exponent) if exponent else piece) - least  # so that no spread drowns in a far mean
        total = count + above.size
        own = float(above.mean())
        off = own - mean
        squares += _squares(above, own) + off * off * (count * (above.size / total))
        mean += off * (above.size / total)
        above *= scale
        histogram += np.bincount(np.minimum(above.astype(np.int64), BINS - 1), minlength=BINS)
        count = total
    # Rounding can take a mean over the border.
    mean = min(max(math.ldexp(least + mean, exponent), extent.least), extent.greatest)
    return _Moments(mean, math.ldexp(math.sqrt(squares / count), exponent), histogram)


def _squares(numbers: Array, mean: float) -> float:
    off = numbers - mean
    off *= off  # rather than a dot product, for which BLAS would start its threads
    return float(off.sum())


def _finite_pieces(array: Array) -> Iterator[Array]:
    for piece in _pieces(array):
        is_finite = np.isfinite(piece)
        kept = piece if is_finite.all() else piece[is_finite]
        if kept.size:
            yield kept


def _pieces(array: Array) -> Iterator[Array]:
    """Yield all elements as float64, in the order in which they lie in memory; a piece is valid until the next."""
    kind = np.complex128 if array.dtype.kind == "c" else np.float64
    for piece in np.nditer(
        array,
        flags=["external_loop", "buffered", "zerosize_ok"],
        op_flags=["readonly"],
        op_dtypes=np.dtype(kind),
        casting="unsafe",
        order="K",
        buffersize=_PIECE,
    ):
        yield from _cut(np.abs(piece) if kind is np.complex128 else piece)


def _cut(piece: Any) -> Iterator[Array]:
    """Yield parts of what may be long, as NumPy copies nothing of an array that is float64 and contiguous."""
    for start in range(0, piece.size, _PIECE):
        yield piece[start : start + _PIECE]
