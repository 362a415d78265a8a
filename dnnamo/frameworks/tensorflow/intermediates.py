"""What the layers of a Keras model put out in one pass, seen as it comes, with the model left as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common import global_state

from dnnamo.frameworks.tensorflow.frugal import frugal
from dnnamo.intermediates.tap import Receive, Tap

__all__ = ["left_as_it_was", "tapped"]


@contextmanager
def tapped(model: keras.Model, keys: Any, receive: Receive) -> Iterator[None]:
    """Compute eagerly in this block, and see what is put out by whatever the model calls there on this thread.

    Seen are layers, and the operations of `keras.ops` that a functional model is made of. Keras has no hooks, so it is
    their common `__call__` that is another one meanwhile.

    Args:
        model: The model.
        keys: Which outputs; None for all.
        receive: Takes identifier and array of each.

    Raises:
        NoSuchIntermediate: If a key stands for none.
    """
    tap = Tap(keys, receive, is_array=_is_array, to_array=_to_array)
    call, thread = keras.Operation.__call__, get_ident()
    path: list[str] = []

    def seen(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if get_ident() != thread or not (path or operation is model):
            return call(operation, *args, **kwargs)
        path.append(operation.name)
        try:
            output = call(operation, *args, **kwargs)
            tap.offer("/".join(path), output)
        finally:
            path.pop()
        return output

    traced = tf.config.functions_run_eagerly()
    keras.Operation.__call__ = seen
    tf.config.run_functions_eagerly(True)
    try:
        with tap.passing(), frugal():
            yield
    finally:
        keras.Operation.__call__ = call
        tf.config.run_functions_eagerly(traced)


def _is_array(value: Any) -> bool:
    if isinstance(value, tf.SparseTensor):
        return True
    is_there = isinstance(value, tf.Tensor) and hasattr(value, "numpy")  # as it is not within a graph
    return is_there and (value.dtype.is_bool or value.dtype.is_complex or value.dtype.is_floating or _is_integer(value))


def _is_integer(value: tf.Tensor) -> bool:
    return bool(value.dtype.is_integer and not value.dtype.is_quantized)


def _to_array(value: Any) -> Any:
    return (tf.sparse.to_dense(value) if isinstance(value, tf.SparseTensor) else value).numpy()


@contextmanager
def left_as_it_was(model: keras.Model) -> Iterator[None]:
    """Put back, at the end, what a pass may change: seeds, and the state that layers keep beside trained weights."""
    kept = [(variable, tf.identity(variable.value)) for variable in _states(model)]
    try:
        yield
    finally:
        for variable, value in kept:
            variable.assign(value)


def _states(model: keras.Model) -> Iterator[Any]:
    """Yield variables that are no weights, and those that are but are not trained; not the weights of frozen layers."""
    for layer in model._flatten_layers(include_self=True, recursive=True):
        yield from (seeds.state for seeds in layer._seed_generators)
        if isinstance(layer, keras.layers.RNN):  # which Keras does not count among its variables
            yield from (state for state in keras.tree.flatten(layer.states) if state is not None)
        if layer.trainable:
            yield from layer._non_trainable_variables
    # What a layer without a seed of its own draws from, once something has.
    if (seeds := global_state.get_global_attribute("global_seed_generator")) is not None:
        yield seeds.state
