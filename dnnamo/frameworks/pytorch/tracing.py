"""PyTorch's own graphs of a module: exported, or recorded while a step runs, with the layer of each operation."""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch.autograd.graph import Node as GradNode
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.utils._pytree import tree_leaves

from dnnamo.frameworks.pytorch.layers import entered_layers

__all__ = ["LAYER", "NOTES", "WEIGHT", "exported", "layer_of", "recorded_training"]

LAYER = "dnnamo.layer"
"""Key of `Node.meta` for the path of the layer that the operation belongs to."""

WEIGHT = "dnnamo.weight"
"""Key of `Node.meta` of an input for the name of the parameter or buffer that it is."""

NOTES = "dnnamo.notes"
"""Key of `GraphModule.meta` for what must be known to read the graph, a list of sentences."""

_CALL = re.compile(r"@\d+$")
"""What `torch.export` adds to a layer's path at each call of it after the first."""

_REASON_CHARACTERS = 300
_ONLY = "it holds only the branches, and as many turns of each loop, as that input led to."

Tensors = dict[str, torch.Tensor]
Call = Callable[..., Any]


def exported(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> torch.export.ExportedProgram | torch.fx.GraphModule:
    """Return the program that `torch.export` makes of a module, or what it does for this input where that refuses."""
    with torch.no_grad():
        try:
            program = torch.export.export(module, args, kwargs)
        except Exception as refusal:  # of many kinds; where the module itself is wrong, running it says so again
            return _recorded_forward(module, args, kwargs, why=_one_sentence(refusal))
    _name_layers(program.graph, module)
    return program


def _name_layers(graph: torch.fx.Graph, module: torch.nn.Module) -> None:
    """Have a layer that has several names go by the first, as in profiles; `torch.export` keeps the one of the call."""
    firsts: dict[int, str] = {}
    for path, layer in module.named_modules(remove_duplicate=False):
        firsts.setdefault(id(layer), path)
    names = {path: firsts[id(layer)] for path, layer in module.named_modules(remove_duplicate=False)}
    for node in graph.nodes:
        layer_path = layer_of(node)
        if layer_path in names:
            node.meta[LAYER] = names[layer_path] or type(module).__name__


def _recorded_forward(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, why: str
) -> torch.fx.GraphModule:
    layers = _Layers()

    def forward(weights: Tensors, args: Any, kwargs: Any) -> Any:
        with layers.told(module):
            return torch.func.functional_call(module, weights, args, kwargs)

    graph = _recorded(forward, _weights(module), args, kwargs, lenient=True)
    _note(
        graph,
        f"torch.export refused this model ({why}), so the graph is what one recorded run did: {_ONLY}",
    )
    return graph


def recorded_training(
    module: torch.nn.Module, loss: Callable[[Call, Any, Any], torch.Tensor], inputs: Any, targets: Any
) -> torch.fx.GraphModule:
    """Return forward and backward pass of one step as one graph.

    Args:
        module: The network.
        loss: From what calls the network, inputs and targets to a scalar tensor.
        inputs: Those of one batch.
        targets: Likewise.

    Returns:
        A graph whose inputs are a dict of parameters and buffers by name, inputs and targets, and whose outputs are the
        loss and the gradients of the trained parameters.
    """
    layers = _Layers()

    trained = [name for name, value in module.named_parameters() if value.requires_grad]

    def forward_backward(weights: Tensors, inputs: Any, targets: Any) -> tuple[torch.Tensor, ...]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return torch.func.functional_call(module, weights, args, kwargs)

        with layers.told(module):
            found = loss(call, inputs, targets)
            layers.follow_backward(found)
            return (found, *torch.autograd.grad(found, [weights[name] for name in trained], allow_unused=True))

    try:
        return _recorded(forward_backward, _weights(module), inputs, targets, lenient=False)
    except Exception as refusal:  # of a value that decides about what is done; another one comes again below
        layers.forget()
        graph = _recorded(forward_backward, _weights(module), inputs, targets, lenient=True)
        _note(
            graph,
            f"What a step does depends on values ({_one_sentence(refusal)}), so the graph is what one recorded step "
            f"did: {_ONLY}",
        )
        return graph


def _recorded(function: Callable[..., Any], weights: Tensors, *others: Any, lenient: bool) -> torch.fx.GraphModule:
    """Record what a function does with weights and other arguments."""
    record = make_fx(function, tracing_mode="real", _error_on_data_dependent_ops=not lenient)
    graph = record(weights, *others)
    names = {id(value): name for name, value in weights.items()}
    given = graph.graph.find_nodes(op="placeholder")
    for node, value in zip(given, tree_leaves((weights, *others)), strict=True):
        if id(value) in names:
            node.meta[WEIGHT] = names[id(value)]
    return graph


def _weights(module: torch.nn.Module) -> Tensors:
    """Return parameters, and copies of buffers: to record a step is to do it, and a normalisation would count it."""
    return {**dict(module.named_parameters()), **{name: value.clone() for name, value in module.named_buffers()}}


def _note(graph: torch.fx.GraphModule, sentence: str) -> None:
    graph.meta.setdefault(NOTES, []).append(sentence)


def _one_sentence(error: Exception) -> str:
    """Return type of an error and the first sentence of its message, which may be pages long."""
    first = " ".join(str(error).strip().partition("\n")[0].split()).partition(". ")[0].rstrip(".")
    return f"{type(error).__name__}: {first[:_REASON_CHARACTERS]}" if first else type(error).__name__


def layer_of(node: torch.fx.Node) -> str | None:
    """Return the path of the innermost layer, as profiles have it: the network itself goes by its class."""
    if LAYER in node.meta:
        return str(node.meta[LAYER])
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return None
    path, kind = list(stack.values())[-1]
    if path:
        return _CALL.sub("", path)
    return str(kind if isinstance(kind, str) else kind.__qualname__).rpartition(".")[2]


class _Layers:
    """Marks each operation that is being recorded with the layer that runs.

    A backward operation belongs to the layer of the forward operation, which is found by the sequence number that
    autograd gave to both, as it is in profiles.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Be as new, for another run."""
        self._open: list[str | None] = [None]
        self._marked: torch.fx.Node | None = None
        self._borders: list[int] = [0]
        self._since: list[str | None] = [None]

    @contextmanager
    def told(self, module: torch.nn.Module) -> Iterator[None]:
        """Listen to the calls of a module's layers meanwhile."""
        with entered_layers(module, self._within):
            yield
        self._mark()

    @contextmanager
    def _within(self, layer: str | None) -> Iterator[None]:
        self._turn_to([*self._open, layer])
        try:
            yield
        finally:
            self._turn_to(self._open[:-1])

    def _turn_to(self, layers: list[str | None]) -> None:
        self._mark()
        self._open = layers
        self._borders.append(torch._C._autograd._get_sequence_nr())
        self._since.append(layers[-1])

    def _mark(self) -> None:
        """Mark what was recorded since the last time."""
        mode = get_proxy_mode()
        if mode is None:
            return
        newest = None
        for node in reversed(mode.tracer.graph.nodes):
            newest = newest or node
            if node is self._marked:
                break
            if self._open[-1] is not None:
                node.meta[LAYER] = self._open[-1]
        self._marked = newest

    def follow_backward(self, loss: torch.Tensor) -> None:
        """Have the backward operations that lead to a loss run in the layers of their forward operations."""
        for node in _grad_nodes(loss):
            layer = self._since[bisect_right(self._borders, node._sequence_nr()) - 1]
            if layer is not None:
                _run_within(node, partial(self._within, layer))


def _grad_nodes(loss: torch.Tensor) -> Iterator[GradNode]:
    """Yield each node of the autograd graph, but those that only hand a gradient over to a parameter."""
    waiting, seen = [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
        if node.next_functions:
            yield node


def _run_within(node: GradNode, context: Callable[[], AbstractContextManager[Any]]) -> None:
    """Enter a context before a node of the autograd graph runs, and leave it after."""
    entered: list[AbstractContextManager[Any]] = []

    def enter(*_: Any) -> None:
        entered.append(context())
        entered[-1].__enter__()

    def leave(*_: Any) -> None:
        if entered:
            entered.pop().__exit__(None, None, None)

    node.register_prehook(enter)
    node.register_hook(leave)
