import os
import subprocess
import sys
from importlib import import_module
from statistics import median
from time import sleep

import ml_dtypes
import numpy as np
import pytest

from dnnamo.errors import LoaderError, MissingExtra, ModelError, Unsupported, WeightsError
from dnnamo.model import Capturing, StepClock, capabilities
from dnnamo.profiles.build import profile_of
from dnnamo.profiles.flops import flop_count
from dnnamo.profiles.readers import xspace
from dnnamo.records import METHODS

if "CI" not in os.environ:
    pytest.importorskip("tensorflow")

import keras
import tensorflow as tf
from keras import layers

from dnnamo.frameworks import tensorflow as framework
from dnnamo.frameworks.tensorflow import KerasModel
from dnnamo.loaders.demos import tensorflow as demos

TWO_POOLS = """
import os
from dnnamo.loaders.demos.tensorflow import keras_mlp
from dnnamo.frameworks.tensorflow import threads
keras_mlp().run_inference()
names = [open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")]
print(names.count("tf_Compute"), *threads().values())
"""


@pytest.fixture(scope="module")
def mlp() -> KerasModel:
    return demos.keras_mlp()


@pytest.fixture(scope="module")
def cnn() -> KerasModel:
    return demos.keras_cnn()


def small(*stack, loss=None, **options) -> KerasModel:
    network = keras.Sequential([keras.Input((6,)), *stack])
    return KerasModel(network, lambda: (np.ones((4, 6), np.float32), np.arange(4) % 3), loss=loss, **options)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_learns_a_fixed_batch(name, request):
    steps = request.getfixturevalue(name).run_training(10)

    (first, _), (last, score) = steps[0], steps[-1]
    assert len(steps) == 10
    assert last < first
    assert 0 <= score <= 1


def test_demos_are_reproducible(mlp):
    again, other = demos.keras_mlp(), demos.keras_mlp()

    assert again.run_training(2) == other.run_training(2)
    assert set(again.get_weights()) == set(mlp.get_weights())


@pytest.mark.parametrize("options", [{"batch": 0}, {"hidden": "many"}, {"hidden": True}])
def test_demos_refuse_sizes_that_are_none(options):
    with pytest.raises(LoaderError, match="must be a whole number"):
        demos.keras_mlp(**options)


@pytest.mark.parametrize("method", ["run_inference", "run_training", "profile_inference", "profile_training"])
def test_marks_every_step_and_makes_its_batch_outside(method):
    made = 0

    def make_batch():
        nonlocal made
        made += 1
        sleep(0.05)
        return np.ones((4, 6), np.float32), np.zeros(4, int)

    model = KerasModel(keras.Sequential([keras.Input((6,)), layers.Dense(3)]), make_batch)
    getattr(model, method)(1)
    with StepClock() as clock:
        getattr(model, method)(3)

    assert made == 4
    assert len(clock.duration_ns) == 3
    assert median(clock.duration_ns) < 50_000_000


def test_inference_returns_arrays_and_trains_nothing(cnn):
    before = cnn.get_weights()

    predictions = cnn.run_inference(2)

    assert [(type(p), p.shape) for p in predictions] == [(np.ndarray, (32, 10))] * 2
    assert np.array_equal(predictions[0], predictions[1]), "no dropout, no running statistics"
    assert all(np.array_equal(before[name], value) for name, value in cnn.get_weights().items())


def test_training_updates_running_statistics(cnn):
    name = "cnn/normalization/moving_mean"
    before = cnn.get_weights([name])[name]

    cnn.run_training(1)

    assert not np.array_equal(before, cnn.get_weights([name])[name])


def test_weights_come_back_bit_for_bit(cnn):
    saved = cnn.get_weights()
    scores = cnn.run_inference()[0]
    cnn.run_training(1)
    assert not np.array_equal(scores, cnn.run_inference()[0])

    cnn.set_weights(saved)

    assert all(value.tobytes() == saved[name].tobytes() for name, value in cnn.get_weights().items())
    assert np.array_equal(scores, cnn.run_inference()[0])


def test_weights_are_copies(mlp):
    saved = mlp.get_weights()
    copy = {name: value.copy() for name, value in saved.items()}

    mlp.run_training(1)

    assert all(np.array_equal(copy[name], saved[name]) for name in saved)


def test_gets_and_sets_only_the_named_weights(mlp):
    before = mlp.get_weights()
    bias = np.arange(10, dtype=np.float32)

    mlp.set_weights({"mlp/scores/bias": bias})

    assert list(mlp.get_weights(["mlp/scores/bias"])) == ["mlp/scores/bias"]
    after = mlp.get_weights()
    assert np.array_equal(after.pop("mlp/scores/bias"), bias)
    assert all(np.array_equal(before[name], value) for name, value in after.items())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mlp/score/bias": np.zeros(10)}, "no weights named 'mlp/score/bias' .the nearest is 'mlp/scores/bias'"),
        ({"mlp/hidden_2/bias": np.zeros(3)}, r"mlp/hidden_2/bias has shape \[3\], the model's is \[256\]"),
        ({"mlp/hidden_2/bias": ["a"] * 256}, "mlp/hidden_2/bias cannot become float32"),
        ({"nothing": 1, "mlp/hidden_2/bias": 1}, "no weights named 'nothing'; nothing was changed"),
    ],
)
def test_wrong_weights_change_nothing(mlp, wrong, message):
    before = mlp.get_weights()

    with pytest.raises(WeightsError, match=message):
        mlp.set_weights({"mlp/scores/bias": np.full(10, 7.0), **wrong})

    assert all(np.array_equal(before[name], value) for name, value in mlp.get_weights().items())


def test_refuses_to_get_unknown_weights(mlp):
    with pytest.raises(WeightsError, match="no weights named 'bias'"):
        mlp.get_weights(["mlp/scores/bias", "bias"])


def test_bfloat16_weights_stay_what_they_are():
    model = small(layers.Dense(3, dtype="bfloat16"))
    saved = model.get_weights()
    assert {value.dtype for value in saved.values()} == {np.dtype(ml_dtypes.bfloat16)}

    model.run_training(1)
    model.set_weights(saved)

    assert all(np.array_equal(saved[name], value) for name, value in model.get_weights().items())


class Unbuilt(keras.Model):
    """Learns its shapes from its first batch, takes two inputs by name, has two weights of the same path each."""

    def __init__(self):
        super().__init__(name="unbuilt")
        self.parts = [layers.Dense(4, name="dense", kernel_regularizer="l2") for _ in range(2)]

    def call(self, inputs):
        return {"sum": self.parts[0](inputs["left"]) + self.parts[1](inputs["right"])}


def test_wraps_a_subclassed_model_with_named_inputs_and_outputs():
    batch = {"left": np.ones((2, 3)), "right": np.ones((2, 5))}, np.zeros((2, 4))
    model = KerasModel(
        Unbuilt(),
        lambda: batch,
        loss=lambda targets, outputs: keras.losses.mean_squared_error(targets, outputs["sum"]),
        optimizer="adam",
    )

    shapes = {name: value.shape for name, value in model.get_weights().items()}
    (first, score), *_, (last, _) = model.run_training(20)

    path = "unbuilt/dense/"
    assert shapes == {
        f"{path}kernel": (3, 4), f"{path}bias": (4,), f"{path}kernel#2": (5, 4), f"{path}bias#2": (4,),
    }  # fmt: skip
    assert last < first
    assert score is None, "there is no default score for another loss"
    assert model.run_inference()[0]["sum"].shape == (2, 4)


def test_counts_the_models_regularisation_as_loss():
    plain, penalised = small(layers.Dense(3)), small(layers.Dense(3, kernel_regularizer=keras.regularizers.L2(10.0)))
    weights = [np.ones((6, 3)), np.zeros(3)]
    for model in (plain, penalised):
        model.set_weights(dict(zip(model.get_weights(), weights, strict=True)))

    (without, _), (with_penalty, _) = plain.run_training(1)[0], penalised.run_training(1)[0]

    assert with_penalty == pytest.approx(without + 10.0 * 18)


def test_passes_targets_and_outputs_to_loss_and_score():
    model = small(
        layers.Dropout(0.5),
        layers.Dense(1),
        loss="mse",
        score=lambda targets, outputs: 100 + np.asarray(targets).mean() + np.asarray(outputs).shape[1],
    )

    assert model.run_training(1)[0][1] == pytest.approx(101.75)


def test_graphs_hold_forward_and_backward_operations(mlp):
    inference, training = (
        [node.op for node in graph.as_graph_def().node]
        for graph in (mlp.get_inference_graph(), mlp.get_training_graph())
    )

    assert inference.count("MatMul") == 3
    assert training.count("MatMul") == 8, "three forward, three for the weights, two for the hidden layers"
    assert "ReluGrad" in training
    assert "ReluGrad" not in inference


def test_graph_file_holds_the_graph(mlp):
    graph = mlp.get_training_graph()
    function = tf.function(lambda x: x + 1).get_concrete_function(tf.constant(1.0))

    name, data = framework.graph_file(graph)

    parsed = tf.compat.v1.GraphDef.FromString(data)
    assert name == "graph.pb"
    assert [node.name for node in parsed.node] == [node.name for node in graph.as_graph_def().node]
    assert any("_output_shapes" in node.attr for node in parsed.node)
    assert framework.graph_file(function) == framework.graph_file(function.graph)
    assert framework.graph_file(graph.as_graph_def())[0] == "graph.pb"
    assert framework.graph_file(object()) is None


def test_profile_agrees_with_graph_and_clock(mlp):
    n_steps = 5
    products = [node.op for node in mlp.get_training_graph().as_graph_def().node].count("MatMul")
    mlp.run_training(3)

    with StepClock() as clock:
        native = mlp.profile_training(n_steps)
    profile, _ = profile_of(xspace.read(native))

    calls = sum(row.calls for row in profile.operations["name"] if "MatMul" in row.name)
    self_ns = sum(row.self_ns for row in profile.operations["name"])
    assert calls == products * n_steps
    assert len(profile.step_ns) == n_steps
    assert median(profile.step_ns) == pytest.approx(median(clock.duration_ns), rel=0.1)
    assert 0 < profile.covered_ns <= self_ns <= sum(clock.duration_ns) * (1 + sum(framework.threads().values()))


def test_profiles_inference(mlp):
    profile, _ = profile_of(xspace.read(mlp.profile_inference(3)))

    names = {row.name for row in profile.operations["name"]}
    assert len(profile.step_ns) == 3
    assert any("MatMul" in name for name in names)
    assert not any("Grad" in name for name in names)


def test_a_failing_step_leaves_no_profiler_running():
    batches = iter([(np.ones((4, 6)), np.zeros(4, int))] * 2)
    model = KerasModel(keras.Sequential([keras.Input((6,)), layers.Dense(3)]), lambda: next(batches))

    with pytest.raises(StopIteration):
        model.profile_training(3)

    assert small(layers.Dense(3)).profile_training(1)


def test_says_when_another_profiler_is_running(mlp, tmp_path):
    tf.profiler.experimental.start(str(tmp_path))
    try:
        with pytest.raises(ModelError, match="already running"):
            mlp.profile_inference()
    finally:
        tf.profiler.experimental.stop(save=False)


def test_what_the_profiler_cannot_record_does_not_stop_it(mlp):
    with Capturing(["shapes", "memory", "stacks"]):
        profile, _ = profile_of(xspace.read(mlp.profile_inference(2)))

    assert len(profile.steps) == 2


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_flops_are_those_of_the_products_and_little_more(mode):
    with Capturing() as capturing:
        operations = small(layers.Dense(5, activation="relu"), layers.Dense(3)).count_flops(mode)

    assert "as it was given" in capturing.limits[0]
    products = 2 * 4 * (6 * 5 + 5 * 3)
    # Backward each product takes two, but for the first, whose input has no gradient.
    backward = 2 * products - 2 * 4 * 6 * 5 if mode == "training" else 0
    assert sum(row.flops for row in operations if row.name == "MatMul") == products + backward
    count = flop_count(operations)
    assert count.uncounted == {}
    assert products + backward < count.flops < 1.6 * (products + backward)
    assert {row.name for row in operations}.isdisjoint({"Const", "Placeholder", "NoOp"})


def test_flops_have_the_scope_that_profiles_have(mlp):
    _, events = profile_of(xspace.read(mlp.profile_training(2)))

    counted = {row.layer for row in mlp.count_flops("training") if row.name == "MatMul"}

    assert len(counted) == 6
    assert counted <= set(events.layer.values)


def test_a_convolution_takes_two_flops_a_product():
    network = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(5, 3, use_bias=False, name="convolution")])
    model = KerasModel(network, lambda: (np.ones((2, 8, 8, 3), np.float32), np.zeros((2, 6, 6), int)))

    (row,) = (row for row in model.count_flops("inference") if row.name == "Conv2D")

    assert row.flops == 2 * (2 * 6 * 6 * 5) * (3 * 3 * 3)


class Calls(keras.Model):
    """Calls a function of its own, which TensorFlow keeps as one in the graph."""

    @tf.function
    def product(self, inputs):
        return tf.matmul(inputs, inputs, transpose_b=True)

    def call(self, inputs):
        return self.product(inputs)


def test_a_function_within_the_graph_is_counted_too():
    model = KerasModel(Calls(), lambda: (np.ones((4, 6), np.float32), np.arange(4)))

    operations = model.count_flops("inference")

    assert sum(row.flops for row in operations if row.name == "MatMul") == 2 * 4 * 4 * 6


class Loops(layers.Layer):
    def call(self, inputs):
        times = tf.size(inputs)
        return tf.while_loop(lambda left, _: left > 0, lambda left, x: (left - 1, x * 2), (times, inputs))[1]


class Unshaped(layers.Layer):
    """Calls a function that was traced for a batch of any size."""

    @tf.function
    def call(self, inputs):
        return tf.matmul(inputs, inputs, transpose_b=True)


@pytest.mark.parametrize(("layer", "uncounted"), [(Loops, "StatelessWhile"), (Unshaped, "MatMul")])
def test_what_the_graph_does_not_say_is_unknown_and_not_nothing(layer, uncounted):
    count = flop_count(small(layer()).count_flops("inference"))

    assert count.uncounted == {uncounted: 1}
    assert count.coverage < 1


def test_implements_the_whole_interface(mlp):
    assert capabilities(mlp) == list(METHODS)


def test_refuses_what_is_no_keras_model():
    with pytest.raises(LoaderError, match=r"wraps a keras\.Model; it was given a builtins\.dict"):
        KerasModel({}, lambda: ((), ()))


def test_refuses_a_batch_without_targets():
    model = KerasModel(keras.Sequential([keras.Input((6,)), layers.Dense(3)]), lambda: np.ones((4, 6)))

    with pytest.raises(ModelError, match=r"must return a tuple \(inputs, targets\); it returned a ndarray"):
        model.run_inference()


def test_refuses_a_gpu_where_there_is_none():
    framework.check_device("cpu")
    if not tf.config.list_physical_devices("GPU"):
        with pytest.raises(Unsupported, match="sees none"):
            framework.check_device("gpu")


def test_names_its_libraries():
    libraries = framework.libraries()

    assert (libraries["tensorflow"], libraries["keras"]) == (tf.__version__, keras.__version__)


def test_thread_pools_have_the_sizes_of_the_environment():
    environment = os.environ | {"TF_NUM_INTRAOP_THREADS": "2", "TF_NUM_INTEROP_THREADS": "3"}
    command = [sys.executable, "-c", TWO_POOLS]

    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    assert output.split() == ["3", "2", "3"]


def test_names_the_extra_where_tensorflow_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.delitem(sys.modules, "dnnamo.frameworks.tensorflow")

    with pytest.raises(MissingExtra, match=r"dnnamo\[tensorflow\]"):
        import_module("dnnamo.frameworks.tensorflow")
