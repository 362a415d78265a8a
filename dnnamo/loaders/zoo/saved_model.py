"""`saved_model:FOLDER`: a signature of a TensorFlow SavedModel. Running one does what its graph says."""

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

TAKES = "the folder of a SavedModel; running it does what its graph says"
PACKAGES = ("tensorflow",)
EXTRA = "tensorflow"
IS_PATH = True

_REMEDY = "Write one with model.export(folder) of Keras or tf.saved_model.save(module, folder, signatures=...)."


def loader(name: str) -> Callable[..., Any]:
    """Return the function that makes the model of a folder.

    Raises:
        ModelNotFound: If there is no such folder.
        MissingExtra: If TensorFlow is not installed.
    """
    path = existing("saved_model", name, is_folder=True)
    import dnnamo.frameworks.tensorflow  # noqa: F401 (says which extra to install)

    return partial(_make, path)


def _make(
    path: Path,
    *,
    batch: int | None = None,
    length: int | None = None,
    image: int | None = None,
    signature: str = "serving_default",
    data: MakeBatch | None = None,
) -> "KerasModel":
    """Return a signature as a model, which has no training.

    Args:
        path: The folder.
        batch: Size of the first dimension, if the signature leaves it open, 8 by default.
        length: The same for other dimensions, 128 by default.
        image: The same for the two of an image, 224 by default.
        signature: Its name.
        data: Returns one batch, a tuple (dict of inputs by the signature's names, anything), in the place of the
            synthetic one.
    """
    from dnnamo.loaders.zoo.endpoint import Endpoint, specs
    from dnnamo.loaders.zoo.saved import Open, array
    from dnnamo.loaders.zoo.tensorflow import untrained

    sizes = Open(batch, length, image)
    sizes.check(data)
    if not any((path / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
        raise LoaderError(f"{path} is no SavedModel: there is no saved_model.pb in it. {_REMEDY}")
    with reading(path, "a SavedModel", remedy=_REMEDY):
        network = Endpoint(path, signature)
    inputs = {}
    for name, shape, dtype in specs(network) if data is None else ():
        with reading(path, f"a signature with an input {name} of type {dtype}", remedy="Name a function: -p data=…"):
            inputs[name] = array(shape, dtype, sizes)
    return untrained(
        network,
        data or (lambda: (inputs, ())),
        made_of=sizes.told(data),
        reason="A SavedModel's signature is for inference: it has no loss.",
    )
