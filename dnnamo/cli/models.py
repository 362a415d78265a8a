"""`models`: the schemes that name models, and the names that one of them has."""

from fnmatch import fnmatch
from typing import Annotated, Any

import typer

from dnnamo.cli.output import Format, Output, note, show_rows

__all__ = ["models"]


def models(
    scheme: Annotated[str | None, typer.Argument(metavar="[SCHEME]", help="List the names of this one.")] = None,
    like: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Only names like this, as in '*50*'; case does not matter.")
    ] = None,
    output: Output = Format.table,
) -> None:
    """List the schemes that model references can have, or what one of them can load."""
    if scheme is None:
        rows = [row for row in _schemes() if _fits(row["scheme"], like)]
        show_rows(rows, ("scheme", "takes", "extra", "installed"), output)
        return
    found = [name for name in _names(scheme) if _fits(name, like)]
    show_rows([{"model": f"{scheme}:{name}"} for name in found], ("model",), output)
    if not found and output is Format.table:
        note(f"{scheme}: has no name like {like!r}." if like else f"{scheme}: lists no names; it takes any that fits.")


def _schemes() -> list[dict[str, Any]]:
    from dnnamo.loaders import schemes

    described = map(schemes.describe, schemes.known())
    return [
        {
            "scheme": it.scheme,
            "takes": it.takes,
            "extra": it.extra,
            "installed": "yes" if it.installed else "no",
        }
        for it in described
    ]


def _names(scheme: str) -> list[str]:
    from dnnamo.loaders import schemes

    names = getattr(schemes.find(scheme.removesuffix(":")), "names", None)
    return [] if names is None else list(names())


def _fits(name: str, pattern: str | None) -> bool:
    return pattern is None or fnmatch(name.lower(), pattern.lower())
