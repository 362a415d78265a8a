"""The frozen records of a graph."""

import math
import re
from collections.abc import Iterable
from typing import Literal

from dnnamo.errors import UsageError
from dnnamo.frozen import Record

__all__ = ["Graph", "GraphOperation", "GraphTensor", "Role", "Side"]

Role = Literal["input", "weight", "state", "constant", "output", "intermediate"]
Side = Literal["input", "output"]

_BITS = re.compile(r"(?:bfloat|float|complex|u?int|qu?int)(\d+)").match


class GraphTensor(Record, frozen=True, kw_only=True):
    """A value that operations pass on.

    Attributes:
        number: Its place among the graph's tensors.
        name: Its name; of a weight the key that `get_weights` has for it.
        role: `input` of the graph; `weight`; `state` that is kept between steps and is no weight, such as that of an
            optimizer; `constant`; `output` of the graph; `intermediate` for the rest. What a graph returns as it got it
            keeps the role that it came with.
        dtype: NumPy's name of its elements' type, or `bfloat16`, `string`, `resource` and such; None if unknown.
        shape: Its dimensions, of which one is None, or the name of a symbol, where it is not known; None where not
            even their number is.
    """

    number: int
    name: str
    role: Role = "intermediate"
    dtype: str | None = None
    shape: list[int | str | None] | None = None

    @property
    def elements(self) -> int | None:
        """Number of its elements, None where a dimension is unknown."""
        known = [size for size in self.shape or () if isinstance(size, int)]
        return None if self.shape is None or len(known) < len(self.shape) else math.prod(known)

    @property
    def bytes(self) -> int | None:
        """Size of its elements in bytes, None where shape or type do not say."""
        bits = 8 if self.dtype == "bool" else _bits(self.dtype)
        return None if self.elements is None or bits is None else (self.elements * bits + 7) // 8


def _bits(dtype: str | None) -> int | None:
    found = _BITS(dtype or "")
    return int(found[1]) if found else None


class GraphOperation(Record, frozen=True, kw_only=True):
    """One operation.

    Attributes:
        number: Its place among the graph's operations.
        name: Its name in the framework's graph.
        kind: The framework's type of operation: `aten.addmm.default`, `MatMul`.
        layer: Path of the layer that it runs in, as profiles have it; None for what runs in none.
        inputs: Numbers of the tensors that it takes, in order; one may be there twice.
        outputs: Numbers of those that it makes.
    """

    number: int
    name: str
    kind: str
    layer: str | None = None
    inputs: list[int] = []
    outputs: list[int] = []


class Graph(Record, frozen=True, kw_only=True):
    """The dataflow graph of one step of a model; an edge is a tensor that an operation takes or makes.

    Attributes:
        source: What it was made of: `torch_export`, `torch_fx`, `graphdef`, `onnx`, or a name of the model's own.
        operations: In the framework's order.
        tensors: Those that operations take or make, and the graph's inputs and weights.
        inputs: Numbers of the tensors that a step is given, in order.
        outputs: Numbers of those that it returns, in order; one may be there twice.
        notes: What must be known to read it, one sentence each.

    Raises:
        UsageError: If a number is not that of its place, or leads to no tensor, or two operations make one tensor.
    """

    source: str
    operations: list[GraphOperation]
    tensors: list[GraphTensor]
    inputs: list[int] = []
    outputs: list[int] = []
    notes: list[str] = []

    def __post_init__(self) -> None:
        _refuse_misplaced("operation", self.operations)
        _refuse_misplaced("tensor", self.tensors)
        made: set[int] = set()
        for operation in self.operations:
            self._refuse_unknown(f"Operation {operation.name!r}", operation.inputs + operation.outputs)
            if again := made.intersection(operation.outputs):
                raise UsageError(f"Operation {operation.name!r} makes tensor {min(again)}, which another one makes.")
            made.update(operation.outputs)
        self._refuse_unknown("The graph", self.inputs + self.outputs)

    def _refuse_unknown(self, who: str, numbers: Iterable[int]) -> None:
        for number in numbers:
            if not 0 <= number < len(self.tensors):
                raise UsageError(f"{who} names tensor {number}; the graph's tensors are 0 to {len(self.tensors) - 1}.")


def _refuse_misplaced(what: str, items: Iterable[GraphOperation | GraphTensor]) -> None:
    for place, item in enumerate(items):
        if item.number != place:
            raise UsageError(f"{what.capitalize()} {item.name!r} has number {item.number}; its place is {place}.")
