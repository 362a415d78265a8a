"""PyTorch: the base wrapper for any `torch.nn.Module`, and the framework's plug-in functions."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from dnnamo.errors import LoaderError, MissingExtra, ModelError, Unsupported, WeightsError
from dnnamo.model import Model, report_limit, report_loss, requested_capture, step
from dnnamo.records import Device, Setup

try:
    import torch
except ModuleNotFoundError as error:
    raise MissingExtra("PyTorch", extra="torch") from error

import numpy as np
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._pytree import tree_map

from dnnamo.frameworks.batches import Batches
from dnnamo.frameworks.outputs import Outputs, forgotten
from dnnamo.frameworks.pytorch.arrays import as_numpy, to_numpy, to_tensor
from dnnamo.frameworks.pytorch.graphs import graph_file, graph_of
from dnnamo.frameworks.pytorch.intermediates import TorchDraws, left_as_it_was, tapped
from dnnamo.frameworks.pytorch.layers import is_compiled, marked_layers, uncompiled
from dnnamo.frameworks.pytorch.setup import Computation, set_up
from dnnamo.frameworks.pytorch.tracing import exported, recorded_training
from dnnamo.selection import refuse_unknown_weights

if TYPE_CHECKING:
    from dnnamo.profiles.flops import CountedOperation

__all__ = ["TorchModel", "accuracy", "graph_file", "graph_of"]

Batch = tuple[Any, Any]
OneStep = Callable[[Batch, AbstractContextManager[Any]], Any]
Marker = Callable[[int], AbstractContextManager[Any]]

STEP_MARK = "ProfilerStep#"
"""Prefix of a step's annotation: the one that PyTorch's scheduler writes and that trace viewers look for."""


def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Return the fraction of targets (class indices) that the outputs (class scores, last axis) rank first."""
    return float((outputs.argmax(-1) == targets).float().mean())


class TorchModel(Model):
    """Any `torch.nn.Module` as a wrapped model.

    Args:
        module: The network; moved to the GPU where this process sees one.
        make_batch: Returns one batch (inputs, targets). Called once a step, outside of the timed part. A tuple or list
            of inputs is passed as positional arguments, a dict as keyword arguments.
        loss: From outputs and targets to a scalar tensor; cross entropy by default.
        optimizer: From the module's parameters to an optimizer; plain SGD with a rate of 0.01 by default.
        score: From outputs and targets to a number; by default accuracy with the default loss and none with another.
    """

    marks_steps = True

    def __init__(
        self,
        module: torch.nn.Module,
        make_batch: Callable[[], Batch],
        *,
        loss: Callable[[Any, Any], torch.Tensor] | None = None,
        optimizer: Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer] | None = None,
        score: Callable[[Any, Any], float] | None = None,
    ) -> None:
        if not isinstance(module, torch.nn.Module):
            raise LoaderError(f"TorchModel wraps a torch.nn.Module; it was given a {type(module).__name__}.")
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._module = module.to(self._device)
        self._computation = Computation(self._module, Setup(), self._device)
        self._make_batch = Batches(make_batch, TorchDraws())
        self._loss = loss or torch.nn.functional.cross_entropy
        self._score = accuracy if score is None and loss is None else score
        self._make_optimizer = optimizer or _sgd
        self._optimizer: torch.optim.Optimizer | None = None

    def configure(self, setup: Setup) -> None:
        """Have the network compute as a job asks: see `dnnamo.frameworks.pytorch.setup`.

        `float32`, `bfloat16` and `float16` cast weights, inputs and targets; the mixed types are autocast, with scaled
        gradients for float16. Channels last is for the 4-dimensional among weights and inputs.
        """
        self._computation = set_up(self._module, setup, self._device)

    def get_inference_graph(self) -> torch.export.ExportedProgram | torch.fx.GraphModule:
        """Return the `torch.export` program of the module in evaluation mode, for a batch of the same shapes.

        Where `torch.export` refuses the module, for what it does depends on values for example, it is the `torch.fx`
        graph of what it did with one batch, which says so in its `meta`.
        """
        args, kwargs = _arguments(self._batch()[0])
        self._module.eval()
        with uncompiled(self._module) as module, self._computation.autocast():
            return exported(module, args, kwargs)

    def get_training_graph(self) -> torch.fx.GraphModule:
        """Return the forward and backward pass of one step as one `torch.fx` graph of ATen operations.

        Its inputs are a dict of parameters and buffers, the model's inputs and the targets; its outputs are the loss
        and the gradients of the trained parameters.
        """
        inputs, targets = self._batch()
        self._module.train()
        with uncompiled(self._module) as module:
            return recorded_training(module, self._computed_loss, inputs, targets)

    def _computed_loss(self, call: Callable[..., Any], inputs: Any, targets: Any) -> torch.Tensor:
        args, kwargs = _arguments(inputs)
        with self._computation.autocast():
            return self._loss(call(*args, **kwargs), targets)

    def get_weights(self, keys: Iterable[str] | None = None) -> dict[str, np.ndarray[Any, Any]]:
        """Return parameters and buffers by their `state_dict` name; bfloat16 is `ml_dtypes`'."""
        state = self._state()
        names = list(state) if keys is None else list(keys)
        refuse_unknown_weights(names, state)
        return {name: to_numpy(state[name]) for name in names}

    def set_weights(self, kv: Mapping[str, Any]) -> None:
        """Copy arrays into the named parameters and buffers; all are checked before the first is changed."""
        state = self._state()
        refuse_unknown_weights(kv, state)
        values = {name: to_tensor(value) for name, value in kv.items()}
        wrong = [
            f"{name} has shape {list(value.shape)}, the model's is {list(state[name].shape)}"
            for name, value in values.items()
            if value.shape != state[name].shape
        ]
        if wrong:
            raise WeightsError(f"Weights of a wrong shape, nothing was changed: {'; '.join(wrong)}.")
        with torch.no_grad():
            for name, value in values.items():
                state[name].copy_(value)

    def run_inference(self, n_steps: int = 1) -> list[Any]:
        """Return the outputs for `n_steps` batches, tensors as numpy arrays."""
        outputs = Outputs(tree_map, _to_array)
        return outputs.arrays(self._run(lambda *given: outputs.keep(self._infer(*given)), n_steps))

    def run_training(self, n_steps: int = 1) -> list[tuple[float, float | None]]:
        """Train on `n_steps` batches; return loss and score of each."""
        return self._run(self._train, n_steps)

    def profile_inference(self, n_steps: int = 1) -> profile:
        """Return the finished PyTorch profiler of `n_steps` inference steps."""
        return self._profile(self._infer, n_steps)

    def profile_training(self, n_steps: int = 1) -> profile:
        """Return the finished PyTorch profiler of `n_steps` training steps."""
        return self._profile(self._train, n_steps)

    def count_flops(self, mode: Literal["inference", "training"]) -> "list[CountedOperation]":
        """Do one step and count the floating-point operations of each operation in it."""
        from dnnamo.frameworks.pytorch.flops import FlopCounter

        counter = FlopCounter(self._module)
        self._run(self._infer if mode == "inference" else self._train, 1, mark=lambda _: counter.counting())
        return counter.operations()

    def get_intermediates(
        self, keys: Iterable[str] | None = None, receive: Callable[[str, Any], None] | None = None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Return what each layer puts out for the batch that the next step takes, in evaluation mode.

        Identifiers are the modules' paths. On a CPU `receive` is given views of the tensors. Modes and buffers of the
        module and the random numbers that come next are afterwards as before.

        Raises:
            NoSuchIntermediate: If a key stands for none.
        """
        kept: dict[str, np.ndarray[Any, Any]] = {}
        keep = receive or (lambda name, array: kept.update({name: array.copy()}))
        with self._make_batch.peek() as batch, left_as_it_was(self._module):
            inputs, _ = self._placed(batch)
            args, kwargs = tree_map(_own, _arguments(inputs))
            self._module.eval()
            with tapped(self._module, keys, keep), torch.inference_mode(), self._computation.autocast():
                self._module(*args, **kwargs)
        return kept

    def _run(self, one_step: OneStep, n_steps: int, mark: Marker | None = None) -> list[Any]:
        return [one_step(self._batch(), mark(i) if mark else nullcontext()) for i in range(n_steps)]

    def _profile(self, one_step: OneStep, n_steps: int) -> profile:
        wanted = requested_capture()
        profiler = profile(
            activities=self._activities(),
            record_shapes="shapes" in wanted,
            profile_memory="memory" in wanted,
            with_stack="stacks" in wanted,
        )
        with self._marked_layers(), profiler:
            self._run(forgotten(one_step), n_steps, mark=lambda index: record_function(f"{STEP_MARK}{index}"))
        return profiler

    def _activities(self) -> list[ProfilerActivity]:
        on_gpu = [ProfilerActivity.CUDA] if self._device.type == "cuda" else []
        return [ProfilerActivity.CPU, *on_gpu]

    def _marked_layers(self) -> AbstractContextManager[None]:
        if not is_compiled(self._computation.network):
            return marked_layers(self._module)
        report_limit("The network is compiled by torch.compile, at least in part, so its layers are not told apart.")
        return nullcontext()

    def _infer(self, batch: Batch, mark: AbstractContextManager[Any]) -> Any:
        args, kwargs = _arguments(batch[0])
        self._module.eval()
        with torch.inference_mode(), step(), mark, self._computation.autocast():
            outputs = self._computation.network(*args, **kwargs)
            self._synchronise()
        return outputs

    def _train(self, batch: Batch, mark: AbstractContextManager[Any]) -> tuple[float, float | None]:
        batches = [batch, *(self._batch() for _ in range(self._computation.accumulate - 1))]
        optimizer = self._optimizer = self._optimizer or self._make_optimizer(self._module.parameters())
        self._module.train()
        with step(), mark:
            optimizer.zero_grad()
            passes = [self._forward_backward(inputs, targets) for inputs, targets in batches]
            self._computation.update(optimizer)
            self._synchronise()
        report_loss(value := fmean(float(loss.detach()) for _, loss in passes))
        with torch.no_grad():
            return value, self._mean_score([outputs for outputs, _ in passes], [targets for _, targets in batches])

    def _forward_backward(self, inputs: Any, targets: Any) -> tuple[Any, torch.Tensor]:
        args, kwargs = _arguments(inputs)
        with self._computation.autocast():
            outputs = self._computation.network(*args, **kwargs)
            loss = self._loss(outputs, targets)
        self._computation.backward(loss)
        return outputs, loss

    def _mean_score(self, outputs: list[Any], targets: list[Any]) -> float | None:
        score = self._score
        return None if score is None else fmean(float(score(*pair)) for pair in zip(outputs, targets, strict=True))

    def _batch(self) -> Batch:
        return self._placed(self._make_batch())

    def _placed(self, batch: Any) -> Batch:
        if not (isinstance(batch, tuple) and len(batch) == 2):
            raise ModelError(f"make_batch must return a tuple (inputs, targets); it returned a {type(batch).__name__}.")
        inputs, targets = tree_map(self._place, batch)
        return inputs, targets

    def _place(self, value: Any) -> Any:
        return self._computation.fit(value) if isinstance(value, torch.Tensor) else value

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def _state(self) -> dict[str, torch.Tensor]:
        return {name: value for name, value in self._module.state_dict().items() if isinstance(value, torch.Tensor)}


def _to_array(value: Any) -> Any:
    return as_numpy(value) if isinstance(value, torch.Tensor) else value


def _own(value: Any) -> Any:
    # A network may change its inputs, and whoever comes next is to have them as they were.
    return value.clone() if isinstance(value, torch.Tensor) else value


def _sgd(parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01)


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, dict):
        return (), inputs
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}


def libraries() -> dict[str, str]:
    """Return the versions of PyTorch and NumPy, and of CUDA where PyTorch has it."""
    found = {"torch": str(torch.__version__), "numpy": np.__version__}
    return found | ({"cuda": torch.version.cuda} if torch.version.cuda else {})


def threads() -> dict[str, int]:
    """Return the sizes of PyTorch's thread pools."""
    return {"torch.intraop": torch.get_num_threads(), "torch.interop": torch.get_num_interop_threads()}


def set_threads(count: int) -> None:
    """Set the size of the pool that operations share among them."""
    torch.set_num_threads(count)


def seed(number: int) -> None:
    """Seed PyTorch's generators, those of GPUs included."""
    torch.manual_seed(number)


def check_device(device: Device) -> None:
    """Raise `Unsupported` for a GPU job where PyTorch sees no GPU."""
    if device == "gpu" and not torch.cuda.is_available():
        raise Unsupported(
            f"The job wants a GPU, and PyTorch {torch.__version__} sees none in this process. Run it on a worker with "
            "a GPU and a CUDA build of PyTorch, or with --device cpu."
        )
