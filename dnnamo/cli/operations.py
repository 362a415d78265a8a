"""`ops`: the operation table of a profile."""

from typing import Annotated

import typer

from dnnamo import client
from dnnamo.cli.jobs import Id
from dnnamo.cli.output import Format, Output, note, show_rows

__all__ = ["ops"]

_COLUMNS = ("name", "calls", "self_ns", "total_ns", "device_ns", "shapes")


def ops(
    id: Id,  # noqa: A002
    top: Annotated[int | None, typer.Option(help="Only the first so many rows.", min=1)] = None,
    output: Output = Format.table,
) -> None:
    """Show the operations of a profile by self time, one row for each operation and input shapes."""
    profile = client.job(id).profile
    rows = [{column: getattr(operation, column) for column in _COLUMNS} for operation in profile.operations[:top]]
    show_rows(rows, _COLUMNS, output)
    if output is Format.table and profile.coverage is not None:
        note(f"{len(profile.step_ns)} steps with the profiler on; an operation ran for {profile.coverage:.1%} of them.")
