import itertools
import os
import weakref

import ml_dtypes
import numpy as np
import pytest

from dnnamo.errors import NoSuchIntermediate
from dnnamo.records import Setup

if "CI" not in os.environ:
    pytest.importorskip("tensorflow")

import keras
import tensorflow as tf
from keras import layers

from dnnamo.frameworks.tensorflow import KerasModel

INPUTS = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


def functional() -> keras.Model:
    """A layer called twice, a model within, an operation that is no layer, and two outputs."""
    inputs = keras.Input((4,))
    twice = layers.Dense(4, name="twice")
    inner = keras.Sequential([layers.Dense(3, name="inside"), layers.Dropout(0.5, name="drop")], name="inner")
    value = inner(layers.BatchNormalization(name="norm")(twice(twice(inputs))))
    return keras.Model(inputs, [keras.ops.relu(value), value], name="outer")


class Noise(layers.Layer):
    """Draws numbers at inference too, and computes within a graph."""

    def __init__(self) -> None:
        super().__init__(name="noise")
        self.seeds = keras.random.SeedGenerator(3)

    @tf.function
    def call(self, inputs):
        return inputs + keras.random.normal(keras.ops.shape(inputs), seed=self.seeds)


class Subclassed(keras.Model):
    """Has state that a pass changes, seeds, and a functional model within; is not built before its first batch."""

    def __init__(self) -> None:
        super().__init__(name="subclassed")
        self.core = functional()
        self.memory = layers.LSTM(2, stateful=True, name="memory")
        self.noise = Noise()
        self.scores = layers.Dense(3, name="scores")

    def call(self, inputs, training=False):
        _, value = self.core(inputs, training=training)
        return self.scores(self.noise(self.memory(value[:, None])))


def wrapped(model: keras.Model, batch=None) -> KerasModel:
    return KerasModel(model, batch or (lambda: (INPUTS, np.zeros(len(INPUTS), np.int64))), loss=scores)


def scores(_, outputs):
    return keras.ops.square(outputs if tf.is_tensor(outputs) else outputs[0])


def test_outputs_of_a_functional_model_come_by_the_names_of_layers_and_operations():
    found = wrapped(functional()).get_intermediates()

    names = [name for name in found if "relu" not in name]
    assert names == [
        "outer/twice", "outer/twice#2", "outer/norm", "outer/inner/inside", "outer/inner/drop", "outer/inner",
        "outer.0", "outer.1",
    ]  # fmt: skip
    assert len(found) - len(names) == 1


def test_they_are_what_the_layers_compute():
    model = keras.Sequential([layers.Dense(5, activation="relu", name="a"), layers.Dense(2, name="b")], name="both")

    found = wrapped(model).get_intermediates()

    assert list(found) == ["both/a", "both/b", "both"]
    first = model.layers[0](INPUTS)
    assert found["both/a"].tobytes() == first.numpy().tobytes()
    assert found["both"].tobytes() == found["both/b"].tobytes() == model.layers[1](first).numpy().tobytes()


def test_outputs_with_several_uses_are_those_of_keras():
    model = functional()

    found = wrapped(model).get_intermediates()

    relu, value = model(INPUTS, training=False)
    assert found["outer.0"].tobytes() == relu.numpy().tobytes()
    assert found["outer.1"].tobytes() == value.numpy().tobytes()


def test_a_functional_model_lets_go_of_each_output_after_its_last_use():
    made, alive = [], []

    class Step(layers.Layer):
        def call(self, first, last):
            made.append(weakref.ref(last))
            alive.append(sum(it() is not None for it in made))
            return first + last

    inputs = keras.Input((4,))
    first = value = layers.Dense(4)(inputs)
    for _ in range(8):
        value = Step()(first, value)
    model = wrapped(keras.Model(inputs, value))
    made.clear()
    alive.clear()

    model.get_intermediates(receive=lambda *_: None)

    assert alive == [1, 2, 2, 2, 2, 2, 2, 2]


def test_outputs_of_a_subclassed_model_with_parts_of_a_state():
    found = wrapped(Subclassed()).get_intermediates(["subclassed*"])

    assert {"subclassed", "subclassed/scores", "subclassed/noise", "subclassed/outer/inner/inside"} <= set(found)
    assert found["subclassed/outer.1"].shape == (3, 3)
    assert found["subclassed/memory/lstm_cell.1.0"].shape == (3, 2)


def test_keys_choose_and_unknown_ones_are_named():
    model = wrapped(functional())

    assert list(model.get_intermediates(["outer/twice", "*/inner/*"])) == [
        "outer/twice", "outer/inner/inside", "outer/inner/drop",
    ]  # fmt: skip
    with pytest.raises(NoSuchIntermediate, match="'outer/nrom' \\(the nearest is 'outer/norm'\\)"):
        model.get_intermediates(["outer/nrom"])


@pytest.mark.parametrize("source", ["drawn", "counted"])
def test_results_are_the_same_to_the_bit_with_and_without(source):
    def results(look: bool):
        keras.utils.set_random_seed(5)
        count = itertools.count()
        draw = np.random.standard_normal if source == "drawn" else lambda shape: np.full(shape, next(count))
        model = wrapped(Subclassed(), lambda: (draw((3, 4)).astype(np.float32), np.zeros(3)))
        for _ in range(3):
            if look:
                model.get_intermediates()
            yield model.run_inference(1)[0].tobytes()
            yield model.run_training(2)
        yield [value.tobytes() for value in model.get_weights().values()]

    assert list(results(look=True)) == list(results(look=False))


def test_numbers_without_a_seed_of_their_own_go_on_as_before():
    class Draws(layers.Layer):
        def call(self, inputs):
            return inputs + keras.random.normal((4,))

    keras.random.normal((1,))
    keras.utils.set_random_seed(0)
    keras.random.normal((1,))
    expected = keras.random.normal((4,)).numpy()
    model = wrapped(keras.Sequential([Draws()]))
    model.get_intermediates()  # builds it
    keras.utils.set_random_seed(0)
    keras.random.normal((1,))
    model.get_intermediates()

    assert keras.random.normal((4,)).numpy().tobytes() == expected.tobytes()


def test_a_receiver_takes_each_and_one_that_fails_ends_the_pass_with_its_own_error():
    names = []
    assert wrapped(functional()).get_intermediates(receive=lambda name, _: names.append(name)) == {}
    assert len(names) == 9

    def fail(name, _):
        raise OSError(f"no room for {name}")

    with pytest.raises(OSError, match="^no room for outer/twice$"):
        wrapped(functional()).get_intermediates(receive=fail)


def test_keras_is_as_before():
    call = keras.Operation.__call__

    with pytest.raises(NoSuchIntermediate):
        wrapped(functional()).get_intermediates(["x"])

    assert keras.Operation.__call__ is call
    assert not tf.config.functions_run_eagerly()


def test_types_stay_as_they_are():
    model = wrapped(functional())
    model.configure(Setup(precision="mixed_bfloat16"))

    assert model.get_intermediates()["outer/twice"].dtype == ml_dtypes.bfloat16


def test_other_models_are_not_seen():
    other = keras.Sequential([layers.Dense(2)])

    class Calls(keras.Model):
        def call(self, inputs):
            return inputs * 2

    def batch():
        return other(INPUTS), np.zeros(3)

    assert list(wrapped(Calls(name="calls"), batch).get_intermediates()) == ["calls"]
