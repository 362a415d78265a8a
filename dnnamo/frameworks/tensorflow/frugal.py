"""Functional models computed eagerly without what they hold on to.

Keras keeps the outputs of all of a functional model's operations until the last is done (`Function._run_through_graph`
in `keras/src/ops/function.py`), which for ResNet50 is more than twice the memory of the same pass as a graph. Here each
goes with its last use.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras.src.ops.function import Function

__all__ = ["frugal"]


@contextmanager
def frugal() -> Iterator[None]:
    """Have functional models let go of each output after its last use, meanwhile."""
    kept = Function._run_through_graph

    def run(function: Any, inputs: Any, operation_fn: Callable[[Any], Any] = lambda it: it, **more: Any) -> Any:
        if more.get("call_fn") is not None:  # no computation, but shapes
            return kept(function, inputs, operation_fn, **more)
        return _run(function, inputs, operation_fn)

    Function._run_through_graph = run
    try:
        yield
    finally:
        Function._run_through_graph = kept


def _run(function: Any, inputs: Any, operation_fn: Callable[[Any], Any]) -> Any:
    nodes = [node for node in _in_order(function) if node.operation and not node.is_input]
    uses = Counter(id(it) for node in nodes for it in node.input_tensors)
    uses.update(id(it) for it in function.outputs)
    values = {id(it): value for it, value in zip(function.inputs, keras.tree.flatten(inputs), strict=False)}
    for node in nodes:
        if any(id(it) not in values for it in node.input_tensors):
            continue  # as Keras does where an input was left out
        args, kwargs = node.arguments.fill_in(values)
        outputs = operation_fn(node.operation)(*args, **kwargs)
        del args, kwargs
        values.update((id(it), value) for it, value in zip(node.outputs, keras.tree.flatten(outputs), strict=False))
        del outputs
        uses.subtract(id(it) for it in node.input_tensors)
        for it in (*node.input_tensors, *node.outputs):
            if uses[id(it)] <= 0:
                values.pop(id(it), None)
    return keras.tree.pack_sequence_as(function._outputs_struct, [values[id(it)] for it in function.outputs])


def _in_order(function: Any) -> Iterator[Any]:
    for depth in sorted(function._nodes_by_depth, reverse=True):
        yield from function._nodes_by_depth[depth]
