"""A Keras network as a wrapped model: try `dnnamo profile examples/keras_model.py -p batch=16`."""

import keras
import numpy as np

from dnnamo.frameworks.tensorflow import KerasModel


def __dnnamo_loader__(batch: int = 32) -> KerasModel:
    network = keras.Sequential([keras.Input((100,)), keras.layers.Dense(200, "relu"), keras.layers.Dense(5)])
    random = np.random.default_rng(0)
    return KerasModel(network, lambda: (random.normal(size=(batch, 100)), random.integers(5, size=batch)))
