"""Floating-point operations as a pass of its own counted them, and how they meet a profile's rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from dnnamo.records import FlopCount

__all__ = ["CountedOperation", "flop_count"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedOperation:
    """All calls in one step of one operation with the same shapes in one layer.

    Attributes:
        name: As events name it.
        shapes: Shape of each input as JSON, in the form that events have; None where unknown.
        layer: Path of the layer, None outside of all.
        calls: Number of calls.
        flops: Of all of them together; 0 for what does no arithmetic, None where no formula is known.
    """

    name: str
    shapes: str | None
    layer: str | None
    calls: int
    flops: int | None


def flop_count(operations: Sequence[CountedOperation]) -> FlopCount:
    """Add up one step."""
    uncounted: dict[str, int] = {}
    for operation in operations:
        if operation.flops is None:
            uncounted[operation.name] = uncounted.get(operation.name, 0) + operation.calls
    calls = sum(operation.calls for operation in operations)
    return FlopCount(
        flops=sum(operation.flops or 0 for operation in operations),
        counted_calls=calls - sum(uncounted.values()),
        calls=calls,
        uncounted=uncounted,
    )
