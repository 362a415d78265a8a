"""`sql`: questions to the database in its own language."""

from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from dnnamo import client
from dnnamo.cli.output import Format, Output, note, show_rows

__all__ = ["sql"]


def sql(
    statement: Annotated[str, typer.Argument(help="One statement that reads.", show_default=False)],
    limit: Annotated[int, typer.Option(help="At most so many rows.", min=1, max=1_000_000)] = 1000,
    output: Output = Format.table,
) -> None:
    """Ask the database in SQL, read only: jobs, results, profiles, profile_steps, operations and its other tables."""
    from dnnamo.settings import load_settings
    from dnnamo_storage.sql import read_only

    client.session()  # which sees to it that the database has its tables
    found = read_only(load_settings().database, statement, limit=limit)
    columns = list(_told_apart(found.columns))
    show_rows([dict(zip(columns, row, strict=True)) for row in found.rows], columns, output)
    if found.more:
        note(f"There are more than these {limit:,} rows; --limit says how many to show.")


def _told_apart(columns: Sequence[str]) -> Iterator[str]:
    """Yield the names of columns, those that came before with a number."""
    for at, name in enumerate(columns):
        before = columns[:at].count(name)
        yield f"{name}_{before + 1}" if before else name
