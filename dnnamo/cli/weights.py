"""`weights`: what a model has learned, as a list and as a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dnnamo.cli.options import ModelOptions, with_options
from dnnamo.cli.output import Format, Output, note, show_rows
from dnnamo.cli.results import Model, job_of
from dnnamo.cli.summary import counted
from dnnamo.files import replacing
from dnnamo.sizes import as_size

if TYPE_CHECKING:
    from dnnamo.arrays import Entry

__all__ = ["weights"]

_COLUMNS = ("name", "type", "shape", "bytes")


@with_options
def weights(
    model: Model,
    options: ModelOptions,
    keys: Annotated[
        list[str] | None,
        typer.Option("--keys", "-k", metavar="PATTERN", help="Only weights named so, as in 'encoder.*'; repeatable."),
    ] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write them to this file, as safetensors.")
    ] = None,
    output: Output = Format.table,
) -> None:
    """Get a model's weights, or those that a stored job got: their names, types, shapes and, with --to, values."""
    from dnnamo.arrays import entries

    job = job_of(model, "get_weights", options, keys=keys or [])
    file = job.weights_file()
    found = entries(file)
    show_rows([_row(entry) for entry in found], _COLUMNS, output)
    if to is not None:
        with replacing(to) as opened:
            opened.write(file)
    note(f"Job {job.id} has {counted(len(found), 'array')}, {as_size(sum(it.nbytes for it in found))}{_where(to)}.")


def _row(entry: "Entry") -> dict[str, Any]:
    return {"name": entry.name, "type": str(entry.dtype), "shape": list(entry.shape), "bytes": entry.nbytes}


def _where(to: Path | None) -> str:
    return "" if to is None else f", in {to}"
