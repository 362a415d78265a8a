"""What an ONNX model takes, and a batch of random numbers that fits it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx.helper import tensor_dtype_to_np_dtype

from dnnamo.errors import LoaderError, ModelError

__all__ = ["Input", "Sizes", "by_name", "inputs_of", "random_batch"]

Dimension = int | str | None
Array = np.ndarray[Any, np.dtype[Any]]

_BATCH = 8
"""Examples in a batch where nothing says how many."""

_LEAST_CHOICES = 2
"""Whole numbers are drawn from 0 and 1, unless they choose among the rows of a weight: masks take these too."""


@dataclass(frozen=True)
class Input:
    """One input of a graph.

    Attributes:
        name: Its name.
        dtype: Type of its elements; None if it is no array of numbers.
        shape: Each dimension's size, or its name where the file leaves the size open, or None without a name.
        choices: For whole numbers, below which they must be.
    """

    name: str
    dtype: np.dtype[Any] | None
    shape: tuple[Dimension, ...]
    choices: int = _LEAST_CHOICES

    def __str__(self) -> str:
        return f"{self.name} {self.dtype or 'of another kind'} {list(self.shape)}"


def inputs_of(model: Any) -> list[Input]:
    """Return the inputs of a model that are no weights."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    return [_input(value, weights, model.graph.node) for value in model.graph.input if value.name not in weights]


def _input(value: Any, weights: Mapping[str, Any], nodes: Sequence[Any]) -> Input:
    if not value.type.HasField("tensor_type"):
        return Input(value.name, None, ())
    tensor = value.type.tensor_type
    sizes = tuple(_dimension(dim) for dim in tensor.shape.dim)
    return Input(value.name, _dtype(tensor.elem_type), sizes, min(_choices(value.name, weights, nodes)))


def _dtype(number: int) -> np.dtype[Any] | None:
    if number in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING):
        return None
    found: np.dtype[Any] = np.dtype(tensor_dtype_to_np_dtype(number))
    return found


def _dimension(dim: Any) -> Dimension:
    return int(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or None


def _choices(name: str, weights: Mapping[str, Any], nodes: Sequence[Any]) -> list[int]:
    """Return how many rows each weight has that an input chooses from, as a word does from an embedding."""
    found = [
        weights[node.input[0]].dims[next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)]
        for node in nodes
        if node.op_type == "Gather" and node.input[1] == name and node.input[0] in weights
    ]
    return found or [_LEAST_CHOICES]


class Sizes:
    """The sizes of the dimensions that a file leaves open.

    Args:
        inputs: The model's inputs.
        batch: Size of the first dimension of each input, where it is open; None for 8.
        dims: Sizes by the names of the dimensions; these come first.

    Raises:
        LoaderError: If a size is no whole number of at least 1, or is given for what the file does not leave open.
    """

    def __init__(
        self, inputs: Sequence[Input], *, batch: int | None = None, dims: Mapping[str, int] | None = None
    ) -> None:
        given = {**dict(dims or {}), **({} if batch is None else {"batch": batch})}
        for name, size in given.items():
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise LoaderError(f"{name} is {size!r}; it must be a whole number of at least 1.")
        self._inputs, self._dims, self._batch = inputs, dict(dims or {}), batch
        self._firsts = {value.shape[0] for value in inputs if value.shape}
        self._refuse_unknown({dim for value in inputs for dim in value.shape if isinstance(dim, str)})
        self._place_batch()

    def _refuse_unknown(self, names: Collection[str]) -> None:
        unknown = [name for name in self._dims if name not in names]
        if unknown:
            raise LoaderError(
                f"The model leaves no dimension open that is called {', '.join(unknown)}. It leaves open: "
                f"{', '.join(sorted(names)) or 'none'}; its inputs are {'; '.join(map(str, self._inputs))}."
            )

    def _place_batch(self) -> None:
        """Find out which dimension `batch` is meant for: one that is called so, or else the first ones."""
        if self._batch is None:
            return
        if any("batch" in value.shape for value in self._inputs):
            self._dims.setdefault("batch", self._batch)
            self._batch = self._batch if "batch" in self._firsts else None
            return
        fixed = sorted(size for size in self._firsts if isinstance(size, int))
        if len(fixed) == len(self._firsts) and self._batch not in fixed:
            raise LoaderError(
                f"batch is {self._batch}, and the file fixes the first dimension of its inputs: "
                f"{'; '.join(map(str, self._inputs))}. Export it again with a dynamic first dimension, or leave batch "
                "out."
            )

    def of(self, value: Input) -> list[int]:
        """Return the size of each dimension of an input.

        Raises:
            LoaderError: If one is not known.
        """
        sizes = [self._size(dim, first=at == 0) for at, dim in enumerate(value.shape)]
        if None in sizes:
            raise LoaderError(_lacking(value, [d for d, size in zip(value.shape, sizes, strict=True) if size is None]))
        return [size for size in sizes if size is not None]

    def _size(self, dim: Dimension, *, first: bool) -> int | None:
        if isinstance(dim, int):
            return dim
        if dim in self._dims:
            return self._dims[dim]
        return (self._batch or _BATCH) if first or (dim is not None and dim in self._firsts) else None


def _lacking(value: Input, dims: Sequence[Dimension]) -> str:
    named = [f"-p {dim}=…" for dim in dict.fromkeys(dims) if isinstance(dim, str)]
    how = f"Give {' '.join(named)}" if named and None not in dims else "They have no names, so give a function as data"
    return f"The file leaves sizes of the input {value} open, and nothing says what they are. {how}."


def random_batch(inputs: Sequence[Input], sizes: Sizes) -> dict[str, Array]:
    """Return arrays by the names of the inputs: the same ones each time, of a standard normal where they are floats.

    Raises:
        LoaderError: If a size is not known, or an input is no array of numbers.
    """
    numbers = np.random.default_rng(0)
    return {value.name: _random(numbers, value, sizes) for value in inputs}


def _random(numbers: np.random.Generator, value: Input, sizes: Sizes) -> Array:
    if value.dtype is None:
        raise LoaderError(
            f"The input {value.name} is no array of numbers, so no random batch can be made for it. Give a function "
            "that returns a batch, as the option data or as make_batch."
        )
    shape = sizes.of(value)
    if value.dtype.kind in "iub":
        return numbers.integers(0, value.choices, shape).astype(value.dtype)
    return numbers.standard_normal(shape).astype(value.dtype)


def by_name(batch: Any, inputs: Sequence[Input]) -> dict[str, Any]:
    """Return the arrays of a batch by the names of their inputs.

    Args:
        batch: A dict by name, a tuple or list in the order of the inputs, or the only input alone; or one of these in a
            tuple with the targets, which are left out.
        inputs: The model's inputs.

    Raises:
        ModelError: If it has another number of them.
    """
    if _has_targets(batch, inputs):
        batch = batch[0]
    if isinstance(batch, Mapping):
        return {str(name): np.asarray(value) for name, value in batch.items()}
    values = batch if isinstance(batch, tuple | list) else (batch,)
    if len(values) != len(inputs):
        raise ModelError(
            f"make_batch returned {len(values)} values, and the model takes {len(inputs)}: "
            f"{'; '.join(map(str, inputs))}. Return a dict by name, or as many arrays in this order."
        )
    return {value.name: np.asarray(given) for value, given in zip(inputs, values, strict=True)}


def _has_targets(batch: Any, inputs: Sequence[Input]) -> bool:
    is_pair = isinstance(batch, tuple) and len(batch) == 2
    return is_pair and (len(inputs) != 2 or isinstance(batch[0], Mapping | tuple | list))
