"""`onnx:FILE.onnx`: an ONNX model, which ONNX Runtime runs."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnnamo.loaders.zoo.onnx_weights import other_files
from dnnamo.loaders.zoo.options import MakeBatch, checked, told
from dnnamo.loaders.zoo.reading import existing

if TYPE_CHECKING:
    from dnnamo.frameworks.onnxruntime import OnnxModel

__all__ = ["EXTRA", "IS_PATH", "PACKAGES", "TAKES", "companions", "loader"]

TAKES = "the path of an ONNX file, which ONNX Runtime runs"
PACKAGES = ("onnx", "onnxruntime")
EXTRA = "onnx"
IS_PATH = True


def loader(name: str) -> Callable[..., Any]:
    """Return the function that makes the model of a file.

    Raises:
        ModelNotFound: If there is no such file.
        MissingExtra: If ONNX Runtime is not installed.
    """
    path = existing("onnx", name)
    import dnnamo.frameworks.onnxruntime  # noqa: F401 (says which extra to install)

    return partial(_make, path)


def companions(name: str) -> list[str]:
    """Return what lies beside a file and has weights of it."""
    places = [Path(location) for location in other_files(Path(name)) if location]
    return sorted({place.parts[0] for place in places if not place.is_absolute() and ".." not in place.parts})


def _make(path: Path, *, batch: int | None = None, data: MakeBatch | None = None, **dims: int) -> "OnnxModel":
    """Return the model of a file, which has no training.

    Args:
        path: The file; weights that it keeps in others lie in its folder.
        batch: Size of the inputs' first dimension, if the file leaves it open; 8 by default.
        data: Returns one batch, a tuple (inputs, anything), in the place of the synthetic one: the inputs as a dict by
            their names, a tuple in their order, or the array of the only one.
        dims: Sizes of the other dimensions that the file leaves open, by the names that they have there.
    """
    from dnnamo.frameworks.onnxruntime import OnnxModel

    checked(data=data, batch=batch, **dims)
    model = OnnxModel(path, data, batch=batch, dims=dims)
    model.made_of = told(data=data, batch=batch, **dims)
    return model
