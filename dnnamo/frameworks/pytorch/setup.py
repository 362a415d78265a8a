"""How a network computes: number types, layout, `torch.compile` and gradient accumulation, as a job's `Setup` asks."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch

from dnnamo.errors import Unsupported
from dnnamo.records import Setup

__all__ = ["Computation", "set_up"]

_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_MIXED = "mixed_"


class Computation:
    """How the steps of a network compute; by default as it was written.

    Args:
        module: The network.
        setup: What the job asks for.
        device: Where the network computes.

    Attributes:
        network: What a step calls: the network, or what `torch.compile` made of it.
        accumulate: Minibatches of a training step.
    """

    def __init__(self, module: torch.nn.Module, setup: Setup, device: torch.device) -> None:
        precision = setup.precision or ""
        # Beside the network, which keeps its names so; and not by its own `compile`, which leaves the modules that
        # PyTorch brings as they are, a `torch.nn.Sequential` of such modules included.
        self.network = module
        if setup.compile is not None:
            self.network = cast("torch.nn.Module", torch.compile(module, mode=setup.compile))
        self.accumulate = setup.accumulate
        self._device = device
        self._cast_to = _TYPES.get(precision)
        self._autocast_to = _TYPES.get(precision.removeprefix(_MIXED)) if precision.startswith(_MIXED) else None
        self._channels_last = setup.channels_last
        # The gradients of float16 vanish without it; those of bfloat16 have the range of float32.
        self._scaler = torch.amp.GradScaler(device.type) if self._autocast_to == torch.float16 else None

    def fit(self, value: torch.Tensor) -> torch.Tensor:
        """Return a tensor of a batch on the device, in the number type and layout that the network computes in."""
        cast_to = self._cast_to if value.is_floating_point() else None
        value = value.to(self._device, cast_to)
        return value.contiguous(memory_format=torch.channels_last) if self._is_images(value) else value

    def _is_images(self, value: torch.Tensor) -> bool:
        return self._channels_last and value.dim() == 4 and value.is_floating_point()

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of a forward pass and its loss."""
        if self._autocast_to is None:
            return nullcontext()
        return torch.autocast(self._device.type, self._autocast_to)

    def backward(self, loss: torch.Tensor) -> None:
        """Add a minibatch's share of the step's gradients to the parameters'."""
        if self.accumulate > 1:
            loss = loss / self.accumulate
        torch.autograd.backward(loss if self._scaler is None else self._scaler.scale(loss))

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        """Change the parameters by their gradients; a scaled step whose gradients overflowed changes none."""
        if self._scaler is None:
            optimizer.step()
        else:
            self._scaler.step(optimizer)
            self._scaler.update()


def set_up(module: torch.nn.Module, setup: Setup, device: torch.device) -> Computation:
    """Change a network in place so that it computes as a job asks, and return what its steps have to do for that.

    Raises:
        Unsupported: If PyTorch has no such option, or what it needs is missing here; then nothing was changed.
    """
    if setup.jit_compile:
        raise Unsupported("jit_compile is TensorFlow's XLA, and this is a PyTorch network. Its own is `compile`.")
    if setup.compile is not None:
        _check_compiler(device)
    computation = Computation(module, setup, device)
    if setup.precision in _TYPES:
        module.to(_TYPES[setup.precision])
    if setup.channels_last:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return computation


def _check_compiler(device: torch.device) -> None:
    """Refuse a machine that lacks a compiler now, rather than at the first step and in many lines."""
    if device.type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler as error:
            raise Unsupported(
                "torch.compile writes C++ for a CPU, and this machine has no compiler for it. Install g++, name one by "
                "the environment variable CXX, or leave `compile` out."
            ) from error
