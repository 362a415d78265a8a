"""TensorFlow's graphs in the form that all frameworks share, and as the files that keep them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import tensorflow as tf

# No public way leads from a function in a graph's library to its operations.
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

from dnnamo.graphs import Graph
from dnnamo.graphs.build import Builder
from dnnamo.graphs.records import Role
from dnnamo.profiles.scopes import scope_of

__all__ = ["graph_file", "graph_of", "name_weights"]

_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_VARIABLES = ("VarHandleOp", "VariableV2", "Variable")
_NO_OPERATIONS = ("Placeholder", "PlaceholderWithDefault", "Const", *_VARIABLES)

_weights: WeakKeyDictionary[tf.Graph, dict[str, Any]] = WeakKeyDictionary()


def name_weights(graph: tf.Graph, weights: Mapping[str, Any]) -> tf.Graph:
    """Say which variables of a graph are weights, and by what names; its other ones then are other state.

    Args:
        graph: The graph of a function.
        weights: The `tf.Variable` of each weight by its name.

    Returns:
        The graph.
    """
    _weights[graph] = dict(weights)
    return graph


def graph_file(graph: object) -> tuple[str, bytes] | None:
    """Return a `tf.Graph`, concrete function or GraphDef as a serialized GraphDef, with shapes where there are any."""
    if isinstance(graph, tf.types.experimental.ConcreteFunction):
        graph = graph.graph
    if isinstance(graph, tf.Graph):
        graph = graph.as_graph_def(add_shapes=True)
    if isinstance(graph, tf.compat.v1.GraphDef):
        return "graph.pb", graph.SerializeToString(deterministic=True)
    return None


def graph_of(native: object) -> Graph | None:
    """Return a `tf.Graph`, concrete function or GraphDef in the shared form; None for anything else.

    Placeholders, constants and variables are tensors, all else is an operation. A call of a function is replaced by
    the function's operations, with the call's name before theirs, as TensorFlow itself does it; an operation that runs
    functions otherwise, as loops and branches do, follows their operations and takes their results after its own
    inputs.
    """
    if isinstance(native, tf.types.experimental.ConcreteFunction):
        native = native.graph
    if isinstance(native, tf.compat.v1.GraphDef):
        native = _imported(native)
    return _Walk(native).graph() if isinstance(native, tf.Graph) else None


def _imported(definition: Any) -> tf.Graph:
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(definition, name="")
    return graph


class _Body(NamedTuple):
    """A function that an operation runs.

    Attributes:
        part: What it is to the operation: `cond`, `body`, `then_branch`.
    """

    part: str
    graph: Any


class _Walk:
    """Goes through a graph, and through the functions that its operations run."""

    def __init__(self, graph: tf.Graph) -> None:
        self.native = graph
        self.builder = Builder()
        library = graph.as_graph_def(add_shapes=True).library.function
        self.library = {definition.signature.name: definition for definition in library}
        self.functions: dict[str, Any] = {}
        """Graphs of functions by name, each made once."""

    def graph(self) -> Graph:
        captured = self._captured()
        values = dict(captured)
        for it in self.native.get_operations():
            if it.type in _NO_OPERATIONS:
                values |= {out.name: self._source(it, out) for out in it.outputs if out.name not in values}
        self._add_operations(self.native, values, prefix="")
        inputs = [number for number in values.values() if self.builder.tensors[number].role == "input"]
        return self.builder.graph("graphdef", inputs=inputs, outputs=self._returned(values))

    def _returned(self, values: Mapping[str, int]) -> list[int]:
        if not hasattr(self.native, "outputs"):
            self.builder.note("The graph is of no function, so that it does not say what a step returns.")
            return []
        return [values[out.name] for out in self.native.outputs]

    def _captured(self) -> dict[str, int]:
        """Add what a function has from outside: variables, and tensors that were there when it was made."""
        by_handle = {id(it.handle): it for it in getattr(self.native, "variables", ())}
        names = {id(it.handle): name for name, it in _weights.get(self.native, {}).items()}
        return {
            inner.name: self._outer(inner, by_handle.get(id(outer)), names.get(id(outer)))
            for outer, inner in getattr(self.native, "captures", ())
        }

    def _outer(self, inner: Any, variable: Any, name: str | None) -> int:
        if variable is None:
            return self._tensor(inner.name, inner, role="state" if inner.dtype == tf.resource else "constant")
        role: Role = "weight" if name or self.native not in _weights else "state"
        return self._tensor(name or variable.name, variable, role=role)

    def _source(self, it: Any, out: Any) -> int:
        """Add what an operation stands for that does nothing."""
        if it.type in _VARIABLES:
            name = (it.get_attr("shared_name") or b"").decode() or it.name
            shape = tf.TensorShape(it.get_attr("shape"))
            return self.builder.tensor(name, role="weight", dtype=it.get_attr("dtype").name, shape=_dimensions(shape))
        if it.type == "Const":
            return self._tensor(out.name, out, role="constant")
        return self._tensor(it.name, out, role="state" if out.dtype == tf.resource else "input")

    def _tensor(self, name: str, like: Any, role: Role = "intermediate") -> int:
        dtype = tf.as_dtype(like.dtype).base_dtype.name
        return self.builder.tensor(name.removesuffix(":0"), role=role, dtype=dtype, shape=_dimensions(like.shape))

    def _add_operations(self, graph: Any, values: dict[str, int], prefix: str) -> None:
        """Add the operations of a graph; `values` gains the tensors that they make, by their names in it."""
        for it in graph.get_operations():
            if it.type in _NO_OPERATIONS:
                values |= {
                    out.name: self._tensor(prefix + out.name, out, role="constant")
                    for out in it.outputs
                    if out.name not in values
                }
            else:
                self._add(it, values, prefix + it.name)

    def _add(self, it: Any, values: dict[str, int], name: str) -> None:
        # What goes in a circle, as the loops of TensorFlow 1 do, is taken before it is made.
        for taken in it.inputs:
            if taken.name not in values:
                values[taken.name] = self._tensor(name.removesuffix(it.name) + taken.name, taken)
        inputs = [values[taken.name] for taken in it.inputs]
        bodies = list(self._functions(it))
        if it.type in _CALLS and bodies and len(bodies[0].graph.inputs) == len(inputs):
            returned = self._run(bodies[0], inputs, f"{name}/")
            values |= {out.name: number for out, number in zip(it.outputs, returned, strict=True)}
            return
        for body in bodies:
            place = f"{name}/{body.part}/"
            inputs += self._run(body, self._given(body.graph, it, values, place), place)
        prefix = name.removesuffix(it.name)
        values |= {out.name: self._tensor(prefix + out.name, out) for out in it.outputs if out.name not in values}
        outputs = [values[out.name] for out in it.outputs]
        self.builder.operation(name, kind=it.type, layer=scope_of(name), inputs=inputs, outputs=outputs)

    def _functions(self, it: Any) -> Iterator[_Body]:
        """Yield the functions that an operation runs."""
        for attribute in it.op_def.attr:
            if attribute.type not in ("func", "list(func)"):
                continue
            found = it.get_attr(attribute.name)
            for number, function in enumerate(found if isinstance(found, list) else [found]):
                graph = self._body(function.name)
                if graph is not None:
                    part = f"{attribute.name}_{number}" if isinstance(found, list) else attribute.name
                    yield _Body(part, graph)

    def _body(self, name: str) -> Any:
        """Return the graph of a function, None for one that is not in the library."""
        if not name:
            return None
        if name not in self.functions:
            self.functions[name] = self._made(name)
        return self.functions[name]

    def _made(self, name: str) -> Any:
        try:
            with self.native.as_default():
                return function_def_to_graph(self.library[name])
        except (KeyError, ValueError) as error:  # ValueError: it calls one that is not in the library itself
            why = "it is not in the graph's library" if isinstance(error, KeyError) else error
            self.builder.note(f"The operations of the function {name} are not among these: {why}.")
            return None

    def _given(self, function: Any, it: Any, values: Mapping[str, int], place: str) -> list[int]:
        """Return what a function is given by the operation that runs it: the last of its operands, if they fit."""
        taken = list(it.inputs)[len(it.inputs) - len(function.inputs) :]
        if len(function.inputs) <= len(it.inputs) and all(
            mine.dtype == given.dtype for mine, given in zip(function.inputs, taken, strict=True)
        ):
            return [values[given.name] for given in taken]
        return [self._tensor(place + mine.name, mine) for mine in function.inputs]

    def _run(self, body: _Body, given: Sequence[int], prefix: str) -> list[int]:
        """Add the operations of a function that is given these tensors; return those that it returns."""
        values = {mine.name: number for mine, number in zip(body.graph.inputs, given, strict=True)}
        self._add_operations(body.graph, values, prefix)
        return [values[out.name] for out in body.graph.outputs]


def _dimensions(shape: Any) -> list[int | str | None] | None:
    return None if shape.rank is None else list(shape.as_list())
