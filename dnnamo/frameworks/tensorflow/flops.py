"""Floating-point operations of one step of a TensorFlow graph, counted from what each node is given.

Most are counted by TensorFlow's own formulas (`tensorflow.python.profiler.internal.flops_registry`), in which a
multiplication and an addition are two. Of what these lack, an elementwise operation counts one for each element of its
result, a reduction one for each element that it reduces, and softmax and batch normalisation what the textbook does for
each element. What only moves, makes or selects, or computes no floating-point numbers, counts nothing. The rest, and
what runs a number of times that the graph does not say, is unknown.

The graph is counted as it was given: TensorFlow may fuse and drop nodes before it runs them.
"""

from collections import Counter
from collections.abc import Iterator
from math import prod
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import ops
from tensorflow.python.profiler.internal import flops_registry  # noqa: F401 (registers its formulas)
from tensorflow.python.util import deprecation

from dnnamo.profiles.flops import CountedOperation

__all__ = ["counted_operations"]

_NEVER_RUN = {"Placeholder", "Const", "NoOp"}

_CALLS = {"PartitionedCall", "StatefulPartitionedCall"}


def _kinds(names: str) -> frozenset[str]:
    return frozenset(names.split())


_MOVES = _kinds(
    """
    AssignVariableOp BroadcastTo Cast ConcatV2 DepthToSpace ExpandDims Fill GatherNd GatherV2 Identity IdentityN
    InvertPermutation MirrorPad OneHot OnesLike Pack Pad PadV2 PreventGradient RandomStandardNormal RandomUniform
    Range ReadVariableOp Reshape ResourceGather ReverseV2 ScatterNd Select SelectV2 Shape ShapeN Size Slice
    SpaceToDepth Split SplitV Squeeze StatelessRandomGetKeyCounter StatelessRandomNormalV2 StatelessRandomUniformV2
    StopGradient StridedSlice StridedSliceGrad TensorScatterUpdate Tile TopKV2 Transpose Unpack Where ZerosLike
    """
)
"""What makes, moves or selects values."""

_ELEMENTWISE = _kinds(
    """
    Abs Ceil Cos DivNoNan Elu EluGrad Erf Erfc Exp Expm1 Floor FloorDiv FloorMod Inv InvGrad IsFinite IsInf IsNan
    LeakyRelu LeakyReluGrad Log1p MulNoNan Relu Relu6 Relu6Grad ReluGrad ReciprocalGrad Rint Round Selu SeluGrad
    Sigmoid SigmoidGrad Sign Sin Softplus SoftplusGrad Softsign SoftsignGrad Sqrt SqrtGrad Tan Tanh TanhGrad
    TruncateDiv Xlogy
    """
)
"""What takes one operation for each element of its result."""

_PER_ELEMENT = {
    "AssignAddVariableOp": (1, 1),
    "AssignSubVariableOp": (1, 1),
    "All": (0, 1),
    "Any": (0, 1),
    "Cumsum": (0, 1),
    "Max": (0, 1),
    "Min": (0, 1),
    "Prod": (0, 1),
    "LogSoftmax": (0, 5),  # greatest, difference, exponential, sum, difference
    "SparseSoftmaxCrossEntropyWithLogits": (0, 8),  # the same, the gradient's exponential, quotient and difference
    "SoftmaxCrossEntropyWithLogits": (0, 8),
    "FusedBatchNormV3": (0, 7),  # mean, difference, square, sum, quotient, scale, shift
    "FusedBatchNormGradV3": (0, 14),
}
"""What takes so many for each element of one of its inputs, about: which input, and how many."""


def counted_operations(graph: tf.Graph) -> list[CountedOperation]:
    """Count the operations of one run of a graph, of the functions that it calls as well."""
    calls: Counter[tuple[str, str | None, int | None]] = Counter()
    with deprecation.silence():  # the formulas use an old function to look at shapes
        for within, node in _nodes(graph):
            calls[node.op, node.name.rpartition("/")[0] or None, _flops(within, node)] += 1
    return [
        CountedOperation(
            name=name, shapes=None, layer=layer, calls=count, flops=None if flops is None else flops * count
        )
        for (name, layer, flops), count in calls.items()
    ]


def _nodes(graph: tf.Graph) -> Iterator[tuple[tf.Graph, Any]]:
    """Yield each node that runs, with the graph that it stands in."""
    for node in graph.as_graph_def().node:
        if node.op in _CALLS:
            yield from _nodes(graph._get_function(node.attr["f"].func.name).graph)
        elif node.op not in _NEVER_RUN:
            yield graph, node


def _flops(graph: tf.Graph, node: Any) -> int | None:
    operation = graph.get_operation_by_name(node.name)
    if node.op in _MOVES or not _computes(operation):
        return 0
    if node.op in _ELEMENTWISE:
        return _elements(operation.outputs[0])
    if node.op in _PER_ELEMENT:
        which, each = _PER_ELEMENT[node.op]
        count = _elements(operation.inputs[which])
        return None if count is None else each * count
    try:
        counted = ops.get_stats_for_node_def(graph, node, "flops").value
    except ValueError:  # a shape that the graph does not know
        return None
    return None if counted is None else int(counted)


def _elements(tensor: Any) -> int | None:
    return prod(tensor.shape) if tensor.shape.is_fully_defined() else None


def _computes(operation: Any) -> bool:
    """Whether it takes or gives any floating-point or complex numbers."""
    return any(
        tensor.dtype.is_floating or tensor.dtype.is_complex for tensor in (*operation.inputs, *operation.outputs)
    )
