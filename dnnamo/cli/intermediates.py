"""`intermediates`: what the layers of a model put out for one input, as figures or in full."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dnnamo.cli.options import ModelOptions, with_options
from dnnamo.cli.output import Format, Output, note, show_rows
from dnnamo.cli.results import Model, job_of
from dnnamo.cli.summary import intermediates_line
from dnnamo.errors import UsageError
from dnnamo.intermediates import Intermediate
from dnnamo.stored import JobHandle

__all__ = ["intermediates"]

_FIGURES = ("min", "max", "mean", "std")
_TABLE = ("name", "type", "shape", *_FIGURES, "zeros", "not finite")
_CSV = ("name", "dtype", "shape", "count", "bytes", *_FIGURES, "zero_fraction", "non_finite", "histogram")


@with_options
def intermediates(
    model: Model,
    options: ModelOptions,
    keys: Annotated[
        list[str] | None,
        typer.Option("--keys", "-k", metavar="PATTERN", help="Only those named so, as in 'encoder.*'; repeatable."),
    ] = None,
    values: Annotated[
        bool, typer.Option("--values/--stats", help="Keep the arrays in full, or only what they come to.")
    ] = False,
    budget: Annotated[
        str | None, typer.Option(metavar="SIZE", help="What they may have together in full; by default 1GiB.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the arrays to this file, as safetensors.")
    ] = None,
    output: Output = Format.table,
) -> None:
    """Show what each layer of a model puts out for one input, or did in a stored job: figures or, in full, arrays."""
    if to is not None and not (values or model.isdecimal()):
        raise UsageError("--to writes arrays, of which this job would keep figures alone; ask for them with --values.")
    job = job_of(model, "get_intermediates", options, keys=keys or [], values=values, budget=budget)
    found = job.intermediates
    if output is Format.table:
        show_rows([_row(it) for it in found], _TABLE, output)
    else:
        show_rows([_described(it) for it in found], _CSV, output)
    note(f"Job {job.id} has {intermediates_line(found)}{'' if to is None else _written(job, to)}.")


def _row(it: Intermediate) -> dict[str, Any]:
    return {
        "name": it.name,
        "type": it.dtype,
        "shape": it.shape,
        **{name: _short(getattr(it, name)) for name in _FIGURES},
        "zeros": "" if it.zero_fraction is None else f"{it.zero_fraction:.1%}",
        "not finite": f"{it.non_finite:,}" if it.non_finite else "",
    }


def _short(number: float | None) -> str:
    return "" if number is None else f"{number:.4g}"


def _described(it: Intermediate) -> dict[str, Any]:
    return {**it.to_dict(), "count": it.count, "zero_fraction": it.zero_fraction, "edges": it.edges}


def _written(job: JobHandle, path: Path) -> str:
    from dnnamo.arrays import ArrayWriter

    with ArrayWriter(path) as file:
        for name, array in job.values():
            file.add(name, array)
    return f"; in full in {path}"
