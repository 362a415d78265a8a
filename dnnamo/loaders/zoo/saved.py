"""Synthetic batches for networks that were saved with Keras or TensorFlow, from the shapes that they tell."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from dnnamo.errors import LoaderError
from dnnamo.frameworks.tensorflow import KerasModel, accuracy
from dnnamo.loaders.zoo.options import BATCH, MakeBatch, checked, told
from dnnamo.loaders.zoo.tensorflow import Array, integers, noise, trained, untrained

import keras  # isort: skip (after KerasModel, which tells what to install where TensorFlow is missing)
import numpy as np

__all__ = ["Open", "array", "wrapped_file"]

_LENGTH = 128
_IMAGE = 224
_IMAGE_RANK = 4


class Open(NamedTuple):
    """Sizes for what a file leaves open, as the job gives them; None for the defaults.

    Attributes:
        batch: Of the first dimension.
        length: Of others.
        image: Of the second and third of four.
    """

    batch: int | None
    length: int | None
    image: int | None

    def check(self, data: MakeBatch | None) -> None:
        """Refuse sizes that are none, or that go with a data function; raises `LoaderError`."""
        checked(data=data, batch=self.batch, length=self.length, image=self.image)

    def told(self, data: MakeBatch | None) -> str:
        """Return the sentence for `Model.made_of`."""
        sizes = (self.batch or BATCH, self.length or _LENGTH, self.image or _IMAGE)
        return told(data=data, **dict(zip(self._fields, sizes, strict=True)))


def array(shape: Sequence[int | None], dtype: str, sizes: Open, *, below: int = 2) -> Array:
    """Return the array for an input.

    Args:
        shape: As the file tells it, None for what is open.
        dtype: NumPy's name of the numbers' type.
        sizes: For what is open.
        below: Whole numbers are less than that.

    Raises:
        LoaderError: If there can be no such array, or the file wants another batch.
    """
    if shape and shape[0] is not None and sizes.batch not in (None, shape[0]):
        raise LoaderError(f"batch is {sizes.batch}, and the file was made for {shape[0]} alone; leave batch out.")
    free = sizes.image or _IMAGE if len(shape) == _IMAGE_RANK else sizes.length or _LENGTH
    whole = [size or (free if place else sizes.batch or BATCH) for place, size in enumerate(shape)]
    if np.dtype(dtype).kind in "iub":
        return integers(2 if dtype == "bool" else below, *whole).astype(dtype)
    return noise(*whole).astype(dtype)


def wrapped_file(network: keras.Model, sizes: Open, data: MakeBatch | None) -> KerasModel:
    """Return a network that Keras read; it has training if it knows its loss and the targets can be made up."""
    sizes.check(data)
    reason = _untrainable(network, has_data=data is not None)
    make_batch = data or _synthetic(network, sizes, has_targets=not reason)
    made_of = sizes.told(data)
    if reason:
        return untrained(network, make_batch, made_of=made_of, reason=reason)
    score = accuracy if _name(network.loss).startswith("sparse_") else None
    return trained(network, make_batch, made_of=made_of, loss=network.loss, optimizer=network.optimizer, score=score)


def _untrainable(network: Any, *, has_data: bool) -> str:
    """Return why a network cannot be trained; empty if it can."""
    if not getattr(network, "compiled", False) or network.loss is None:
        return "The file holds no loss: the network was saved before it was compiled."
    if isinstance(network.loss, (list, dict)):
        return "The network has several losses; a model file can say how they become one."
    if not has_data and len(network.outputs) != 1:
        return "The network has several outputs, whose targets are not made up here: name a function with -p data."
    return ""


def _synthetic(network: Any, sizes: Open, *, has_targets: bool) -> MakeBatch:
    if not getattr(network, "inputs", None):
        raise LoaderError(
            "The network does not tell its inputs. Name a function that returns a batch: -p data=file.py:make."
        )
    words = [layer.input_dim for layer in network._flatten_layers() if isinstance(layer, keras.layers.Embedding)]
    below = min(words, default=2)
    inputs = keras.tree.map_structure(lambda it: array(it.shape, it.dtype, sizes, below=below), _form(network))
    targets = _targets(_name(network.loss), network.outputs[0].shape, sizes) if has_targets else ()
    return lambda: (inputs, targets)


def _form(network: Any) -> Any:
    """Return the network's symbolic inputs as it takes them: one alone, or several in their tuple, list or dict."""
    inputs = network.inputs
    return inputs[0] if len(inputs) == 1 else getattr(network, "_inputs_struct", inputs)


def _name(loss: Any) -> str:
    found = keras.losses.get(loss)
    return str(getattr(found, "name", getattr(found, "__name__", "")))


def _targets(loss: str, outputs: Sequence[int | None], sizes: Open) -> Array:
    """Return targets for outputs of a shape, as the loss of this name takes them."""
    shape = array(outputs, "float32", sizes).shape
    if loss.startswith("sparse_"):
        return integers(shape[-1], *shape[:-1], seed=1)
    if loss.startswith("categorical_"):
        return np.eye(shape[-1], dtype=np.float32)[integers(shape[-1], *shape[:-1], seed=1)]
    if loss.startswith("binary_"):
        return integers(2, *shape, seed=1).astype(np.float32)
    return noise(*shape, seed=1)
