"""Putting a graph together, one tensor and one operation after another."""

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from dnnamo.errors import ModelError
from dnnamo.graphs.records import Graph, GraphOperation, GraphTensor, Role

__all__ = ["MAX_OPERATIONS", "Builder"]

MAX_OPERATIONS = 300_000
"""So many operations, with their tensors, are some 100 MB of JSON, which a runner can report at once."""


class Builder:
    """Collects tensors and operations and numbers them.

    Attributes:
        tensors: Those that were added.
        operations: Likewise.
        notes: Sentences that the graph will have.
    """

    def __init__(self) -> None:
        self.tensors: list[GraphTensor] = []
        self.operations: list[GraphOperation] = []
        self.notes: list[str] = []

    def tensor(
        self,
        name: str,
        *,
        role: Role = "intermediate",
        dtype: str | None = None,
        shape: Sequence[int | str | None] | None = None,
    ) -> int:
        """Add a tensor; return its number."""
        number = len(self.tensors)
        dimensions = None if shape is None else list(shape)
        self.tensors.append(GraphTensor(number=number, name=name, role=role, dtype=dtype, shape=dimensions))
        return number

    def operation(
        self, name: str, *, kind: str, layer: str | None = None, inputs: Iterable[int], outputs: Iterable[int]
    ) -> None:
        """Add an operation that takes and makes tensors that were added.

        Raises:
            ModelError: If that is one more than a graph may have.
        """
        number = len(self.operations)
        if number == MAX_OPERATIONS:
            raise ModelError(
                f"The graph has more than {MAX_OPERATIONS:,} operations, which is the most that is stored."
            )
        self.operations.append(
            GraphOperation(number=number, name=name, kind=kind, layer=layer, inputs=[*inputs], outputs=[*outputs])
        )

    def note(self, sentence: str) -> None:
        """Add a note, unless the graph has it."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def graph(self, source: str, *, inputs: Iterable[int], outputs: Iterable[int]) -> Graph:
        """Return the graph; of what it returns, what an operation made is an output."""
        returned = [*outputs]
        for number in returned:
            if self.tensors[number].role == "intermediate":
                self.tensors[number] = replace(self.tensors[number], role="output")
        return Graph(
            source=source,
            operations=self.operations,
            tensors=self.tensors,
            inputs=[*inputs],
            outputs=returned,
            notes=self.notes,
        )
