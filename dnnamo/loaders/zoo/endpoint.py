"""A signature of a SavedModel as a Keras model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dnnamo.errors import LoaderError
from dnnamo.frameworks.tensorflow import KerasModel  # noqa: F401 (tells what to install where TensorFlow is missing)

import keras  # isort: skip

__all__ = ["Endpoint", "specs"]


class _Layer(keras.layers.TFSMLayer):  # type: ignore[misc]  # Keras has no types
    """Calls the signature with its inputs by name; the base class takes one input alone."""

    def __init__(self, folder: str, signature: str) -> None:
        super().__init__(folder, call_endpoint=signature)
        self.call_endpoint_fn = self._reloaded_obj.signatures[signature]
        self.autocast = False  # a signature takes the types that it says

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Return the signature's outputs by name."""
        return self.call_endpoint_fn(**inputs)


class Endpoint(keras.Model):  # type: ignore[misc]
    """One signature of a SavedModel, with its variables as weights.

    Raises:
        LoaderError: If it has no signature of the name.
        Exception: Whatever TensorFlow raises for a folder that it cannot read.
    """

    def __init__(self, folder: Path, signature: str) -> None:
        super().__init__()
        self.autocast = False
        self.signature = _layer(folder, signature)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Return the signature's outputs by name."""
        return self.signature(inputs)


def _layer(folder: Path, signature: str) -> _Layer:
    import tensorflow as tf

    known = list(tf.saved_model.load(str(folder)).signatures)
    if signature not in known:
        there = (
            f"It has {', '.join(known)}: choose with -p signature=NAME." if known else "It has none: save it with some."
        )
        raise LoaderError(f"The SavedModel {folder} has no signature {signature!r}. {there}")
    return _Layer(str(folder), signature)


def specs(endpoint: Endpoint) -> Iterator[tuple[str, list[int | None], str]]:
    """Yield name, shape (None for an open dimension) and NumPy's type name of each input.

    Raises:
        LoaderError: If an input's rank is open.
    """
    for name, spec in endpoint.signature.call_endpoint_fn.structured_input_signature[1].items():
        if spec.shape.rank is None:
            raise LoaderError(
                f"The signature's input {name} has no rank. Name a function that returns a batch: -p data=…"
            )
        yield name, spec.shape.as_list(), spec.dtype.name
