"""What the schemes for Keras share: synthetic arrays, and wrapped models with a reason where one cannot train."""

from typing import Any

from dnnamo.frameworks.tensorflow import KerasModel
from dnnamo.loaders.zoo.options import MakeBatch
from dnnamo.model import Model

import keras  # isort: skip (after KerasModel, which tells what to install where TensorFlow is missing)
import numpy as np

__all__ = ["integers", "noise", "trained", "untrained"]

Array = np.ndarray[Any, Any]


class _Inferring(KerasModel):
    """A network that cannot be trained as it is."""

    run_training = Model.run_training
    profile_training = Model.profile_training
    get_training_graph = Model.get_training_graph


def trained(network: keras.Model, make_batch: MakeBatch, *, made_of: str, **options: Any) -> KerasModel:
    """Return a network as a wrapped model; the options are those of `KerasModel`."""
    model = KerasModel(network, make_batch, **options)
    model.made_of = made_of
    return model


def untrained(network: keras.Model, make_batch: MakeBatch, *, made_of: str, reason: str) -> KerasModel:
    """Return a network as a wrapped model without training, and the reason for that."""
    model = _Inferring(network, make_batch)
    model.made_of = made_of
    model.reasons = dict.fromkeys(("run_training", "profile_training", "get_training_graph"), reason)
    return model


def noise(*shape: int, seed: int = 0) -> Array:
    """Return normally distributed numbers, the same for the same arguments."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def integers(below: int, *shape: int, seed: int = 0) -> Array:
    """Return whole numbers from 0, the same for the same arguments."""
    return np.random.default_rng(seed).integers(below, size=shape, dtype=np.int32)
