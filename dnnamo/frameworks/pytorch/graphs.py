"""PyTorch's graphs in the form that all frameworks share, and as the files that keep them."""

import io
import operator
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.export.graph_signature import InputKind

from dnnamo.frameworks.pytorch.tracing import NOTES, WEIGHT, layer_of
from dnnamo.graphs import Graph
from dnnamo.graphs.build import Builder
from dnnamo.graphs.records import Role

__all__ = ["graph_file", "graph_of"]

_ROLES: dict[InputKind, Role] = {
    InputKind.USER_INPUT: "input",
    InputKind.PARAMETER: "weight",
    InputKind.BUFFER: "weight",
    InputKind.CONSTANT_TENSOR: "constant",
}
_NUMBERS = {
    bool: "bool",
    int: "int64",
    float: "float64",
    torch.SymBool: "bool",
    torch.SymInt: "int64",
    torch.SymFloat: "float64",
}

_CONSTANT = re.compile(r"_tensor_constant\d+|lifted_tensor_\d+").fullmatch

Value = Any
"""Number of a tensor, a list of values, the module of a branch or loop, or None for what is no tensor."""


def graph_file(graph: object) -> tuple[str, bytes] | None:
    """Return an exported program as `graph.pt2` or a `torch.fx` graph as readable Python in `graph.py`."""
    if isinstance(graph, torch.export.ExportedProgram):
        packed = io.BytesIO()
        torch.export.save(graph, packed)
        return "graph.pt2", packed.getvalue()
    if isinstance(graph, torch.fx.GraphModule):
        return "graph.py", graph.print_readable(print_output=False).encode()
    return None


def graph_of(native: object) -> Graph | None:
    """Return an exported program or a `torch.fx` graph in the shared form; None for anything else.

    An operation that runs graphs of its own, as `cond` does, follows the operations of these, which stand under its
    name, and takes their results after its own inputs.
    """
    if isinstance(native, torch.export.ExportedProgram):
        return _of_program(native)
    if isinstance(native, torch.fx.GraphModule):
        walk = _Walk(native)
        walk.builder.notes += native.meta.get(NOTES, [])
        return walk.graph("torch_fx")
    return None


def _of_program(program: torch.export.ExportedProgram) -> Graph:
    specs = program.graph_signature.input_specs
    firsts = _first_names(program.state_dict)
    labels = {spec.arg.name: (_label(spec, firsts), _ROLES.get(spec.kind, "state")) for spec in specs}
    changed = set(program.graph_signature.buffers_to_mutate) | set(program.graph_signature.user_inputs_to_mutate)
    return _Walk(program.graph_module, labels).graph("torch_export", not_returned=changed)


def _label(spec: Any, firsts: Mapping[str, str]) -> str:
    return firsts.get(spec.target, spec.target) if spec.target else str(spec.arg.name)


def _first_names(state: Mapping[str, Any]) -> dict[str, str]:
    """Return for each name of a weight the first one of the same weight, as a layer may have several names."""
    firsts: dict[int, str] = {}
    return {name: firsts.setdefault(id(value), name) for name, value in state.items()}


class _Walk:
    """Goes through a `torch.fx` graph, and through those that its operations run."""

    def __init__(self, module: torch.fx.GraphModule, labels: Mapping[str, tuple[str, Role]] | None = None) -> None:
        self.module = module
        self.labels = labels or {}
        self.builder = Builder()
        self.weights: dict[str, int] = {}
        self.layer: str | None = None

    def graph(self, source: str, not_returned: Collection[str] = ()) -> Graph:
        given = [self._input(node) for node in self.module.graph.find_nodes(op="placeholder")]
        returned = self.body(self.module, given, prefix="", not_returned=not_returned)
        inputs = [number for number in given if self.builder.tensors[number].role == "input"]
        return self.builder.graph(source, inputs=inputs, outputs=returned)

    def _input(self, node: torch.fx.Node) -> int:
        name, role = self.labels.get(node.name, (node.meta.get(WEIGHT, node.name), _role(node)))
        if role != "weight":
            return self._tensor(name, node.meta, role)
        if name not in self.weights:
            self.weights[name] = self._tensor(name, node.meta, role)
        return self.weights[name]

    def body(
        self,
        module: torch.fx.GraphModule,
        given: Sequence[Value],
        *,
        prefix: str,
        not_returned: Collection[str] = (),
    ) -> list[int]:
        """Add the operations of a graph that is given these values; return the tensors that it returns."""
        values: dict[torch.fx.Node, Value] = dict(zip(module.graph.find_nodes(op="placeholder"), given, strict=True))
        for node in module.graph.nodes:
            if node.op == "output":
                wanted = [it for it in _flat(node.args) if not (_is_node(it) and it.name in not_returned)]
                return list(_tensors(wanted, values))
            if node.op != "placeholder":
                values[node] = self._value(module, node, values, prefix)
        return []

    def _value(
        self, module: torch.fx.GraphModule, node: torch.fx.Node, values: Mapping[torch.fx.Node, Value], prefix: str
    ) -> Value:
        if node.op == "get_attr":
            return self._attribute(module, str(node.target), prefix)
        if node.op == "call_function" and node.target is operator.getitem:
            whole, place = node.args
            if isinstance(whole, torch.fx.Node) and isinstance(values.get(whole), list) and isinstance(place, int):
                return values[whole][place]
        return self._operation(module, node, values, prefix)

    def _attribute(self, module: torch.fx.GraphModule, path: str, prefix: str) -> Value:
        found = operator.attrgetter(path)(module)
        if isinstance(found, torch.nn.Module):
            return found
        if not isinstance(found, torch.Tensor):
            return None
        name = prefix + path
        if name not in self.weights:
            role: Role = "constant" if _CONSTANT(path) else "weight"
            self.weights[name] = self._tensor(name, {"val": found}, role)
        return self.weights[name]

    def _operation(
        self, module: torch.fx.GraphModule, node: torch.fx.Node, values: Mapping[torch.fx.Node, Value], prefix: str
    ) -> Value:
        arguments = list(_flat((node.args, node.kwargs)))
        inputs = list(_tensors(arguments, values))
        called = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if called is not None:
            state = {**dict(called.named_parameters()), **dict(called.named_buffers())}
            inputs += [self._attribute(module, f"{node.target}.{name}", prefix) for name in state]
        returned: list[int] = []
        layer = layer_of(node) or self.layer
        for branch, own in _bodies(arguments, values):
            place = f"{prefix}{node.name}/{branch.target}/"
            returned += self._within(layer, own, self._given(own, inputs, place), place)
        outputs = self._outputs(prefix + node.name, node.meta)
        self.builder.operation(
            prefix + node.name,
            kind=_kind(node, called),
            layer=layer,
            inputs=inputs + returned,
            outputs=[it for it in _flat(outputs) if it is not None],
        )
        return outputs

    def _within(self, layer: str | None, module: torch.fx.GraphModule, given: Sequence[Value], place: str) -> list[int]:
        """Add the operations of a graph that an operation runs, in the operation's layer if they have none."""
        outer, self.layer = self.layer, layer
        returned = self.body(module, given, prefix=place)
        self.layer = outer
        return returned

    def _given(self, module: torch.fx.GraphModule, inputs: Sequence[int], place: str) -> list[Value]:
        """Return what a graph is given by the operation that runs it: the last of its operands."""
        wanted = module.graph.find_nodes(op="placeholder")
        if len(wanted) <= len(inputs):
            return list(inputs[len(inputs) - len(wanted) :])
        return [self._tensor(place + node.name, node.meta) for node in wanted]

    def _outputs(self, name: str, meta: Mapping[str, Any]) -> Value:
        value = meta.get("val", meta.get("example_value", meta.get("tensor_meta", ...)))
        if value is ...:  # nothing is known of what it returns
            return self.builder.tensor(name)
        if isinstance(value, list | tuple) and not hasattr(value, "dtype"):
            return [None if it is None else self._tensor(f"{name}:{n}", {"val": it}) for n, it in enumerate(value)]
        return None if value is None else self._tensor(name, meta)

    def _tensor(self, name: str, meta: Mapping[str, Any], role: Role = "intermediate") -> int:
        value = meta.get("val", meta.get("example_value", meta.get("tensor_meta")))
        if type(value) in _NUMBERS:
            return self.builder.tensor(name, role=role, dtype=_NUMBERS[type(value)], shape=[])
        dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
        return self.builder.tensor(
            name,
            role=role,
            dtype=None if dtype is None else str(dtype).removeprefix("torch."),
            shape=None if shape is None else [it if isinstance(it, int) else str(it) for it in shape],
        )


def _is_node(value: object) -> bool:
    return isinstance(value, torch.fx.Node)


def _role(node: torch.fx.Node) -> Role:
    return "weight" if WEIGHT in node.meta else "input"


def _flat(value: Any) -> Iterator[Any]:
    """Yield what is in lists, tuples, dicts and slices, in order."""
    if isinstance(value, slice):
        value = (value.start, value.stop, value.step)
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _tensors(arguments: Sequence[Any], values: Mapping[torch.fx.Node, Value]) -> Iterator[int]:
    for argument in arguments:
        if _is_node(argument):
            yield from (it for it in _flat(values.get(argument)) if isinstance(it, int))


def _bodies(
    arguments: Sequence[Any], values: Mapping[torch.fx.Node, Value]
) -> Iterator[tuple[torch.fx.Node, torch.fx.GraphModule]]:
    """Yield the graphs among the arguments of an operation, with the nodes that stand for them."""
    for argument in arguments:
        if _is_node(argument) and isinstance(found := values.get(argument), torch.fx.GraphModule):
            yield argument, found


def _kind(node: torch.fx.Node, called: torch.nn.Module | None) -> str:
    target = node.target
    if called is not None:
        return f"{type(called).__module__}.{type(called).__qualname__}"
    if isinstance(target, str):
        return f"Tensor.{target}"
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    module = str(getattr(target, "__module__", None) or "").lstrip("_")
    name = getattr(target, "__name__", None) or str(target)
    return f"{module}.{name}" if module and not isinstance(target, torch._ops.HigherOrderOperator) else name
