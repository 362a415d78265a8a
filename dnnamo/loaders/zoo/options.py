"""The options that the schemes share: sizes of a batch, and a function that makes it in place of them."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from dnnamo.errors import LoaderError
from dnnamo.loaders.demos import check_sizes

__all__ = ["BATCH", "MakeBatch", "check_fields", "checked", "flag", "listed", "told"]

MakeBatch = Callable[[], tuple[Any, Any]]

BATCH = 8
"""Examples in a batch where neither the job nor a file says how many."""


def checked(*, data: MakeBatch | None, **sizes: int | None) -> None:
    """Refuse sizes that are not whole numbers of at least 1, and a size of the batch together with a function.

    Args:
        data: The function that makes the batch, if the job names one.
        sizes: `batch`, `length` and what else shapes the batch and nothing else; None where it is not given.

    Raises:
        LoaderError: If one is something else, or there are both.
    """
    given = {name: size for name, size in sizes.items() if size is not None}
    check_sizes(**given)
    if data is not None and given:
        raise LoaderError(f"{' and '.join(given)} cannot be given together with data, whose function makes the batch.")


def flag(name: str, value: object) -> bool:
    """Return an option that is yes or no.

    Raises:
        LoaderError: If it is something else.
    """
    if not isinstance(value, bool):
        raise LoaderError(f"{name} is {value!r}; it must be true or false.")
    return value


def check_fields(what: str, fields: Mapping[str, Any], known: Any) -> None:
    """Refuse options that a network's configuration does not have.

    Raises:
        LoaderError: With the nearest name that it has.
    """
    for name in fields:
        if name not in known:
            nearest = get_close_matches(name, known, n=1)
            hint = f"Did you mean {nearest[0]}?" if nearest else f"It takes {', '.join(sorted(known))}."
            raise LoaderError(f"{what} has no option {name!r}. {hint}")


def told(**sizes: object) -> str:
    """Return the sentence that says how a batch was made, for `Model.made_of`."""
    if callable(sizes.get("data")):
        return "Its batch is what the function of the option data returned."
    return f"Its inputs were made with {listed(**sizes)}: change them with -p if they are what it refuses."


def listed(**options: object) -> str:
    """Return options as they are given, those that are not None."""
    return ", ".join(f"{name}={value}" for name, value in options.items() if value is not None)
