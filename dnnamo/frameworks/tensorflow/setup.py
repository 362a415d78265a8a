"""How a Keras model computes: number types and gradient accumulation, as a job's `Setup` asks."""

from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from dnnamo.errors import Unsupported
from dnnamo.records import Setup

__all__ = ["set_up"]


def set_up(model: keras.Model, optimizer: Any, setup: Setup) -> Any:
    """Change a built model in place so that it computes as a job asks, and return the optimizer for that.

    Raises:
        Unsupported: If Keras cannot do it; then nothing was changed.
    """
    _check(model, optimizer, setup)
    if setup.precision is not None:
        _set_precision(model, keras.dtype_policies.get(setup.precision))
    if setup.accumulate > 1:
        optimizer.gradient_accumulation_steps = setup.accumulate  # looked at when it is built
    if setup.precision == "mixed_float16" and not isinstance(optimizer, keras.mixed_precision.LossScaleOptimizer):
        return keras.mixed_precision.LossScaleOptimizer(optimizer)  # gradients would vanish without
    return optimizer


def _check(model: keras.Model, optimizer: Any, setup: Setup) -> None:
    if setup.compile is not None:
        raise Unsupported("`compile` is PyTorch's, and this is a Keras model. TensorFlow's own is jit_compile.")
    if setup.channels_last:
        _check_channels(model)
    if optimizer.built and (setup.precision is not None or setup.accumulate > 1):
        raise Unsupported(
            "its optimizer has state already, which precision and accumulate decide the form of. Give KerasModel an "
            "optimizer that has not been built."
        )


def _check_channels(model: keras.Model) -> None:
    """Refuse a layer with its channels first: the layout is part of its meaning in Keras, and last by default."""
    for layer in _layers(model):
        if getattr(layer, "data_format", None) == "channels_first":
            raise Unsupported(
                f"its layer {layer.name} has data_format='channels_first', which in Keras is part of the model; build "
                "it with channels_last."
            )


def _set_precision(model: keras.Model, policy: Any) -> None:
    """Have all layers compute by a policy, as if they had been made under it; weights are rounded to its type."""
    for layer in _layers(model):
        if keras.backend.is_float_dtype(layer.compute_dtype):
            had = layer.variable_dtype
            layer.dtype_policy = policy
            for variable in layer._trainable_variables + layer._non_trainable_variables:  # without its sublayers'
                if variable.dtype == had:
                    _cast(variable, policy.variable_dtype)


def _cast(variable: Any, dtype: str) -> None:
    # Keras has no public way. To clone a model from its config loses custom calls, and fails for `keras.ops` in it.
    if variable.dtype != dtype:
        value = tf.cast(variable.value, dtype)
        variable._dtype = dtype
        variable._initialize(value)


def _layers(model: keras.Model) -> Iterator[Any]:
    yield from model._flatten_layers(include_self=True, recursive=True)
