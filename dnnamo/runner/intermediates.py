"""What a model gives as intermediates, one array after the other: described, and kept in full if the job asks."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dnnamo.arrays import Array, ArrayFileError, ArrayWriter
from dnnamo.errors import ModelError, NoSuchIntermediate, OverBudget
from dnnamo.intermediates.statistics import describe
from dnnamo.intermediates.tap import Tap
from dnnamo.records import VALUES_BUDGET_BYTES, VALUES_NAME, JobSpec
from dnnamo.runner.arrays import as_array
from dnnamo.selection import UnmatchedKeys, selected
from dnnamo.sizes import as_size

if TYPE_CHECKING:
    from dnnamo.intermediates.records import Intermediate

__all__ = ["Intermediates", "take_intermediates"]

FILE_BYTES = 1 << 28
"""A file of arrays takes another one up to this size; it is twice in the scratch folder while it is finished."""

LARGEST_BYTES = 500 * 2**20
"""Size of the largest array that is kept: what a database takes as one artifact, with room for the rest of the file."""


def take_intermediates(model: Any, spec: JobSpec, folder: Path) -> "Intermediates":
    """Have a model give the intermediates that a job asks for.

    Args:
        model: It has `get_intermediates`, with or without the arguments of the interface.
        spec: Says which, and whether in full.
        folder: Where files of arrays go.

    Raises:
        NoSuchIntermediate: If a key stands for none.
        OverBudget: If those to keep are larger than they may be.
        ModelError: If the model gives something else than arrays by name.
    """
    with Intermediates(spec, folder) as taken:
        _pass_to(model, spec.keys or None, taken.receive)
    return taken


def _pass_to(model: Any, keys: Sequence[str] | None, receive: Callable[[str, Any], None]) -> None:
    known = _parameters(model.get_intermediates)
    if "receive" in known and "keys" not in known:
        tap = Tap(keys, receive, is_array=lambda _: True, to_array=lambda array: array)
        with tap.passing():
            model.get_intermediates(receive=tap.offer)
        return
    arguments = {"keys": keys, "receive": receive}
    returned = model.get_intermediates(**{name: it for name, it in arguments.items() if name in known})
    for name in _chosen(returned, None if "keys" in known else keys):
        receive(name, returned[name])


def _parameters(method: Callable[..., Any]) -> Sequence[str]:
    """Return the names of a method's parameters; that of both arguments if it takes any."""
    parameters = inspect.signature(method).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return ("keys", "receive") if takes_any else list(parameters)


def _chosen(returned: Any, keys: Sequence[str] | None) -> list[str]:
    if not isinstance(returned, dict):
        raise ModelError(
            f"get_intermediates must return a dict from identifiers to arrays, not a {type(returned).__name__}."
        )
    try:
        return selected(returned, keys)
    except UnmatchedKeys as error:
        raise NoSuchIntermediate(f"The model has no intermediates named {error}.") from error


class Intermediates:
    """Takes intermediates.

    Attributes:
        described: What each comes to, in the order in which they came.
        files: Names of the files that hold them in full.
    """

    def __init__(self, spec: JobSpec, folder: Path) -> None:
        self.described: dict[str, Intermediate] = {}
        self.files: list[str] = []
        self._values = _Values(spec.budget_bytes or VALUES_BUDGET_BYTES, folder, self.files) if spec.values else None

    def __enter__(self) -> "Intermediates":
        return self

    def __exit__(self, *raised: Any) -> None:
        if self._values is not None:
            self._values.close(*raised)

    def receive(self, name: str, value: Any) -> None:
        """Take one array."""
        name = str(name)
        if name in self.described:
            raise ModelError(f"get_intermediates gave two arrays by the name of {name!r}; their names must differ.")
        array = _numbers(name, value)
        if self._values is not None:
            self._values.add(name, array)
        self.described[name] = describe(name, array)


def _numbers(name: str, value: Any) -> Array:
    array = value if isinstance(value, np.ndarray) and value.dtype.kind == "c" else as_array(value)
    if array is None:
        raise ModelError(f"get_intermediates returned values that are no arrays of numbers: {name}.")
    return array


class _Values:
    """Writes arrays to files, as far as the budget goes."""

    def __init__(self, budget_bytes: int, folder: Path, names: list[str]) -> None:
        self._budget_bytes = budget_bytes
        self._folder = folder
        self._names = names
        self._open = ExitStack()
        self._in_file = 0
        self._before = (0, 0)  # arrays, and their bytes
        self._writer = self._next_writer()

    def _next_writer(self) -> ArrayWriter:
        self._open.close()
        number = len(self._names) + 1
        stem, suffix = VALUES_NAME.split(".")
        self._names.append(VALUES_NAME if number == 1 else f"{stem}-{number}.{suffix}")
        self._in_file = 0
        return self._open.enter_context(ArrayWriter(self._folder / self._names[-1]))

    def add(self, name: str, array: Array) -> None:
        """Write an array; raises `OverBudget` before one that goes beyond."""
        count, size = self._before
        if size + array.nbytes > self._budget_bytes or array.nbytes > LARGEST_BYTES:
            raise OverBudget(" ".join(self._refusal(name, array)))
        if self._in_file and self._in_file + array.nbytes > FILE_BYTES:
            self._writer = self._next_writer()
        try:
            self._writer.add(name, array)
        except ArrayFileError as error:
            raise ModelError(f"An intermediate cannot be kept in full: {error} Its statistics can.") from error
        self._in_file += array.nbytes
        self._before = count + 1, size + array.nbytes

    def _refusal(self, name: str, array: Array) -> Iterator[str]:
        count, size = self._before
        one = f"{name!r} ({array.dtype.name} {list(array.shape)}, {as_size(array.nbytes)})"
        if array.nbytes > LARGEST_BYTES:
            yield f"{one} is larger than what is kept of one intermediate, {as_size(LARGEST_BYTES)}."
            yield "Leave it out with --keys, or keep statistics alone, without --values."
            return
        yield f"The intermediates are larger than the {as_size(self._budget_bytes)} that they may have: {one} comes on"
        yield f"top of {count} before it, {as_size(size)}. Keep fewer with --keys, statistics alone without --values,"
        yield "or more with --budget."

    def close(self, *raised: Any) -> None:
        """Finish the last file, or let go of it if something was raised."""
        self._open.__exit__(*raised)
