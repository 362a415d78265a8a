"""`keras_file:FILE.keras`: a network that Keras saved. Keras's safe mode stays on, so no code in the file is run."""

import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnnamo.errors import LoaderError
from dnnamo.loaders.zoo.options import MakeBatch
from dnnamo.loaders.zoo.reading import existing, reading

if TYPE_CHECKING:
    from dnnamo.frameworks.tensorflow import KerasModel

__all__ = ["EXTRA", "IS_PATH", "PACKAGES", "TAKES", "loader"]

TAKES = "the path of a .keras file; code in it (a Lambda) is refused"
PACKAGES = ("keras", "tensorflow")
EXTRA = "tensorflow"
IS_PATH = True

_REMEDY = (
    "Write one with model.save(path). One that needs code of yours, a Lambda or a class, is loaded by a model file "
    "that has this code and returns KerasModel(network, make_batch)."
)


def loader(name: str) -> Callable[..., Any]:
    """Return the function that makes the model of a file.

    Raises:
        ModelNotFound: If there is no such file.
        MissingExtra: If TensorFlow is not installed.
    """
    path = existing("keras_file", name)
    import dnnamo.frameworks.tensorflow  # noqa: F401 (says which extra to install)

    return partial(_make, path)


def _make(
    path: Path,
    *,
    batch: int | None = None,
    length: int | None = None,
    image: int | None = None,
    data: MakeBatch | None = None,
) -> "KerasModel":
    """Return a saved network; it has training if it was compiled with a loss before it was saved.

    Args:
        path: The file.
        batch: Examples in the synthetic batch, 8 by default.
        length: Size of a dimension that the file leaves open, 128 by default.
        image: The same for the two of an image, 224 by default.
        data: Returns one batch, a tuple (inputs, targets), in the place of the synthetic one.
    """
    from dnnamo.loaders.zoo.saved import Open, wrapped_file

    return wrapped_file(_network(path), Open(batch, length, image), data)


def _network(path: Path) -> Any:
    import keras

    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise LoaderError(
            f"{path} is no .keras file: its name must end so, and it must be a whole zip archive. {_REMEDY}"
        )
    with reading(path, "a network of Keras", remedy=_REMEDY):
        return keras.saving.load_model(path, safe_mode=True)
