"""Which layer of a network runs, for profilers and counters to know: modules by their path, as they are called."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import local
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

__all__ = ["LAYER_MARK", "entered_layers", "is_compiled", "marked_layers", "uncompiled"]

LAYER_MARK = "dnnamo.layer:"
"""Prefix of a layer's mark in PyTorch's profile; its path follows."""


def marked_layers(network: torch.nn.Module) -> AbstractContextManager[None]:
    """Have PyTorch's profiler record each call of a layer meanwhile."""
    # The class is PyTorch's own for its optimizers and compiled code; its public kin, `record_function`, costs ten
    # times as much: it calls two operations.
    mark = torch._C._profiler._RecordFunctionFast
    return entered_layers(network, lambda path: mark(LAYER_MARK + path))


@contextmanager
def entered_layers(network: torch.nn.Module, within: Callable[[str], AbstractContextManager[Any]]) -> Iterator[None]:
    """Put each call of a layer of a network inside a context meanwhile.

    Args:
        network: The network. Other modules, and copies such as `torch.nn.DataParallel` makes, are left alone.
        within: From the layer's path to the context; the network itself goes by the name of its class. A layer that the
            network has under several names goes by the first.
    """
    paths = {id(module): path or type(network).__name__ for path, module in network.named_modules()}
    calls = _Calls()

    def enter(module: torch.nn.Module, _: Any) -> None:
        path = paths.get(id(module))
        if path is not None and not torch.compiler.is_compiling():
            context = within(path)
            context.__enter__()
            calls.open.append((module, context))

    def leave(module: torch.nn.Module, *_: Any) -> None:
        # This is called even where another hook failed before `enter` was.
        if calls.open and calls.open[-1][0] is module:
            calls.open.pop()[1].__exit__(None, None, None)

    # Hooks of all modules, as `torch.nn.TransformerEncoderLayer` takes another way where a module has some of its own.
    hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Calls(local):
    """The calls of layers that go on, on the thread that looks."""

    def __init__(self) -> None:
        self.open: list[tuple[torch.nn.Module, AbstractContextManager[Any]]] = []


def is_compiled(network: torch.nn.Module) -> bool:
    """Whether `torch.compile` has taken a part of a network: it would compile again because of any hook."""
    # What `torch.compile` returns is known by where it keeps the original: its class is slow to import.
    return any(module._compiled_call_impl or "_orig_mod" in module._modules for module in network.modules())


@contextmanager
def uncompiled(network: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Give a network as it was written, with none of what `torch.compile` made of it or of its parts, meanwhile."""
    written = network._modules.get("_orig_mod") or network
    compiled = [(module, module._compiled_call_impl) for module in written.modules() if module._compiled_call_impl]
    for module, _ in compiled:
        module._compiled_call_impl = None
    try:
        yield written
    finally:
        for module, call in compiled:
            module._compiled_call_impl = call
