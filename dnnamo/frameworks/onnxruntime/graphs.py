"""An ONNX graph in the form that all frameworks share."""

from collections.abc import Iterator
from typing import Any

import onnx
from google.protobuf.message import EncodeError
from onnx.helper import tensor_dtype_to_np_dtype

from dnnamo.frameworks.onnxruntime.layers import layers_of
from dnnamo.graphs.build import Builder
from dnnamo.graphs.records import Graph, Role

__all__ = ["drawn"]

Dimensions = list[int | str | None]

_SIZES = ("int32", "int64", "bool")
"""Types of initializers that say how to compute, such as a new shape, rather than what with."""

_INNER = "The graphs within operations such as If and Loop are not drawn; each of these is one operation."
_FUNCTIONS = "The model has functions of its own, each call of which is one operation."
_UNKNOWN_SHAPES = "The shapes of what operations make could not all be inferred: {}."


def drawn(model: Any) -> Graph:
    """Return the graph of an `onnx.ModelProto`, with the shapes that can be inferred from it."""
    builder = Builder()
    model = _with_shapes(model, builder)
    graph, tensors = model.graph, _Tensors(model.graph, builder)
    inputs = [tensors.number(value.name) for value in graph.input if value.name not in tensors.weights]
    layers = layers_of(graph)
    for place, node in enumerate(graph.node):
        if node.op_type == "Constant" and not node.domain:
            tensors.number(node.output[0], "constant")
            continue
        builder.operation(
            node.name or f"{node.op_type}_{place}",
            kind=f"{node.domain}.{node.op_type}" if node.domain else node.op_type,
            layer=layers.get(node.name) or node.name.strip("/").rpartition("/")[0] or None,
            inputs=[tensors.number(name) for name in [*node.input, *tensors.captured(node)] if name],
            outputs=[tensors.number(name) for name in node.output if name],
        )
    _note(model, builder)
    return builder.graph("onnx", inputs=inputs, outputs=[tensors.number(value.name) for value in graph.output])


class _Tensors:
    """The tensors of a graph, each of which is added to the builder when it is first asked for.

    Attributes:
        weights: Names of the initializers, which are added at once.
    """

    def __init__(self, graph: Any, builder: Builder) -> None:
        self._builder = builder
        self._types = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.output, *graph.input)}
        self._numbers: dict[str, int] = {}
        self.weights = {weight.name for weight in graph.initializer}
        for weight in graph.initializer:
            dtype = _dtype(weight.data_type)
            role: Role = "constant" if dtype in _SIZES else "weight"
            self._numbers[weight.name] = builder.tensor(weight.name, role=role, dtype=dtype, shape=[*weight.dims])
        for value in graph.input:
            self.number(value.name, "input")

    def number(self, name: str, role: Role = "intermediate") -> int:
        """Return the number of a tensor."""
        if name not in self._numbers:
            self._numbers[name] = self._builder.tensor(name, role=role, **_typed(self._types.get(name)))
        return self._numbers[name]

    def captured(self, node: Any) -> list[str]:
        """Return what the graphs within an operation take from around it."""
        inner = [inner for graph in _inner(node) for inner in graph.node]
        names = dict.fromkeys(name for each in inner for name in [*each.input, *self.captured(each)])
        return [name for name in names if name in self._numbers]


def _with_shapes(model: Any, builder: Builder) -> Any:
    try:
        return onnx.shape_inference.infer_shapes(model)
    except (onnx.shape_inference.InferenceError, EncodeError, ValueError) as error:  # EncodeError: larger than 2 GiB
        builder.note(_UNKNOWN_SHAPES.format(" ".join(str(error).split()).rstrip(".")))
        return model


def _typed(tensor: Any) -> dict[str, Any]:
    if tensor is None or not tensor.elem_type:
        return {}
    return {"dtype": _dtype(tensor.elem_type), "shape": _shape(tensor.shape) if tensor.HasField("shape") else None}


def _dtype(number: int) -> str:
    if number == onnx.TensorProto.STRING:
        return "string"
    return str(tensor_dtype_to_np_dtype(number).name)


def _shape(shape: Any) -> Dimensions:
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in shape.dim]


def _inner(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _note(model: Any, builder: Builder) -> None:
    if any(True for node in model.graph.node for _ in _inner(node)):
        builder.note(_INNER)
    if model.functions:
        builder.note(_FUNCTIONS)
