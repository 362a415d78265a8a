"""Small Keras networks on synthetic data, each sized to run in seconds on one core."""

from dnnamo.frameworks.tensorflow import KerasModel
from dnnamo.loaders.demos import check_sizes

import keras  # isort: skip (after KerasModel, which tells what to install where TensorFlow is missing)
import numpy as np
import tensorflow as tf
from keras import layers

__all__ = ["keras_cnn", "keras_mlp"]


def keras_mlp(batch: int = 64, hidden: int = 256) -> KerasModel:
    """Return a perceptron of two hidden layers on `batch` vectors of 64 features, 10 classes."""
    check_sizes(batch=batch, hidden=hidden)
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(hidden, activation="relu", name="hidden_1"),
            layers.Dense(hidden, activation="relu", name="hidden_2"),
            layers.Dense(10, name="scores"),
        ],
        name="mlp",
    )
    data = _data(batch, 64)
    return KerasModel(network, lambda: data, optimizer=keras.optimizers.SGD(0.1))


def keras_cnn(batch: int = 32) -> KerasModel:
    """Return a convolutional network on `batch` images of 28 by 28 pixels, 10 classes."""
    check_sizes(batch=batch)
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 3, padding="same", name="convolution_1"),
            layers.BatchNormalization(name="normalization"),
            layers.ReLU(name="relu"),
            layers.MaxPooling2D(name="pooling_1"),
            layers.Conv2D(32, 3, padding="same", activation="relu", name="convolution_2"),
            layers.MaxPooling2D(name="pooling_2"),
            layers.Flatten(name="flatten"),
            layers.Dense(10, name="scores"),
        ],
        name="cnn",
    )
    data = _data(batch, 28, 28, 1)
    return KerasModel(network, lambda: data, optimizer=keras.optimizers.SGD(0.05, momentum=0.9))


def _data(*shape: int) -> tuple[tf.Tensor, tf.Tensor]:
    random = np.random.default_rng(0)
    inputs, targets = random.standard_normal(shape, dtype=np.float32), random.integers(10, size=shape[0])
    return tf.convert_to_tensor(inputs), tf.convert_to_tensor(targets)
