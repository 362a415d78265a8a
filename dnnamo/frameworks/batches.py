"""Batches that can be looked at ahead of the step that takes them, whatever they are drawn from."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np

__all__ = ["Batches", "Draws", "PlainDraws"]


class Draws(Protocol):
    """The random numbers that come next."""

    def state(self) -> Any:
        """Return where the generators stand, as a value that is equal to that of the same place."""

    def restore(self, state: Any) -> None:
        """Have the generators stand where they stood."""


class PlainDraws:
    """Those of Python and of NumPy's global generator."""

    def state(self) -> tuple[Any, ...]:
        """Return where the generators stand."""
        kind, words, *rest = np.random.get_state(legacy=True)
        return random.getstate(), kind, np.asarray(words).tobytes(), *rest

    def restore(self, state: tuple[Any, ...]) -> None:
        """Have the generators stand where they stood."""
        python, kind, words, *rest = state
        random.setstate(python)
        np.random.set_state((kind, np.frombuffer(words, np.uint32), *rest))


class _Ahead(NamedTuple):
    """A batch that nobody has taken yet, and where the generators stood before and after it was made."""

    batch: Any
    before: Any
    after: Any


class Batches:
    """Makes batches, one a call.

    Args:
        make: Makes a batch. It may draw random numbers, or go on with data of its own.
        draws: The generators that it may draw from.
    """

    def __init__(self, make: Callable[[], Any], draws: Draws) -> None:
        self._make = make
        self._draws = draws
        self._ahead: _Ahead | None = None

    def __call__(self) -> Any:
        """Return the next batch."""
        ahead, self._ahead = self._ahead, None
        if ahead is None or self._drawn_anew(ahead):
            return self._make()
        if ahead.before != ahead.after:
            self._draws.restore(ahead.after)
        return ahead.batch

    def _drawn_anew(self, ahead: _Ahead) -> bool:
        """Whether the batch would be another one now, as it was drawn and the generators stand elsewhere."""
        return bool(ahead.before != ahead.after and self._draws.state() != ahead.before)

    @contextmanager
    def peek(self) -> Iterator[Any]:
        """Give the batch that comes next, and leave it and the random numbers to whoever comes next."""
        before = self._draws.state()
        batch = self()
        after = self._draws.state()
        try:
            yield batch
        finally:
            self._draws.restore(before)
            self._ahead = _Ahead(batch, before, after)
