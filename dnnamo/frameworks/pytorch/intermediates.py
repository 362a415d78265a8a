"""What the layers of a network put out in one pass, seen as it comes, with the network left as it was."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_hook

from dnnamo.frameworks.batches import PlainDraws
from dnnamo.frameworks.pytorch.arrays import as_numpy
from dnnamo.frameworks.pytorch.layers import is_compiled
from dnnamo.intermediates.tap import Receive, Tap

__all__ = ["TorchDraws", "left_as_it_was", "tapped"]

_COMPILED = "_orig_mod"
"""Where what `torch.compile` returns keeps the module that it was given."""


@contextmanager
def tapped(network: torch.nn.Module, keys: Any, receive: Receive) -> Iterator[None]:
    """See what a network puts out in the one pass that is made meanwhile, on a CPU without a copy of anything.

    What `torch.compile` made of it or of its parts does not run meanwhile, as there the layers cannot be told apart.

    Args:
        network: The network; of other modules nothing is seen.
        keys: Which outputs; None for all.
        receive: Takes identifier and array of each.

    Raises:
        NoSuchIntermediate: If a key stands for none.
    """
    modules = _paths(network)
    tap = Tap(keys, receive, is_array=torch.is_tensor, to_array=_to_array, paths=modules.values())

    def see(module: torch.nn.Module, _: Any, output: Any) -> None:
        if id(module) in modules:
            tap.offer(modules[id(module)], _parted(output))

    # A hook of all modules, as `torch.nn.TransformerEncoderLayer` takes another way where a module has one of its own.
    hook = register_module_forward_hook(see)
    try:
        with tap.passing(), _as_written(network):
            yield
    finally:
        hook.remove()


def _paths(network: torch.nn.Module) -> dict[int, str]:
    """Return the path of each module by its id, as if `torch.compile` had wrapped none."""
    found: dict[int, str] = {}
    for path, module in network.named_modules():
        if _COMPILED not in module._modules:
            plain = ".".join(part for part in path.split(".") if part != _COMPILED)
            found[id(module)] = plain or type(module).__name__
    return found


@contextmanager
def _as_written(network: torch.nn.Module) -> Iterator[None]:
    if not is_compiled(network):
        yield
        return
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*global hooks", UserWarning)  # what it warns of does not concern us
        yield


def _parted(output: Any) -> Any:
    """Return a nested tensor, which has no shape, as the tensors in it."""
    return output.unbind() if torch.is_tensor(output) and output.is_nested else output


def _to_array(value: torch.Tensor) -> Any:
    if value.is_quantized:
        value = value.dequantize()
    return as_numpy(value if value.layout == torch.strided else value.to_dense())


@contextmanager
def left_as_it_was(network: torch.nn.Module) -> Iterator[None]:
    """Put modes and buffers of a network back at the end; parameters are only changed by training."""
    modes = [(module, module.training) for module in network.modules()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in network.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.inference_mode(), torch.no_grad():
            for module, name, buffer, content in buffers:
                module._buffers[name] = buffer
                buffer.copy_(content)


class TorchDraws:
    """The random numbers of PyTorch, on all devices, of Python and of NumPy."""

    def __init__(self) -> None:
        self._plain = PlainDraws()

    def state(self) -> tuple[Any, ...]:
        """Return where the generators stand."""
        on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return self._plain.state(), *(state.numpy().tobytes() for state in (torch.get_rng_state(), *on_gpus))

    def restore(self, state: tuple[Any, ...]) -> None:
        """Have the generators stand where they stood."""
        plain, *states = state
        self._plain.restore(plain)
        cpu, *on_gpus = (torch.frombuffer(bytearray(it), dtype=torch.uint8) for it in states)
        torch.set_rng_state(cpu)
        for number, it in enumerate(on_gpus):
            torch.cuda.set_rng_state(it, number)
