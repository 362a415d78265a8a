"""What the command line prints: data to standard output as a table, JSON or CSV, everything else to standard error."""

import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any

import typer

__all__ = ["Format", "Output", "Tell", "note", "progress", "show_lines", "show_object", "show_rows"]

_NUMBER = re.compile(r"-?[\d,.]*%?$")
_SHORT = 18
_LONG = 200

Row = Mapping[str, Any]


class Format(StrEnum):
    """How data is printed."""

    table = "table"
    json = "json"
    csv = "csv"


Output = Annotated[Format, typer.Option("--output", "-o", help="How to print the data.")]


def note(text: str) -> None:
    """Say something that is not data."""
    typer.echo(text, err=True)


Tell = Callable[[str, int, int | None], None]
"""Says how far something is: in words, and as so many done of how many; without the latter the bar only moves."""


@contextmanager
def progress(name: str) -> Iterator[Tell]:
    """Show that something goes on and how far it is, if somebody is looking; nothing of it stays."""
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        yield _tell_nobody
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    heading, said = (TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[said]}"))
    with Progress(heading, BarColumn(16), said, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(name, total=None, said="")
        yield lambda text, done, of: shown.update(task, completed=done, total=of, said=text)


def _tell_nobody(text: str, done: int, of: int | None) -> None:
    """Be silent, as there is no terminal."""


def show_rows(rows: Sequence[Row], columns: Sequence[str], format: Format) -> None:  # noqa: A002
    """Print rows; JSON has every field, table and CSV have `columns`."""
    if format is Format.json:
        typer.echo(json.dumps(list(rows), indent=2, allow_nan=False))
    elif format is Format.csv:
        _csv(rows, columns)
    else:
        _table(rows, columns)


def show_object(values: Row, format: Format) -> None:  # noqa: A002
    """Print one thing as a JSON object or a CSV of one row."""
    if format is Format.json:
        typer.echo(json.dumps(values, indent=2, allow_nan=False))
    else:
        _csv([values], list(values))


def show_lines(lines: Iterable[tuple[str, str]]) -> None:
    """Print pairs of a heading and a line."""
    for heading, line in lines:
        typer.echo(f"{heading:<12} {line}")


def _csv(rows: Sequence[Row], columns: Sequence[str]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row[column]) for column in columns] for row in rows)


def _table(rows: Sequence[Row], columns: Sequence[str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        is_number = all(_NUMBER.match(_cell(row[column])) for row in rows)
        # What is short stays whole; in a narrow terminal the long columns fold instead.
        is_short = all(len(_cell(row[column])) <= _SHORT for row in rows)
        table.add_column(column, justify="right" if is_number else "left", overflow="fold", no_wrap=is_short)
    for row in rows:
        table.add_row(*(_shortened(_cell(row[column])) for column in columns))
    # Without a terminal Rich folds at 80 columns, which breaks up what a pipe is to read.
    width = None if sys.stdout.isatty() else 10_000
    console = Console(markup=False, highlight=False, emoji=False, width=width)
    with console.capture() as printed:
        console.print(table)
    lines = [line.rstrip() for line in printed.get().splitlines()]
    typer.echo("\n".join(line for line in lines if line))


def _shortened(text: str) -> str:
    return text if len(text) <= _LONG else f"{text[:_LONG]}…"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
