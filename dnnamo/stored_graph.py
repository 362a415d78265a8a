"""The graph that a job took, as it is stored."""

from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from dnnamo.errors import UsageError
from dnnamo.files import replacing
from dnnamo.graphs.exports import check_form, exporter, exporters
from dnnamo.graphs.records import Graph, GraphOperation, GraphTensor
from dnnamo.graphs.summary import LayerCount, Summary, kinds, layers
from dnnamo.tables import Table

if TYPE_CHECKING:
    from dnnamo.client import Session
    from dnnamo.stored import JobHandle

__all__ = ["StoredGraph"]


class StoredGraph:
    """The graph of a job: its figures are at hand, its operations and tensors are read when they are asked for.

    Attributes:
        summary: The figures.
    """

    def __init__(self, job: "JobHandle", summary: Summary, owner: "Session") -> None:
        self.summary = summary
        self._job = job
        self._session = owner

    def __repr__(self) -> str:
        return f"<graph of job {self._job.id}: {self.summary.operations:,} operations, {self.source}>"

    @property
    def source(self) -> str:
        """What it was made of: `torch_export`, `torch_fx`, `graphdef`, `onnx`."""
        return self.summary.source

    @property
    def notes(self) -> list[str]:
        """What must be known to read it, one sentence each."""
        return self.summary.notes

    @cached_property
    def record(self) -> Graph:
        """The whole graph."""
        found = self._session.store.graph(self._job.id)
        if found is None:
            raise UsageError(f"The graph of job {self._job.id} is no longer there.")
        return found

    @property
    def operations(self) -> Table[GraphOperation]:
        """The operations, in the framework's order."""
        return Table(self.record.operations, GraphOperation)

    @property
    def tensors(self) -> Table[GraphTensor]:
        """What the operations pass on, and inputs and weights."""
        return Table(self.record.tensors, GraphTensor)

    @property
    def kinds(self) -> dict[str, int]:
        """How many operations of each kind there are, the most frequent first."""
        return kinds(self.record)

    @property
    def layers(self) -> Table[LayerCount]:
        """What runs in each layer, in the order of their first operations."""
        return Table(layers(self.record), LayerCount)

    @property
    def files(self) -> list[str]:
        """Names of the files that keep the framework's own graph."""
        return [it.name for it in self._job.artifacts if it.name.startswith("graph.")]

    @property
    def forms(self) -> list[str]:
        """What it can be exported to, its native file's suffix first."""
        own = [Path(name).suffix.removeprefix(".") for name in self.files]
        made = [name for name in exporters() if name != "onnx" or "pt2" in own]
        return list(dict.fromkeys([*own, *made]))

    def native(self, suffix: str) -> bytes | None:
        """Return the content of the framework's own file with a suffix, None if it is another one."""
        name = f"graph.{suffix}"
        return self._job.read(name) if name in self.files else None

    def export(self, to: str, file: str | PathLike[str] | BinaryIO) -> None:
        """Write the graph.

        Args:
            to: One of `forms`: `json`, `dot`, the suffix of the native file (`pt2`, `py`, `pb`, `onnx`), `onnx` where
                that is `pt2`, or what a plug-in adds.
            file: A path, or a file that is open for bytes. What goes to a path that ends with `.gz` is gzipped.

        Raises:
            UsageError: If it cannot be had in this form; the message says in which it can.
            MissingExtra: If what makes this form is not installed here.
            OSError: If the file cannot be written; what was there before is left as it was.
        """
        if isinstance(file, str | PathLike):
            with replacing(Path(file)) as opened:
                self._write(to, opened)
        else:
            self._write(to, file)

    def _write(self, to: str, file: BinaryIO) -> None:
        check_form(to)
        content = self.native(to)
        write = exporter(to)
        if content is not None:
            file.write(content)
        elif write is not None:
            write(self, file)
        else:
            raise UsageError(
                f"Job {self._job.id} keeps its graph in {', '.join(self.files)}, and none in graph.{to}. It can be "
                f"exported to {', '.join(self.forms)}."
            )
