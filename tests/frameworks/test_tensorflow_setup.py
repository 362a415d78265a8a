import os

import numpy as np
import pytest

from dnnamo.errors import Unsupported
from dnnamo.records import Setup

if "CI" not in os.environ:
    pytest.importorskip("tensorflow")

import keras
import tensorflow as tf
from keras import layers

from dnnamo.frameworks.tensorflow import KerasModel

PRECISIONS = [
    ("float32", "float32", "float32"),
    ("bfloat16", "bfloat16", "bfloat16"),
    ("float16", "float16", "float16"),
    ("mixed_bfloat16", "float32", "bfloat16"),
    ("mixed_float16", "float32", "float16"),
]

IMAGES = np.random.default_rng(0).standard_normal((4, 8, 8, 3)).astype(np.float32)


def network() -> keras.Model:
    """Layers with weights that are not trained, layers in layers, and operations that are no layers."""
    images = keras.Input((8, 8, 3))
    value = layers.BatchNormalization()(layers.Conv2D(4, 3)(images))
    value = layers.Reshape((36, 4))(keras.ops.relu(value))
    value = value + layers.MultiHeadAttention(2, 4)(value, value)
    inner = keras.Sequential([layers.LayerNormalization(), layers.Dense(5), layers.Dropout(0.5)])
    return keras.Model(images, layers.Dense(3)(keras.ops.mean(inner(value), axis=1)))


class Subclassed(keras.Model):
    """Not built before its first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = layers.Dense(3)

    def call(self, inputs):
        return self.scores(keras.ops.mean(inputs, axis=(1, 2)))


def wrapped(model: keras.Model | None = None, *, batches=None, **options) -> KerasModel:
    given = iter(batches or [])
    fixed = IMAGES, np.arange(4) % 3
    return KerasModel(model or network(), lambda: next(given, fixed), **options)


def set_up(model: KerasModel, **options) -> KerasModel:
    model.configure(Setup(**options))
    return model


@pytest.fixture(autouse=True)
def same_weights():
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize(("precision", "weights", "computed"), PRECISIONS)
@pytest.mark.parametrize("make", [network, Subclassed])
def test_a_model_computes_as_one_that_was_built_under_the_policy(precision, weights, computed, make):
    model = make()
    model(IMAGES)
    values = [variable.numpy() for variable in model.weights]
    set_up(wrapped(model), precision=precision)
    keras.config.set_dtype_policy(precision)
    other = make()
    other(IMAGES)
    other.set_weights(values)

    given, expected = (each(IMAGES, training=False) for each in (model, other))

    assert given.dtype.name == expected.dtype.name == computed
    assert np.array_equal(tf.cast(given, tf.float32), tf.cast(expected, tf.float32))
    assert [variable.dtype for variable in model.weights] == [variable.dtype for variable in other.weights]
    assert {variable.dtype for variable in model.trainable_weights} == {weights}


@pytest.mark.parametrize(("precision", "weights", "computed"), PRECISIONS)
def test_a_model_that_was_cast_learns_and_keeps_its_types(precision, weights, computed):
    model = set_up(wrapped(), precision=precision)

    losses = [loss for loss, _ in model.run_training(5)]

    assert np.isfinite(losses).all()
    assert {variable.dtype for variable in model._model.trainable_weights} == {weights}


def test_weights_and_predictions_have_the_type_that_they_were_cast_to():
    half = set_up(wrapped(), precision="float16")
    assert {value.dtype for name, value in half.get_weights().items() if "seed" not in name} == {np.dtype(np.float16)}
    assert half.run_inference()[0].dtype == np.float16

    predictions = set_up(wrapped(), precision="bfloat16").run_inference()[0].astype(np.float32)
    assert np.array_equal(predictions, tf.cast(tf.cast(predictions, tf.bfloat16), tf.float32))


def test_a_type_that_weights_are_cast_to_is_that_of_weights_set_later():
    model = set_up(wrapped(Subclassed()), precision="float16")
    (name,) = [name for name in model.get_weights() if name.endswith("bias")]
    model.set_weights({name: np.full(3, 1 / 3)})

    assert np.array_equal(model.get_weights([name])[name], np.full(3, 1 / 3, np.float16))


def test_gradients_that_float16_has_no_number_for_are_scaled():
    def tiny(targets, outputs):
        return tf.reduce_sum(tf.cast(outputs, tf.float32)) * 1e-9

    model = set_up(wrapped(Subclassed(), loss=tiny, optimizer=keras.optimizers.SGD(1e7)), precision="mixed_float16")
    (name,) = [name for name in model.get_weights() if name.endswith("bias")]
    before = model.get_weights()[name]
    model.run_training()

    assert np.allclose(before - model.get_weights()[name], 4e-9 * 1e7, rtol=0.01)


def test_accumulated_minibatches_make_one_update_by_the_gradient_of_the_joined_batch():
    random = np.random.default_rng(0)
    batches = [(random.standard_normal((4, 8, 8, 3), np.float32), random.integers(3, size=4)) for _ in range(6)]
    joined = [tuple(map(np.concatenate, zip(*batches[i : i + 3], strict=True))) for i in (0, 3)]
    parts, whole = (
        wrapped(Subclassed(), batches=[batches[0], *batches]),
        wrapped(Subclassed(), batches=[batches[0], *joined]),
    )
    set_up(parts, accumulate=3)
    whole.set_weights(dict(zip(whole.get_weights(), parts.get_weights().values(), strict=True)))

    losses, expected = parts.run_training(2), whole.run_training(2)

    assert np.allclose(losses, expected, rtol=1e-5)
    for value, other in zip(parts.get_weights().values(), whole.get_weights().values(), strict=True):
        assert np.allclose(value, other, rtol=1e-5, atol=1e-7)


def test_embeddings_are_accumulated_too():
    model = keras.Sequential(
        [keras.Input((2,), dtype="int32"), layers.Embedding(5, 4), layers.Flatten(), layers.Dense(3)]
    )
    batch = np.array([[0, 1], [2, 2]]), np.array([0, 1])

    assert len(set_up(wrapped(model, batches=[batch] * 4), accumulate=2).run_training(2)) == 2


def test_steps_are_compiled_with_xla():
    model, plain = wrapped(), wrapped(Subclassed())
    set_up(model, jit_compile=True)
    expected = model._model(IMAGES, training=False)

    assert np.allclose(model.run_inference()[0], expected, atol=1e-5)
    assert len(model.run_training(2)) == 2
    for graph, compiled in ((model._training_step, True), (plain._training_step, False)):
        assert bool(graph.function_spec.jit_compile) is compiled


def test_channels_last_is_what_keras_does_and_a_layer_that_does_not_is_named():
    assert set_up(wrapped(), channels_last=True).run_inference()[0].shape == (4, 3)

    pooled = keras.Sequential([keras.Input((3, 8, 8)), layers.GlobalAveragePooling2D("channels_first", name="pool")])
    with pytest.raises(Unsupported, match="its layer pool has data_format='channels_first'"):
        set_up(wrapped(pooled), channels_last=True)


def test_the_compiler_of_pytorch_is_not_tensorflows():
    with pytest.raises(Unsupported, match="`compile` is PyTorch's"):
        set_up(wrapped(), compile="default")


@pytest.mark.parametrize("options", [{"precision": "float16"}, {"accumulate": 2}])
def test_an_optimizer_that_has_state_is_left_as_it_is(options):
    model = wrapped()
    model.run_training()

    with pytest.raises(Unsupported, match="its optimizer has state already"):
        set_up(model, **options)
    assert len(model.run_training()) == 1
