"""The arrays within an ONNX graph, of which ONNX Runtime gives out no more than are outputs of the graph.

So sessions are made of copies of the graph that have more outputs, some at a time: each with as many as are to be in
memory at once.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx

from dnnamo.errors import NoSuchIntermediate
from dnnamo.frameworks.onnxruntime.sessions import compute, make_session
from dnnamo.frameworks.onnxruntime.sources import Source
from dnnamo.selection import UnmatchedKeys, selected

__all__ = ["intermediates"]

Array = np.ndarray[Any, np.dtype[Any]]

AT_ONCE_BYTES = 2**27
"""So many bytes of arrays are fetched by one session; an array whose size is not known is fetched alone."""


def intermediates(
    source: Source, feeds: Mapping[str, Array], keys: Iterable[str] | None
) -> Iterator[tuple[str, Array]]:
    """Yield the arrays that operations make for one batch, by the names of the tensors.

    They come in the order of the keys, or of the graph without any.

    Args:
        source: The model.
        feeds: The batch by the names of the inputs.
        keys: Names, or patterns of them; None for all.

    Raises:
        NoSuchIntermediate: If a key stands for none.
    """
    with TemporaryDirectory(prefix="dnnamo-onnx-") as folder:
        source.write(Path(folder))
        model = onnx.load_model(f"{folder}/model.onnx", load_external_data=False)
        names = _chosen(_made(model.graph), keys)
        for group in _groups(names, _sizes(source, feeds)):
            yield from _fetched(model, group, Path(folder), feeds, source.name)


def _made(graph: Any) -> dict[str, None]:
    """Return what operations make, without constants, in order."""
    nodes = [node for node in graph.node if node.op_type != "Constant" or node.domain]
    return dict.fromkeys(name for node in nodes for name in node.output if name)


def _chosen(names: Iterable[str], keys: Iterable[str] | None) -> list[str]:
    try:
        return selected(names, keys)
    except UnmatchedKeys as error:
        raise NoSuchIntermediate(f"No operation of the model makes a tensor {error}.") from error


def _sizes(source: Source, feeds: Mapping[str, Array]) -> dict[str, int]:
    """Return the bytes of each tensor, as far as they can be inferred from the shapes of a batch."""
    model = onnx.ModelProto()
    model.CopyFrom(source.structure())
    for value in model.graph.input:
        if value.name in feeds:
            del value.type.tensor_type.shape.dim[:]
            for size in feeds[value.name].shape:
                value.type.tensor_type.shape.dim.add().dim_value = size
    try:
        inferred = onnx.shape_inference.infer_shapes(model).graph
    except (onnx.shape_inference.InferenceError, ValueError):
        return {}
    values = [*inferred.value_info, *inferred.output]
    return {value.name: size for value in values if (size := _bytes(value.type.tensor_type)) is not None}


def _bytes(tensor: Any) -> int | None:
    dims = tensor.shape.dim
    if not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in dims):
        return None
    width = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).itemsize
    return int(width * prod(dim.dim_value for dim in dims))


def _groups(names: Sequence[str], sizes: Mapping[str, int]) -> Iterator[list[str]]:
    group: list[str] = []
    held = 0
    for name in names:
        size = sizes.get(name, AT_ONCE_BYTES)
        if group and held + size > AT_ONCE_BYTES:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    if group:
        yield group


def _fetched(
    model: Any, names: Sequence[str], folder: Path, feeds: Mapping[str, Array], name: str
) -> Iterator[tuple[str, Array]]:
    """Run the graph with other outputs; what is no array, such as a list of them, is left out."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=wanted) for wanted in names)
    path = folder / "outputs.onnx"
    path.write_bytes(copy.SerializeToString())
    values = compute(make_session(str(path), name=name), names, feeds, name=name)
    values.reverse()
    for wanted in names:  # each is let go once it was taken
        value = values.pop()
        if isinstance(value, np.ndarray):
            yield wanted, value
