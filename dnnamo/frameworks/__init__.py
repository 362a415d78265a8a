"""The frameworks that Dnnamo knows, as plug-ins: what each adds to running and to reading graphs.

A framework is a module with the functions of `Framework`. The built-in ones stand in `_BUILT_IN`; others register
under the entry-point group `dnnamo.frameworks`, their name being the package that marks the framework as in use. None
is imported before a model has imported the framework itself, and nothing branches on a framework's name.
"""

import sys
from collections.abc import Iterator
from importlib import import_module
from typing import NamedTuple, Protocol, cast

from dnnamo.errors import ModelError
from dnnamo.graphs import Graph
from dnnamo.plugins import installed
from dnnamo.records import Device

__all__ = ["PRELOADS", "Framework", "Preload", "in_use", "known", "plugin_module", "read_graph", "render_graph"]

_BUILT_IN = {
    "torch": "dnnamo.frameworks.pytorch",
    "tensorflow": "dnnamo.frameworks.tensorflow",
    "onnxruntime": "dnnamo.frameworks.onnxruntime",
}


class Preload(NamedTuple):
    """What a process imports of a framework before it knows its job.

    Attributes:
        modules: What is imported late otherwise, by the first profile of a process for example.
        forks: Whether a process that has imported it may be forked: it has one thread, if thread counts are 1.
    """

    modules: tuple[str, ...]
    forks: bool


PRELOADS = {
    "torch": Preload(modules=("torch._dynamo", "torch.profiler"), forks=True),
    "tensorflow": Preload(modules=("keras",), forks=False),
}
"""The frameworks that are worth importing ahead of need, by package."""


class Framework(Protocol):
    """What a framework's module offers."""

    def libraries(self) -> dict[str, str]:
        """Return the version of each library that belongs to the framework."""

    def threads(self) -> dict[str, int]:
        """Return the framework's thread counts by what they configure."""

    def set_threads(self, count: int) -> None:
        """Have the framework compute with so many threads.

        It may have been imported before the environment said so. One that reads it later has nothing to do.
        """

    def seed(self, number: int) -> None:
        """Have the framework's random numbers begin with a seed, 0 to 2**32 - 1, on every device."""

    def check_device(self, device: Device) -> None:
        """Raise `Unsupported` if the framework cannot compute on such a device here."""

    def graph_file(self, graph: object) -> tuple[str, bytes] | None:
        """Return name and content of the file that keeps a native graph; None if it is not this framework's."""

    def graph_of(self, native: object) -> Graph | None:
        """Return a native graph in the form that all frameworks share; None if it is not this framework's."""


def known() -> dict[str, str]:
    """Return the module with each framework's plug-in functions, by the package that marks it as in use."""
    return {**_BUILT_IN, **installed("dnnamo.frameworks")}


def plugin_module(package: str) -> str:
    """Return the name of the module with a framework's plug-in functions."""
    return known()[package]


def in_use() -> Iterator[Framework]:
    """Yield each framework that this process has imported."""
    for package, module in known().items():
        if package in sys.modules:
            yield cast("Framework", import_module(module))


def render_graph(graph: object) -> tuple[str, bytes]:
    """Return name and content of the file that keeps a framework's own graph, or a `Graph` that a model made itself.

    Raises:
        ModelError: If no framework in use knows the graph's type.
    """
    if isinstance(graph, Graph):
        return "graph.json", graph.to_json()
    for framework in in_use():
        found = framework.graph_file(graph)
        if found is not None:
            return found
    raise ModelError(
        f"The model returned a graph of type {_type(graph)}, which no framework in use can write to a file."
    )


def read_graph(graph: object) -> Graph | None:
    """Return a framework's own graph in the form that all share; None if its framework does not tell it."""
    if isinstance(graph, Graph):
        return graph
    found = (framework.graph_of(graph) for framework in in_use())
    return next((it for it in found if it is not None), None)


def _type(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
