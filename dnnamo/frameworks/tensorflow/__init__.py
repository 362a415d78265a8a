"""TensorFlow: the base wrapper for any Keras model, and the framework's plug-in functions."""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from dnnamo.errors import LoaderError, MissingExtra, ModelError, Unsupported, WeightsError
from dnnamo.model import Model, report_limit, report_loss, requested_capture, step
from dnnamo.records import Device, Setup

try:
    import tensorflow as tf
except ModuleNotFoundError as error:
    raise MissingExtra("TensorFlow", extra="tensorflow") from error

import keras
import numpy as np

from dnnamo.frameworks.batches import Batches, PlainDraws
from dnnamo.frameworks.outputs import Outputs, forgotten
from dnnamo.frameworks.tensorflow.graphs import graph_file, graph_of, name_weights
from dnnamo.frameworks.tensorflow.intermediates import left_as_it_was, tapped
from dnnamo.frameworks.tensorflow.setup import set_up
from dnnamo.selection import refuse_unknown_weights

if TYPE_CHECKING:
    from dnnamo.profiles.flops import CountedOperation

__all__ = ["KerasModel", "accuracy", "graph_file", "graph_of"]

Array = np.ndarray[Any, Any]
Batch = tuple[Any, Any]
Mark = Callable[[], AbstractContextManager[Any]]
OneStep = Callable[[Batch, Mark], Any]

_XSPACE_SUFFIX = ".xplane.pb"


def accuracy(targets: Any, outputs: Any) -> float:
    """Return the fraction of targets (class indices) that the outputs (class scores, last axis) rank first."""
    best = np.argmax(outputs, axis=-1)
    return float(np.mean(best == np.reshape(targets, best.shape)))


class KerasModel(Model):
    """Any Keras model as a wrapped model.

    Args:
        model: The network; its own `compile` settings are not looked at.
        make_batch: Returns one batch (inputs, targets). Called once a step, outside of the timed part. Inputs and
            targets are an array each, or a tuple, list or dict of arrays as the model and the loss take them.
        loss: Whatever `keras.losses.get` takes, from (targets, outputs) to losses, whose mean is minimised; by default
            cross entropy of class indices and unscaled class scores. The model's own regularisation is added.
        optimizer: Whatever `keras.optimizers.get` takes; plain SGD with a rate of 0.01 by default.
        score: From (targets, outputs) to a number or numbers, whose mean is the score; by default accuracy with the
            default loss and none with another.
    """

    marks_steps = True

    def __init__(
        self,
        model: keras.Model,
        make_batch: Callable[[], Batch],
        *,
        loss: Any = None,
        optimizer: Any = None,
        score: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        _check_model(model)
        self._model = model
        self._make_batch = Batches(make_batch, PlainDraws())
        self._loss = _loss_function(loss)
        self._optimizer = keras.optimizers.get(optimizer or keras.optimizers.SGD(0.01))
        self._score = accuracy if score is None and loss is None else score
        self._make_steps(Setup())
        self._has_gpu = bool(tf.config.list_physical_devices("GPU"))
        self._asynchronous = True

    def _make_steps(self, setup: Setup) -> None:
        self._accumulate = setup.accumulate

        # Plain functions: what they are bound to costs methods 13 us a call, 1 % of a step of demo:keras_cnn.
        def forward(inputs: Any) -> Any:
            return self._forward(inputs)

        def forward_backward(inputs: Any, targets: Any) -> Any:
            return self._forward_backward(inputs, targets)

        self._inference_step = tf.function(forward, jit_compile=setup.jit_compile or None)
        self._training_step = tf.function(forward_backward, jit_compile=setup.jit_compile or None)

    def configure(self, setup: Setup) -> None:
        """Have the model compute as a job asks: see `dnnamo.frameworks.tensorflow.setup`.

        The precision becomes the dtype policy of all layers, and weights are rounded to its type; with `mixed_float16`
        gradients are scaled. Minibatches are accumulated by the optimizer, so one whose scaled gradients overflow
        counts as none. Channels last is what Keras does anyway.
        """
        if not self._model.built:
            self._batch()
        self._optimizer = set_up(self._model, self._optimizer, setup)
        self._make_steps(setup)

    def get_inference_graph(self) -> tf.Graph:
        """Return the graph of one inference step, for a batch of the same shapes."""
        inputs, _ = self._batch()
        return self._named(self._inference_step.get_concrete_function(inputs).graph)

    def get_training_graph(self) -> tf.Graph:
        """Return the graph of one training step: forward and backward pass and the optimizer's update."""
        batch = self._batch()
        self._build_optimizer()
        return self._named(self._training_step.get_concrete_function(*batch).graph)

    def _named(self, graph: tf.Graph) -> tf.Graph:
        return name_weights(graph, {name: variable.value for name, variable in self._variables().items()})

    def get_weights(self, keys: Iterable[str] | None = None) -> dict[str, Array]:
        """Return the model's weights by variable path; bfloat16 is `ml_dtypes`'."""
        variables = self._variables()
        names = list(variables) if keys is None else list(keys)
        refuse_unknown_weights(names, variables)
        return {name: _to_array(variables[name].value) for name in names}

    def set_weights(self, kv: Mapping[str, Any]) -> None:
        """Assign arrays to the named weights; all are checked before the first is changed."""
        variables = self._variables()
        refuse_unknown_weights(kv, variables)
        values, wrong = _converted(kv, variables)
        if wrong:
            raise WeightsError(f"No weight was changed: {'; '.join(wrong)}.")
        for name, value in values.items():
            variables[name].assign(value)

    def run_inference(self, n_steps: int = 1) -> list[Any]:
        """Return the outputs for `n_steps` batches, tensors as numpy arrays."""
        outputs = Outputs(tf.nest.map_structure, _to_array)
        return outputs.arrays(self._run(lambda *given: outputs.keep(self._infer(*given)), [nullcontext] * n_steps))

    def run_training(self, n_steps: int = 1) -> list[tuple[float, float | None]]:
        """Train on `n_steps` batches; return loss and score of each."""
        return self._run(self._train, [nullcontext] * n_steps)

    def profile_inference(self, n_steps: int = 1) -> bytes:
        """Return the XSpace of `n_steps` inference steps, serialized."""
        return self._profile(self._infer, n_steps, "inference")

    def profile_training(self, n_steps: int = 1) -> bytes:
        """Return the XSpace of `n_steps` training steps, serialized."""
        return self._profile(self._train, n_steps, "train")

    def count_flops(self, mode: Literal["inference", "training"]) -> "list[CountedOperation]":
        """Count the floating-point operations of one step from its graph, as TensorFlow was given it."""
        from dnnamo.frameworks.tensorflow.flops import counted_operations

        report_limit(
            "Floating-point operations were counted in the graph as it was given: those of operations that TensorFlow "
            "then fused stand under the parts' names."
        )
        return counted_operations(self.get_inference_graph() if mode == "inference" else self.get_training_graph())

    def get_intermediates(
        self, keys: Iterable[str] | None = None, receive: Callable[[str, Any], None] | None = None
    ) -> dict[str, Array]:
        """Return what each layer puts out for the batch that the next step takes, computed eagerly.

        Identifiers are the names of the layers that are called within one another, `model/block/dense`. The state of
        layers and the random numbers that come next are afterwards as before.

        Raises:
            NoSuchIntermediate: If a key stands for none.
        """
        kept: dict[str, Array] = {}
        keep = receive or (lambda name, array: kept.update({name: array}))
        with self._make_batch.peek() as batch:
            inputs, _ = self._placed(batch)
            with left_as_it_was(self._model), tapped(self._model, keys, keep):
                self._forward(inputs)
        return kept

    def _run(self, one_step: OneStep, marks: list[Mark]) -> list[Any]:
        # Looked up here and not in each step: it takes 15 us there, 1 % of a step of demo:keras_cnn.
        self._asynchronous = self._has_gpu or not tf.config.experimental.get_synchronous_execution()
        return [one_step(self._batch(), mark) for mark in marks]

    def _profile(self, one_step: OneStep, n_steps: int, name: str) -> bytes:
        mark = partial(tf.profiler.experimental.Trace, name, _r=1)
        with tempfile.TemporaryDirectory(prefix="dnnamo-trace-") as folder:
            with _profiler(folder):
                self._run(forgotten(one_step), [partial(mark, step_num=index) for index in range(n_steps)])
            return _newest_trace(Path(folder)).read_bytes()

    def _infer(self, batch: Batch, mark: Mark) -> Any:
        with step(), mark():
            outputs = self._inference_step(batch[0])
            self._synchronise()
        return outputs

    def _train(self, batch: Batch, mark: Mark) -> tuple[float, float | None]:
        batches = [batch, *(self._batch() for _ in range(self._accumulate - 1))]
        self._build_optimizer()
        with step(), mark():
            passes = [self._training_step(*each) for each in batches]
            self._synchronise()
        report_loss(value := fmean(float(loss) for loss, _ in passes))
        return value, self._mean_score([targets for _, targets in batches], [outputs for _, outputs in passes])

    def _mean_score(self, targets: list[Any], outputs: list[Any]) -> float | None:
        score = self._score
        if score is None:
            return None
        return fmean(float(np.mean(score(*pair))) for pair in zip(targets, outputs, strict=True))

    def _forward(self, inputs: Any) -> Any:
        return self._model(inputs, training=False)

    def _forward_backward(self, inputs: Any, targets: Any) -> tuple[Any, Any]:
        variables = self._model.trainable_variables
        with tf.GradientTape() as tape:
            outputs = self._model(inputs, training=True)
            loss = tf.reduce_mean(self._loss(targets, outputs))
            for penalty in self._model.losses:
                loss += tf.cast(tf.reduce_sum(penalty), loss.dtype)
            scaled = self._optimizer.scale_loss(loss)
        self._optimizer.apply(tape.gradient(scaled, variables), variables)
        return loss, outputs

    def _build_optimizer(self) -> None:
        if not self._optimizer.built:
            self._optimizer.build(self._model.trainable_variables)

    def _batch(self) -> Batch:
        return self._placed(self._make_batch())

    def _placed(self, batch: Any) -> Batch:
        if not (isinstance(batch, tuple) and len(batch) == 2):
            raise ModelError(f"make_batch must return a tuple (inputs, targets); it returned a {type(batch).__name__}.")
        inputs, targets = tf.nest.map_structure(_to_tensor, batch)
        if not self._model.built:  # one that learns its shapes from its first batch
            self._model(inputs, training=False)
        return inputs, targets

    def _synchronise(self) -> None:
        # On a CPU a function has done its work when it returns, and the call would cost 25 us a step.
        if self._asynchronous:
            tf.test.experimental.sync_devices()

    def _variables(self) -> dict[str, Any]:
        if not self._model.built:
            self._batch()
        return _by_unique_path(self._model.weights)


def _check_model(model: object) -> None:
    if not isinstance(model, keras.Model):
        raise LoaderError(
            f"KerasModel wraps a keras.Model; it was given a {type(model).__module__}.{type(model).__qualname__}."
        )
    if keras.backend.backend() != "tensorflow":
        raise LoaderError(
            f"KerasModel needs Keras to run on TensorFlow; here it runs on {keras.backend.backend()}. Set "
            "KERAS_BACKEND=tensorflow."
        )


def _loss_function(loss: Any) -> Any:
    found = keras.losses.get(loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    if not callable(found):
        raise LoaderError(f"loss is {loss!r}; it must be a Keras loss, its name, or a function (targets, outputs).")
    return found


def _to_tensor(value: Any) -> Any:
    return value if tf.is_tensor(value) else tf.convert_to_tensor(value)


def _to_array(value: Any) -> Any:
    """Return a dense tensor as an array of its own; anything else as it is."""
    if not isinstance(value, tf.Tensor | tf.Variable):
        return value
    return value.numpy()


def _by_unique_path(variables: Iterable[Any]) -> dict[str, Any]:
    """Name variables by path; of several with one path the second becomes `path#2`, and so on."""
    variables = list(variables)
    taken = {variable.path for variable in variables}
    named: dict[str, Any] = {}
    for variable in variables:
        name, number = variable.path, 1
        while name in named or (number > 1 and name in taken):
            number += 1
            name = f"{variable.path}#{number}"
        named[name] = variable
    return named


def _converted(kv: Mapping[str, Any], variables: Mapping[str, Any]) -> tuple[dict[str, Array], list[str]]:
    """Return the arrays in the variables' types, and what is wrong with those that do not fit."""
    values: dict[str, Array] = {}
    wrong: list[str] = []
    for name, value in kv.items():
        variable = variables[name]
        try:
            values[name] = np.asarray(value).astype(tf.as_dtype(variable.dtype).as_numpy_dtype)
        except (TypeError, ValueError) as error:
            wrong.append(f"{name} cannot become {variable.dtype} ({error})")
            continue
        if values[name].shape != tuple(variable.shape):
            wrong.append(f"{name} has shape {list(values[name].shape)}, the model's is {list(variable.shape)}")
    return values, wrong


@contextmanager
def _profiler(folder: str) -> Iterator[None]:
    # TensorFlow 2.21 reads every option as a bool, logs that it "expects an i value" and keeps to its defaults: level 2
    # and no Python calls. Level 3 also records input shapes, and the operations that level 2 leaves out.
    wanted = requested_capture()
    options = tf.profiler.experimental.ProfilerOptions(
        host_tracer_level=3 if "shapes" in wanted else 2, python_tracer_level=int("stacks" in wanted)
    )
    try:
        tf.profiler.experimental.start(folder, options=options)
    except tf.errors.AlreadyExistsError as error:
        raise ModelError("Another TensorFlow profiler is already running in this process; stop it first.") from error
    try:
        yield
    except BaseException:
        tf.profiler.experimental.stop(save=False)
        raise
    tf.profiler.experimental.stop()


def _newest_trace(folder: Path) -> Path:
    traces = sorted(folder.rglob(f"*{_XSPACE_SUFFIX}"), key=lambda path: (path.stat().st_mtime_ns, path))
    if not traces:
        raise ModelError(f"There is no *{_XSPACE_SUFFIX} file in {folder}: TensorFlow's profiler wrote none there.")
    return traces[-1]


def libraries() -> dict[str, str]:
    """Return the versions of TensorFlow, Keras and NumPy, and of CUDA where TensorFlow has it."""
    found = {"tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__}
    cuda = tf.sysconfig.get_build_info().get("cuda_version")
    return found | ({"cuda": str(cuda)} if cuda else {})


def threads() -> dict[str, int]:
    """Return the sizes of TensorFlow's thread pools, as they are or will be when it first computes.

    What `tf.config.threading` sets comes first, then the environment, then one thread for each core that this process
    may run on (`LocalDevice` and `NumInterOpThreadsFromSessionOptions` in `tensorflow/core/common_runtime`).
    """
    config = tf.config.threading
    return {
        "tensorflow.intraop": config.get_intra_op_parallelism_threads() or _from_environment("TF_NUM_INTRAOP_THREADS"),
        "tensorflow.interop": config.get_inter_op_parallelism_threads() or _from_environment("TF_NUM_INTEROP_THREADS"),
    }


def _from_environment(name: str) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() and int(value) else len(os.sched_getaffinity(0))


def set_threads(count: int) -> None:
    """Do nothing: TensorFlow makes its thread pools when it first computes, by TF_NUM_*_THREADS as they are then."""


def seed(number: int) -> None:
    """Seed TensorFlow's operations and Keras; Keras draws the seeds of its layers by Python's `random`."""
    keras.utils.set_random_seed(number)


def check_device(device: Device) -> None:
    """Raise `Unsupported` for a GPU job where TensorFlow sees no GPU."""
    if device == "gpu" and not tf.config.list_physical_devices("GPU"):
        raise Unsupported(
            f"The job wants a GPU, and TensorFlow {tf.__version__} sees none in this process. Run it on a worker with "
            "a GPU and a CUDA build of TensorFlow, or with --device cpu."
        )
