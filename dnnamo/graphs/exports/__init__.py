"""What a stored graph can be written as.

An exporter is a function that writes a graph to a file that is open for bytes. Other packages add theirs under the
entry-point group `dnnamo.graph_exporters`, as `name = "package.module:function"`. Besides, a job gives back the file in
which its framework keeps the graph, by that file's suffix.
"""

from collections.abc import Callable
from importlib import import_module
from typing import BinaryIO, Protocol, cast

from dnnamo.errors import UsageError
from dnnamo.graphs.records import Graph
from dnnamo.plugins import installed

__all__ = ["NATIVE", "Exporter", "Source", "check_form", "exporter", "exporters"]

NATIVE = ("pt2", "pb", "onnx", "py")
"""Suffixes of the files in which the frameworks that Dnnamo brings keep their graphs."""

_BUILT_IN = {
    "json": "dnnamo.graphs.exports.json:write",
    "dot": "dnnamo.graphs.exports.dot:write",
    "onnx": "dnnamo.frameworks.pytorch.onnx:write",
}


class Source(Protocol):
    """What an exporter is given."""

    @property
    def record(self) -> Graph:
        """The graph."""

    @property
    def forms(self) -> list[str]:
        """What it can be exported to, its native file's suffix first."""

    def native(self, suffix: str) -> bytes | None:
        """Return the content of the native file with a suffix, None if the graph was kept in another one."""


Exporter = Callable[[Source, BinaryIO], None]
"""Writes a graph to a file."""


def exporters() -> dict[str, str]:
    """Return where each exporter is found, by name."""
    return {**installed("dnnamo.graph_exporters"), **_BUILT_IN}


def check_form(name: str) -> None:
    """Raise `UsageError` if no graph at all can be exported to that."""
    known = dict.fromkeys([*exporters(), *NATIVE])
    if name not in known:
        raise UsageError(f"A graph cannot be exported to {name!r}; it can be to one of {', '.join(known)}.")


def exporter(name: str) -> Exporter | None:
    """Return the exporter of this name, None if there is none."""
    place = exporters().get(name)
    if place is None:
        return None
    module, _, function = place.partition(":")
    return cast("Exporter", getattr(import_module(module), function))
