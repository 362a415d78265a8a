"""Small ONNX models, made here, that several tests share."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["convolution", "embedding", "model_of", "perceptron", "values"]

OPSET = 20


def values(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def model_of(nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: dict[str, Any], **more: Any) -> Any:
    """A model; inputs and outputs are (name, type, shape)."""
    graph = helper.make_graph(
        nodes,
        "given",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10, **more)
    onnx.checker.check_model(made)
    return made


def perceptron(features: int = 6, hidden: int = 8) -> Any:
    """Two layers: x [batch, features] -> y [batch, 3], with a shape among the initializers."""
    return model_of(
        [
            helper.make_node("Gemm", ["x", "first.weight", "first.bias"], ["a"], name="/first/Gemm"),
            helper.make_node("Relu", ["a"], ["b"], name="/Relu"),
            helper.make_node("MatMul", ["b", "last.weight"], ["c"], name="/last/MatMul"),
            helper.make_node("Reshape", ["c", "shape"], ["y"], name="/last/Reshape"),
        ],
        [("x", TensorProto.FLOAT, ["batch", features])],
        [("y", TensorProto.FLOAT, ["batch", 3])],
        {
            "first.weight": values(features, hidden),
            "first.bias": values(hidden),
            "last.weight": values(hidden, 3),
            "shape": np.array([-1, 3]),
        },
    )


def convolution() -> Any:
    """image [N, 1, height, width] -> two outputs."""
    return model_of(
        [
            helper.make_node("Conv", ["image", "weight"], ["features"], name="conv", kernel_shape=[3, 3]),
            helper.make_node("GlobalAveragePool", ["features"], ["mean"], name="pool"),
        ],
        [("image", TensorProto.FLOAT, ["N", 1, "height", "width"])],
        [("features", TensorProto.FLOAT, ["N", 4, "h", "w"]), ("mean", TensorProto.FLOAT, ["N", 4, 1, 1])],
        {"weight": values(4, 1, 3, 3)},
    )


def embedding(words: int = 5) -> Any:
    """ids [batch, length] with a mask -> one vector a word."""
    return model_of(
        [
            helper.make_node("Gather", ["table", "ids"], ["found"], name="embed"),
            helper.make_node("Cast", ["mask"], ["weights"], name="cast", to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["weights", "axes"], ["columns"], name="unsqueeze"),
            helper.make_node("Mul", ["found", "columns"], ["y"], name="mask"),
        ],
        [("ids", TensorProto.INT64, ["batch", "length"]), ("mask", TensorProto.BOOL, ["batch", "length"])],
        [("y", TensorProto.FLOAT, ["batch", "length", 2])],
        {"table": values(words, 2), "axes": np.array([-1])},
    )
