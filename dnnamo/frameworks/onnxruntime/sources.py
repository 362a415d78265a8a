"""Where an ONNX model is: in a file, in bytes or in memory, with weights that may lie in other files beside it."""

import os
import shutil
import weakref
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import load_external_data_for_model

from dnnamo.errors import LoaderError

__all__ = ["Source"]

LARGEST_BYTES = 2**31 - 1
"""Longest message that Protocol Buffers can write; larger models keep their weights in other files."""


class Source:
    """An ONNX model that is read when it is needed, so that its weights are in memory no more often than that.

    Args:
        given: Path of the file, its bytes, or an `onnx.ModelProto`.

    Attributes:
        name: What errors call it.

    Raises:
        LoaderError: If it is no ONNX model, is cut short, or lacks weights that lie in other files.
    """

    def __init__(self, given: Any) -> None:
        self._path = Path(given) if isinstance(given, str | os.PathLike) else None
        self._given = given
        self._copy: str | None = None
        self.name = f"the ONNX model {self._path}" if self._path else "the ONNX model"
        self._check(self.structure())

    def structure(self) -> Any:
        """Return the model as it is, without the weights that lie in other files."""
        if isinstance(self._given, onnx.ModelProto):
            return self._given
        try:
            content = self._given if self._path is None else self._path.read_bytes()
            return onnx.load_model_from_string(content)
        except OSError as error:
            raise LoaderError(f"The ONNX file {self._path} cannot be read: {error.strerror or error}.") from error
        except (DecodeError, TypeError) as error:
            raise self._refusal("it is something else, or was cut short") from error

    def whole(self) -> Any:
        """Return the model with all its weights in it."""
        model = self.structure()
        if self._path is not None:
            load_external_data_for_model(model, str(self._path.parent))
        return model

    def loadable(self) -> str | bytes:
        """Return what a session is made of: the path of a file, or the model's bytes."""
        if self._path is not None:
            return str(self._path)
        if isinstance(self._given, bytes):
            return self._given
        if self._given.ByteSize() <= LARGEST_BYTES:
            content: bytes = self._given.SerializeToString()
            return content
        return self._written()

    def write(self, folder: Path) -> Path:
        """Write the model into an empty folder, with its large weights in a file beside it; return its path."""
        model = self.whole()
        if model is self._given:
            model = onnx.ModelProto()
            model.CopyFrom(self._given)
        onnx.save_model(model, folder / "model.onnx", save_as_external_data=True)
        return folder / "model.onnx"

    def _written(self) -> str:
        """Return the path of a copy that lives as long as this object."""
        if self._copy is None:
            folder = mkdtemp(prefix="dnnamo-onnx-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            self._copy = str(self.write(Path(folder)))
        return self._copy

    def _check(self, model: Any) -> None:
        if not (model.ir_version and model.graph.node and model.opset_import):
            raise self._refusal("it holds no graph with operations and the opset that they are of")
        for tensor in _tensors(model.graph):
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                self._check_outside(tensor.name, {entry.key: entry.value for entry in tensor.external_data})

    def _check_outside(self, weight: str, entry: dict[str, str]) -> None:
        """Refuse weights in other files that are not there, too short, or outside of the model's own folder."""
        location = entry.get("location", "")
        if self._path is None:
            raise LoaderError(
                f"The weight {weight} of the ONNX model lies in another file ({location}), and the model was given "
                "without its folder. Give the path of its file, or call onnx.load_external_data_for_model first."
            )
        folder = os.path.realpath(self._path.parent)
        place = os.path.realpath(Path(folder, location))  # all links followed
        if Path(place).parent != Path(folder) and not place.startswith(folder + os.sep):
            raise LoaderError(
                f"The weight {weight} of {self.name} lies in {location!r}, which leads out of the model's folder. Put "
                "the file beside the model and save it again with onnx.save_model(..., save_as_external_data=True)."
            )
        needed = int(entry.get("offset") or 0) + int(entry.get("length") or 0)
        held = Path(place).stat().st_size if Path(place).is_file() else None
        if held is None or held < needed:
            found = "is not there" if held is None else f"has {held:,} of the {needed:,} bytes that it needs"
            raise LoaderError(
                f"The weight {weight} of {self.name} lies in the file {place}, which {found}. Copy the file to the "
                "model's folder, whole; both belong together."
            )

    def _refusal(self, why: str) -> LoaderError:
        what = f"The file {self._path}" if self._path else "What was given"
        return LoaderError(f"{what} is no ONNX model: {why}. Export or copy it again; onnx.checker says more.")


def _tensors(graph: Any) -> Iterator[Any]:
    """Yield the tensors in a graph that may be large: its weights, and the constants of it and of graphs in it."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for attribute in chain.from_iterable(node.attribute for node in graph.node):
        if attribute.type == onnx.AttributeProto.TENSOR:
            yield attribute.t
        for inner in [*attribute.graphs, *([attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else [])]:
            yield from _tensors(inner)
