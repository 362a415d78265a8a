"""What a graph comes to: counts by kind and by layer, weights, depth."""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence

from dnnamo.frozen import Record
from dnnamo.graphs.records import Graph, GraphTensor

__all__ = ["LayerCount", "Summary", "depth_of", "kinds", "layers", "summarise"]


class Summary(Record, frozen=True, kw_only=True):
    """The figures of a graph.

    Attributes:
        source: What it was made of.
        operations: How many there are.
        tensors: Likewise.
        edges: Places at which an operation takes or makes a tensor.
        layers: Layers that an operation runs in.
        depth: Operations on the longest chain of them, None if some run in a circle.
        weights: Tensors that are weights.
        weight_elements: Their elements, as far as their shapes are known.
        weight_bytes: Their size, as far as shapes and types are known.
        notes: What must be known to read it, one sentence each.
    """

    source: str
    operations: int
    tensors: int
    edges: int
    layers: int
    depth: int | None
    weights: int
    weight_elements: int
    weight_bytes: int
    notes: list[str] = []


class LayerCount(Record, frozen=True, kw_only=True):
    """What runs in one layer itself, without the layers below it.

    Attributes:
        layer: Its path, empty for what runs in none.
        operations: How many.
        weights: Weights that they take; one that several layers take counts with each.
        weight_elements: Their elements.
        weight_bytes: Their size.
    """

    layer: str
    operations: int
    weights: int
    weight_elements: int
    weight_bytes: int


def summarise(graph: Graph) -> Summary:
    """Return the figures of a graph."""
    weights = [tensor for tensor in graph.tensors if tensor.role == "weight"]
    return Summary(
        source=graph.source,
        operations=len(graph.operations),
        tensors=len(graph.tensors),
        edges=sum(len(operation.inputs) + len(operation.outputs) for operation in graph.operations),
        layers=len({operation.layer for operation in graph.operations} - {None}),
        depth=depth_of(graph),
        weights=len(weights),
        weight_elements=_total(tensor.elements for tensor in weights),
        weight_bytes=_total(tensor.bytes for tensor in weights),
        notes=graph.notes,
    )


def _total(sizes: Iterable[int | None]) -> int:
    return min(sum(size or 0 for size in sizes), 2**63 - 1)  # what a database can keep


def kinds(graph: Graph) -> dict[str, int]:
    """Return how many operations of each kind there are, the most frequent first."""
    found = Counter(operation.kind for operation in graph.operations)
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def layers(graph: Graph) -> list[LayerCount]:
    """Return what runs in each layer, in the order of their first operations."""
    counts: Counter[str] = Counter()
    taken: dict[str, set[int]] = defaultdict(set)
    for operation in graph.operations:
        layer = operation.layer or ""
        counts[layer] += 1
        taken[layer].update(number for number in operation.inputs if graph.tensors[number].role == "weight")
    return [_layer(name, counts[name], [graph.tensors[number] for number in taken[name]]) for name in counts]


def _layer(name: str, operations: int, weights: Sequence[GraphTensor]) -> LayerCount:
    return LayerCount(
        layer=name,
        operations=operations,
        weights=len(weights),
        weight_elements=_total(tensor.elements for tensor in weights),
        weight_bytes=_total(tensor.bytes for tensor in weights),
    )


def depth_of(graph: Graph) -> int | None:
    """Return how many operations the longest chain of them has, None if some run in a circle."""
    maker = {tensor: operation.number for operation in graph.operations for tensor in operation.outputs}
    before = [{maker[it] for it in operation.inputs if it in maker} for operation in graph.operations]
    after: list[list[int]] = [[] for _ in graph.operations]
    for number, needed in enumerate(before):
        for earlier in needed:
            after[earlier].append(number)
    return _longest(before, after)


def _longest(before: Sequence[set[int]], after: Sequence[Sequence[int]]) -> int | None:
    """Go through operations in an order in which each comes after all that it needs."""
    waiting = [len(needed) for needed in before]
    depth = [1] * len(before)
    ready = deque(number for number, count in enumerate(waiting) if not count)
    done = 0
    while ready:
        number = ready.popleft()
        done += 1
        for later in after[number]:
            depth[later] = max(depth[later], depth[number] + 1)
            waiting[later] -= 1
            if not waiting[later]:
                ready.append(later)
    return max(depth, default=0) if done == len(before) else None
