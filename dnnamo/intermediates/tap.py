"""Arrays of a pass through a network as they come: named, chosen by keys, and given on."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from fnmatch import fnmatchcase
from typing import Any

from dnnamo.errors import NoSuchIntermediate
from dnnamo.selection import UnmatchedKeys, selected

__all__ = ["Receive", "Tap"]

Receive = Callable[[str, Any], None]


class _Stopped(BaseException):
    """Ends a pass whose receiver has failed; no `except Exception` of a network or a framework is in its way."""


class Tap:
    """Gives on those arrays of one pass that are asked for.

    Args:
        keys: Identifiers or patterns as a shell has them; None for all.
        receive: Called with identifier and array of each.
        is_array: Whether a value is an array of the framework's; what is none, and no container of some, is passed
            over.
        to_array: Returns an array of the framework's as NumPy's; only called for what was asked for.
        paths: Paths of layers that are known before the pass: a key that is one of them is no pattern.
    """

    def __init__(
        self,
        keys: Iterable[str] | None,
        receive: Receive,
        *,
        is_array: Callable[[Any], bool],
        to_array: Callable[[Any], Any],
        paths: Iterable[str] = (),
    ) -> None:
        self._keys = None if keys is None else list(keys)
        self._patterns = set(self._keys or ()).difference(paths)
        self._receive = receive
        self._is_array = is_array
        self._to_array = to_array
        self._counts: Counter[str] = Counter()
        self._names: dict[str, None] = {}
        self._failure: Exception | None = None

    def offer(self, path: str, value: Any) -> None:
        """Give on what a layer put out: an array, or tuples, lists, dicts and data classes of some."""
        for identifier, leaf in _leaves(path, value):
            if self._is_array(leaf):
                name = self._named(identifier)
                if self._wants(name):
                    self._give(name, leaf)

    def _named(self, identifier: str) -> str:
        """Return the identifier, with a number from the second array on."""
        name = identifier
        while name in self._names:
            self._counts[identifier] += 1
            name = f"{identifier}#{self._counts[identifier] + 1}"
        self._names[name] = None
        return name

    def _wants(self, name: str) -> bool:
        if self._keys is None or name in self._keys:
            return True
        return any(fnmatchcase(name, pattern) for pattern in self._patterns)

    def _give(self, name: str, value: Any) -> None:
        try:
            self._receive(name, self._to_array(value))
        except Exception as error:
            self._failure = error
            raise _Stopped from error

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Make the pass inside of this; a failure of the receiver ends it and is raised as it is.

        Raises:
            NoSuchIntermediate: If a key stands for none of the arrays that came.
        """
        with suppress(_Stopped):
            yield
        if self._failure is not None:  # without `_Stopped` too, where code catches everything and goes on
            raise self._failure
        try:
            selected(self._names, self._keys)
        except UnmatchedKeys as error:
            raise NoSuchIntermediate(f"Among what the layers of the model put out there is no {error}.") from error


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what is in tuples, lists and dicts, by its place."""
    if isinstance(value, Mapping):
        parts: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, tuple | list):
        parts = enumerate(value)
    elif is_dataclass(value) and not isinstance(value, type):
        parts = ((field.name, getattr(value, field.name)) for field in fields(value))
    else:
        yield path, value
        return
    for key, part in parts:
        yield from _leaves(f"{path}.{key}", part)
