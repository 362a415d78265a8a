"""Statistics against NumPy's own, and where NumPy's would overflow or fail."""

import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from dnnamo.intermediates import BINS, Intermediate
from dnnamo.intermediates.statistics import describe

Array = np.ndarray[Any, Any]
RANDOM = np.random.default_rng(0)

EXTENDED = (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)


def check(found: Intermediate, array: Array, *, on_borders: int = 0) -> None:
    """Compare with what NumPy finds in the finite elements as float64, all at once.

    Args:
        found: The statistics.
        array: Of this array.
        on_borders: So many may be one bin away: numbers of few digits lie on the borders, where rounding decides.
    """
    numbers = array.astype(np.float64).ravel()
    finite = numbers[np.isfinite(numbers)]
    assert (found.shape, found.dtype, found.bytes) == (list(array.shape), array.dtype.name, array.nbytes)
    assert found.count == numbers.size
    assert found.non_finite == numbers.size - finite.size
    assert found.zeros == np.count_nonzero(numbers == 0)
    assert (found.min, found.max) == (finite.min(), finite.max())
    assert found.mean == pytest.approx(finite.mean(), rel=1e-12, abs=1e-12 * abs(finite).max())
    assert found.std == pytest.approx(finite.std(), rel=1e-12)
    counts, edges = np.histogram(finite, BINS)
    assert sum(found.histogram) == finite.size
    assert abs(np.cumsum(found.histogram) - np.cumsum(counts)).sum() <= on_borders
    assert found.edges == pytest.approx(edges.tolist(), rel=1e-12, abs=1e-12 * abs(finite).max())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (7,), (300, 1000), (3, 131072), (2, 3, 5, 7)])
def test_random_numbers(dtype: Any, shape: tuple[int, ...]) -> None:
    array = np.asarray(RANDOM.normal(3, 2, shape)).astype(dtype)
    found = describe("it", array)
    if shape:
        check(found, array, on_borders=array.size // 1000 if dtype is np.float16 else 0)
    else:
        assert (found.shape, found.count, found.min, found.std, sum(found.histogram)) == ([], 1, array[()], 0, 1)


@pytest.mark.parametrize("dtype", EXTENDED)
def test_types_that_numpy_lacks(dtype: Any) -> None:
    # Numbers of so few digits lie on the borders of bins, where rounding decides; so these lie beside them.
    array = RANDOM.choice([0.0, 1.0, 3.5, -2.0], (500, 400)).astype(dtype)
    check(describe("it", array), array)


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.uint8, np.int32, np.uint64])
def test_integers(dtype: Any) -> None:
    array = RANDOM.integers(0, 2 if dtype is np.bool_ else 100, (1000, 211)).astype(dtype)
    check(describe("it", array), array)


def test_complex_numbers_go_by_their_magnitude() -> None:
    array = (RANDOM.normal(size=(400, 500)) + 1j * RANDOM.normal(size=(400, 500))).astype(np.complex64)
    found = describe("it", array)
    magnitudes = np.abs(array.astype(np.complex128))
    assert (found.dtype, found.bytes) == ("complex64", array.nbytes)
    assert (found.min, found.max) == (magnitudes.min(), magnitudes.max())
    assert found.mean == pytest.approx(magnitudes.mean())
    assert found.std == pytest.approx(magnitudes.std())
    assert found.histogram == np.histogram(magnitudes, BINS)[0].tolist()


@pytest.mark.parametrize(
    "view",
    [
        lambda array: array.T,
        lambda array: array[::3, ::-2],
        lambda array: np.broadcast_to(array[:1], (5, *array.shape)),
        lambda array: np.asfortranarray(array),
        lambda array: array.astype(">f4"),
    ],
)
def test_the_layout_in_memory_does_not_matter(view: Any) -> None:
    array = view(RANDOM.normal(size=(321, 654)).astype(np.float32))
    check(describe("it", array), array)


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    array = RANDOM.normal(size=(600, 500)).astype(np.float32)
    array[::7] = np.nan
    array[3], array[5, 5] = np.inf, -np.inf
    check(describe("it", array), array)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nothing_finite(value: float) -> None:
    found = describe("it", np.full((300, 500), value, np.float32))
    assert (found.count, found.non_finite, found.zeros, found.zero_fraction) == (150_000, 150_000, 0, 0)
    assert (found.min, found.max, found.mean, found.std, found.histogram, found.edges) == (*[None] * 4, [], [])


@pytest.mark.parametrize("shape", [(0,), (3, 0, 2)])
def test_nothing_at_all(shape: tuple[int, ...]) -> None:
    found = describe("it", np.zeros(shape))
    assert (found.count, found.non_finite, found.zero_fraction, found.min, found.histogram) == (0, 0, None, None, [])


@pytest.mark.parametrize("value", [0.0, -3.0, 1e38, 0.1, 5e-324, -1.7e308])
def test_equal_numbers(value: float) -> None:
    found = describe("it", np.full((400, 500), value))
    assert (found.min, found.max, found.std) == (value, value, 0)
    assert found.mean == value
    assert found.zeros == (200_000 if value == 0 else 0)
    assert found.histogram == [200_000, *[0] * (BINS - 1)]
    assert found.edges == pytest.approx([value] * (BINS + 1))


def test_float32_of_great_size() -> None:
    array = (RANDOM.uniform(-3e38, 3e38, (500, 500))).astype(np.float32)
    check(describe("it", array), array)


def test_sums_and_squares_that_would_overflow() -> None:
    found = describe("it", np.array([1.5e308, -1.5e308] * 100_000))
    assert (found.mean, found.std) == (pytest.approx(0, abs=1e296), pytest.approx(1.5e308))
    assert found.histogram == [100_000, *[0] * (BINS - 2), 100_000]
    assert (found.edges[0], found.edges[BINS // 2], found.edges[-1]) == (-1.5e308, 0, 1.5e308)
    assert describe("it", np.full(200_000, 1.5e308)).mean == 1.5e308


def test_squares_that_would_vanish() -> None:
    array = np.array([1e-200, 3e-200] * 100_000)
    found = describe("it", array)
    assert (found.mean, found.std) == (pytest.approx(2e-200), pytest.approx(1e-200))


def test_numbers_below_the_normal_range() -> None:
    step = 5e-324
    found = describe("it", np.arange(65) * step)
    assert (found.min, found.max, found.zeros) == (0, 64 * step, 1)
    assert found.mean == 32 * step
    assert found.histogram == [*[1] * (BINS - 1), 2]


def test_a_small_spread_far_from_zero_keeps_its_digits() -> None:
    array = 1e9 + RANDOM.normal(size=400_000)
    assert describe("it", array).std == pytest.approx(array.std(), rel=1e-9)


def test_it_takes_little_memory_however_large_the_array_is() -> None:
    array = RANDOM.normal(size=(4000, 2000)).astype(np.float32).T
    tracemalloc.start()
    try:
        describe("it", array)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < array.nbytes / 4
