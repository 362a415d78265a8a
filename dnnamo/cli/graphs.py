"""`graph`: what a model computes, taken anew or of a job that took it."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from dnnamo import client, records
from dnnamo.cli.options import ModelOptions, with_options
from dnnamo.cli.output import Format, Output, note, show_lines, show_object, show_rows
from dnnamo.cli.results import Model, job_of
from dnnamo.cli.run import Mode
from dnnamo.cli.summary import graph_lines
from dnnamo.graphs.exports import check_form
from dnnamo.graphs.records import GraphTensor
from dnnamo.sizes import as_size
from dnnamo.stored_graph import StoredGraph

__all__ = ["graph"]

By = Literal["kind", "layer"]

_COLUMNS: Mapping[By, tuple[str, ...]] = {
    "kind": ("kind", "operations"),
    "layer": ("layer", "operations", "weights", "weight_elements", "weight_bytes"),
}
_FEW = 4

_OPENERS = {
    "dot": "Graphviz opens it: dot -Tsvg",
    "onnx": "netron.app and ONNX Runtime open it",
    "pb": "TensorBoard and netron.app open it",
    "pt2": "torch.export.load reads it",
}


@with_options
def graph(
    model: Model,
    options: ModelOptions,
    mode: Mode = "inference",
    by: Annotated[By, typer.Option(help="What the operations in one row have in common.")] = "kind",
    to: Annotated[
        str | None, typer.Option(help="Write it instead: json, dot, onnx, pt2, pb, py, or what a plug-in adds.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="Where to; by default standard output in a pipe, else job-ID.… here."),
    ] = None,
    output: Output = Format.table,
) -> None:
    """Take the graph of one step of a model and sum it up, or write it to a file."""
    form = to or (None if file is None else _form_of(file))
    if form is not None:
        check_form(form)
    job = _job(model, mode, options)
    if form is None:
        _show(job, by, output)
    else:
        _export(job, form, file)


def _form_of(file: Path) -> str:
    return Path(file.name.removesuffix(".gz")).suffix.removeprefix(".")


def _job(model: str, mode: client.Mode, options: ModelOptions) -> client.JobHandle:
    """Return the job that took a graph: a stored one, of whatever mode, or a new one."""
    method = client.job(int(model)).spec.method if model.isdecimal() else client.method_of("graph", mode)
    return job_of(model, cast("records.Method", method), options)


def _show(job: client.JobHandle, by: By, output: Format) -> None:
    graph = job.graph
    if output is Format.json:
        show_object(_described(job.id, graph), output)
        return
    rows = _kinds(graph) if by == "kind" else [row.to_dict() for row in graph.layers]
    if output is Format.table:
        show_lines([(f"job {job.id}", job.spec.method), *graph_lines(graph.summary), *_ends(graph)])
        rows = [_readable(row) for row in rows]
    show_rows(rows, _COLUMNS[by], output)


def _described(job_id: int, graph: StoredGraph) -> dict[str, Any]:
    tensors = graph.record.tensors
    return {
        "id": job_id,
        **graph.summary.to_dict(),
        "kinds": graph.kinds,
        "by_layer": [row.to_dict() for row in graph.layers],
        "inputs": [tensors[number].to_dict() for number in graph.record.inputs],
        "outputs": [tensors[number].to_dict() for number in graph.record.outputs],
        "forms": graph.forms,
    }


def _kinds(graph: StoredGraph) -> list[dict[str, Any]]:
    return [{"kind": kind, "operations": count} for kind, count in graph.kinds.items()]


def _readable(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cells of a row as people read them."""
    cells = {name: f"{value:,}" if isinstance(value, int) else value for name, value in row.items()}
    if "layer" in row:
        cells |= {"layer": row["layer"] or "(none)", "weight_bytes": as_size(row["weight_bytes"])}
    return cells


def _ends(graph: StoredGraph) -> list[tuple[str, str]]:
    record = graph.record
    ends = {"inputs": record.inputs, "outputs": record.outputs}
    return [(heading, _named([record.tensors[it] for it in numbers])) for heading, numbers in ends.items()]


def _named(tensors: list[GraphTensor]) -> str:
    """Return the first of some tensors, in words."""
    said = [f"{it.name} {it.dtype or '?'}{_shape(it)}" for it in tensors[:_FEW]]
    more = len(tensors) - _FEW
    return " · ".join([*said, f"{more:,} more"] if more > 0 else said) or "not told"


def _shape(tensor: GraphTensor) -> str:
    return "" if tensor.shape is None else f"[{', '.join('?' if it is None else str(it) for it in tensor.shape)}]"


def _export(job: client.JobHandle, to: str, file: Path | None) -> None:
    graph = job.graph
    for sentence in graph.notes:
        note(f"Note: {sentence}")
    if file is None and not sys.stdout.isatty():
        sys.stdout.flush()
        graph.export(to, sys.stdout.buffer)
        return
    path = file or Path(f"job-{job.id}.{to}")
    graph.export(to, path)
    opens = f"; {_OPENERS[to]}" if to in _OPENERS else ""
    note(f"{path} has {as_size(path.stat().st_size)}{opens}.")
