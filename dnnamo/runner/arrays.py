"""Arrays that go into a model or come out of it: weights, predictions, and the keys that select some."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dnnamo.arrays import Array, ArrayFileError, read_arrays
from dnnamo.errors import ModelError, WeightsError
from dnnamo.selection import UnmatchedKeys, has_pattern, selected

__all__ = ["as_array", "as_arrays", "weights_in", "weights_of"]


def weights_in(path: str) -> dict[str, Array]:
    """Return the weights to set that a file holds.

    Raises:
        ModelError: If it cannot be read.
        WeightsError: If there is a weight that is not a number; infinities are taken, as masks have some.
    """
    try:
        weights = read_arrays(path)
    except ArrayFileError as error:
        raise ModelError(f"The weights given with the job cannot be read: {error}") from error
    counts = {name: _nans(array) for name, array in weights.items()}
    if bad := [f"{name} ({count:,} of {weights[name].size:,})" for name, count in counts.items() if count]:
        raise WeightsError(
            f"No weight was changed: {len(bad)} of the {len(weights)} given have values that are not a number (NaN): "
            f"{', '.join(bad[:5])}{', …' if len(bad) > 5 else ''}. A network with them computes nothing but NaN."
        )
    return weights


_PIECE = 1 << 20


def _nans(array: Array) -> int:
    """Return how many values are not a number; a piece at a time, as the weights may be all that memory holds."""
    if array.dtype.kind not in "fcV":  # V: the types of ml_dtypes
        return 0
    flat = array.reshape(-1)
    return sum(
        int(np.count_nonzero(flat[at : at + _PIECE] != flat[at : at + _PIECE])) for at in range(0, len(flat), _PIECE)
    )


def weights_of(model: Any, keys: Sequence[str]) -> dict[str, Array]:
    """Return the weights of a model that keys stand for, all without any.

    Patterns are matched here, as the interface knows only names.

    Raises:
        WeightsError: If a key stands for none.
        ModelError: If the model returns something else than arrays by name.
    """
    names = list(keys) if keys and not has_pattern(keys) else None
    weights = as_arrays(model.get_weights() if names is None else model.get_weights(names), "get_weights")
    try:
        return {name: weights[name] for name in selected(weights, keys or None)}
    except UnmatchedKeys as error:
        raise WeightsError(f"The model has no weights named {error}.") from error


def as_arrays(values: Any, method: str) -> dict[str, Array]:
    """Return what a method gave as arrays by name.

    Raises:
        ModelError: If it is no mapping, or something in it is no array of numbers.
    """
    if not isinstance(values, Mapping):
        raise ModelError(f"{method} must return a dict from identifiers to arrays, not a {type(values).__name__}.")
    arrays = {str(key): as_array(value) for key, value in values.items()}
    wrong = [key for key, value in arrays.items() if value is None]
    if wrong:
        raise ModelError(f"{method} returned values that are no arrays of numbers: {', '.join(wrong)}.")
    return {key: value for key, value in arrays.items() if value is not None}


def as_array(value: Any) -> Array | None:
    """Return a value as an array of numbers, None if it is none."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):  # a ragged list, or a tensor that needs its gradient
        return None
    return array if array.dtype.kind in "biuf" or _is_extended(array.dtype) else None


def _is_extended(dtype: np.dtype[Any]) -> bool:
    """Whether a type is one of those that ml_dtypes adds to NumPy's, such as bfloat16."""
    return dtype.type.__module__ == "ml_dtypes"
