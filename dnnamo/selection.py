"""Choosing among names by keys: exact names, or patterns as a shell has them (`layer?.*`, `*.weight`)."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase

from dnnamo.errors import WeightsError

__all__ = ["UnmatchedKeys", "has_pattern", "refuse_unknown_weights", "selected"]


class UnmatchedKeys(LookupError):
    """Raised when keys match no name; the message names each with the name nearest to it."""


def has_pattern(keys: Iterable[str]) -> bool:
    """Whether any of the keys may be a pattern."""
    return any(character in key for key in keys for character in "*?[")


def selected(names: Iterable[str], keys: Iterable[str] | None) -> list[str]:
    """Return the names that keys stand for, in the order of the keys, each once; all of them without keys.

    A key that is a name stands for that one alone, whatever characters it has.

    Raises:
        UnmatchedKeys: If a key matches none.
    """
    known = dict.fromkeys(names)
    if keys is None:
        return list(known)
    found = {key: [key] if key in known else [name for name in known if fnmatchcase(name, key)] for key in keys}
    if unmatched := [key for key, matches in found.items() if not matches]:
        raise UnmatchedKeys(", ".join(_with_nearest(key, known) for key in unmatched))
    return list(dict.fromkeys(name for matches in found.values() for name in matches))


def refuse_unknown_weights(names: Iterable[str], weights: Collection[str]) -> None:
    """Refuse names that are none of a model's weights.

    Raises:
        WeightsError: If there are such; the message names each with the one nearest to it.
    """
    if unknown := [_with_nearest(name, weights) for name in names if name not in weights]:
        raise WeightsError(f"The model has no weights named {', '.join(unknown)}; nothing was changed.")


def _with_nearest(key: str, names: Iterable[str]) -> str:
    nearest = get_close_matches(key, list(names), n=1)
    return f"{key!r} (the nearest is {nearest[0]!r})" if nearest else repr(key)
