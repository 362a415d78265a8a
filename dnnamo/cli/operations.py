"""`ops`: the operation table of a profile."""

from typing import Annotated, Any

import typer

from dnnamo import client
from dnnamo.cli.jobs import Id
from dnnamo.cli.output import Format, Output, note, show_rows
from dnnamo.records import Operation

__all__ = ["ops"]

_READ = ("name", "calls", "self", "self ms", "total ms", "device ms", "shapes")
_COLUMNS = ("name", "calls", "self_ns", "total_ns", "device_ns", "shapes")


def _row(operation: Operation) -> dict[str, Any]:
    return {column: getattr(operation, column) for column in _COLUMNS}


def _listed(operation: Operation, total_ns: int) -> dict[str, Any]:
    return {
        "name": operation.name,
        "calls": operation.calls,
        "self": f"{operation.self_ns / total_ns:.1%}",
        "self ms": f"{operation.self_ns / 1e6:,.3f}",
        "total ms": f"{operation.total_ns / 1e6:,.3f}",
        "device ms": f"{operation.device_ns / 1e6:,.3f}" if operation.device_ns else "",
        "shapes": operation.shapes,
    }


def ops(
    id: Id,  # noqa: A002
    top: Annotated[int | None, typer.Option(help="Only the first so many rows.", min=1)] = None,
    output: Output = Format.table,
) -> None:
    """Show the operations of a profile by self time, one row for each operation and input shapes."""
    profile = client.job(id).profile
    if output is not Format.table:
        show_rows([_row(operation) for operation in profile.operations[:top]], _COLUMNS, output)
        return
    total = sum(operation.self_ns for operation in profile.operations) or 1
    show_rows([_listed(operation, total) for operation in profile.operations[:top]], _READ, output)
    if profile.coverage is not None:
        note(f"{len(profile.step_ns)} steps with the profiler on; an operation ran for {profile.coverage:.1%} of them.")
