"""The weights of an ONNX model as arrays, and a model with other weights."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.helper import tensor_dtype_to_np_dtype

from dnnamo.errors import WeightsError
from dnnamo.selection import refuse_unknown_weights

__all__ = ["arrays", "with_weights"]

Array = np.ndarray[Any, np.dtype[Any]]

_NUMPYS_OWN = "biufc"
_IN_FILES = ("bfloat16", "float8_e4m3fn", "float8_e5m2")


def arrays(model: Any, keys: Iterable[str] | None = None) -> dict[str, Array]:
    """Return the initializers of a model by name, those of texts left out.

    Types that NumPy lacks are those of `ml_dtypes`; the ones that files of weights do not have either (int4, some of
    float8) come as int8 or float32, which hold all their values.

    Raises:
        WeightsError: If a key is unknown.
    """
    weights = _weights(model)
    names = list(weights) if keys is None else list(keys)
    refuse_unknown_weights(names, weights)
    return {name: _widened(numpy_helper.to_array(weights[name])) for name in names}


def with_weights(model: Any, kv: Mapping[str, Any]) -> Any:
    """Return a model with some weights replaced; the one given stays as it is, and shares nothing with it.

    Raises:
        WeightsError: If a key is unknown, or an array has another shape or cannot become the weight's type.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    weights = _weights(changed)
    refuse_unknown_weights(kv, weights)
    new, wrong = {}, []
    for name, value in kv.items():
        try:
            new[name] = _tensor(weights[name], value)
        except ValueError as error:
            wrong.append(f"{name} {error}")
    if wrong:
        raise WeightsError(f"Weights that do not fit, nothing was changed: {'; '.join(wrong)}.")
    for name, tensor in new.items():
        weights[name].CopyFrom(tensor)
    return changed


def _weights(model: Any) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type != onnx.TensorProto.STRING}


def _widened(array: Array) -> Array:
    name = array.dtype.name
    if array.dtype.kind in _NUMPYS_OWN or name in _IN_FILES:
        return array
    return array.astype(np.float32 if "float" in name else np.uint8 if "uint" in name else np.int8)


def _tensor(weight: Any, value: Any) -> Any:
    array = np.asarray(value)
    if array.shape != tuple(weight.dims):
        raise ValueError(f"has shape {list(array.shape)}, the model's is {list(weight.dims)}")
    dtype = np.dtype(tensor_dtype_to_np_dtype(weight.data_type))
    if array.dtype.kind not in _NUMPYS_OWN and array.dtype.type.__module__ != "ml_dtypes":
        raise ValueError(f"is of type {array.dtype}, which cannot become {dtype}")
    return numpy_helper.from_array(array.astype(dtype), weight.name)
