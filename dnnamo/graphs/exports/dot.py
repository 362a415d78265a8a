"""A graph in the DOT language of Graphviz, the operations of a layer in a box of their own.

The language is laid down at https://graphviz.org/doc/info/lang.html.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import BinaryIO

from dnnamo.graphs.exports import Source
from dnnamo.graphs.records import Graph, GraphOperation, GraphTensor

__all__ = ["to_dot", "write"]

_SHAPES = {"weight": "box3d", "state": "box3d", "constant": "note"}


def write(source: Source, file: BinaryIO) -> None:
    """Write a graph as UTF-8 text."""
    file.write(to_dot(source.record).encode(errors="replace"))


def to_dot(graph: Graph) -> str:
    """Return a graph as text: operations are boxes, and so are the tensors that come from outside or go there."""
    return "\n".join(["digraph model {", "  node [shape=box]", *_nodes(graph), *_edges(graph), "}", ""])


def _nodes(graph: Graph) -> Iterator[str]:
    by_layer: dict[str | None, list[GraphOperation]] = defaultdict(list)
    for operation in graph.operations:
        by_layer[operation.layer].append(operation)
    for place, (layer, operations) in enumerate(by_layer.items()):
        rows = [f"o{it.number} [label={_quoted(it.kind, it.name)}]" for it in operations]
        if layer is None:
            yield from (f"  {row}" for row in rows)
        else:
            yield f"  subgraph cluster_{place} {{"
            yield from (f"    {row}" for row in [f"label={_quoted(layer)}", *rows])
            yield "  }"
    taken = {number for it in graph.operations for number in it.inputs} | set(graph.inputs) | set(graph.outputs)
    made = {number for it in graph.operations for number in it.outputs}
    for number in sorted(taken - made | set(graph.outputs)):
        tensor = graph.tensors[number]
        shape = _SHAPES.get(tensor.role, "ellipse")
        yield f"  t{number} [shape={shape}, label={_quoted(tensor.name, _type(tensor))}]"


def _edges(graph: Graph) -> Iterator[str]:
    maker = {number: it for it in graph.operations for number in it.outputs}
    for operation in graph.operations:
        for number in operation.inputs:
            if number in maker:
                label = _quoted(_type(graph.tensors[number]))
                yield f"  o{maker[number].number} -> o{operation.number} [label={label}]"
            else:
                yield f"  t{number} -> o{operation.number}"
    yield from (f"  o{maker[number].number} -> t{number}" for number in dict.fromkeys(graph.outputs) if number in maker)


def _type(tensor: GraphTensor) -> str:
    sizes = None if tensor.shape is None else ", ".join("?" if it is None else str(it) for it in tensor.shape)
    return f"{tensor.dtype or '?'}{'' if sizes is None else f'[{sizes}]'}"


def _quoted(*lines: str) -> str:
    r"""Return lines of text as one string of the language, in which \ begins an escape."""
    text = "\\n".join(line.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for line in lines)
    return f'"{text}"'.replace("\x00", "\ufffd")
