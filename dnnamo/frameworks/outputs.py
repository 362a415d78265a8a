"""What the steps of a model return, kept while further steps run."""

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dnnamo.arrays import Array

__all__ = ["Outputs", "TreeMap", "forgotten"]

TreeMap = Callable[[Callable[[Any], Any], Any], Any]
"""A framework's function that calls another one for each leaf of a structure and returns the same structure of that."""

_BLOCK_BYTES = 1 << 22
_ALIGNMENT = 64


class Outputs:
    """Copies of what steps returned, in pages of their own.

    On the heap the copies, and what NumPy notes about each, would stand between the arrays of the steps; the next step
    would find no room for its own, and fault in new pages in the time that is measured: 2 to 3 % of a step of
    demo:transformer.

    Args:
        tree_map: Maps the leaves of what a step returns.
        to_array: Returns the array of a leaf, which may be a view; a leaf that is none as it is.
    """

    def __init__(self, tree_map: TreeMap, to_array: Callable[[Any], Any]) -> None:
        self._map = tree_map
        self._to_array = to_array
        self._block, self._end = _mapped(1), 1

    def keep(self, output: Any) -> Any:
        """Copy what a step returned; return what `arrays` takes."""
        return self._map(self._kept, output)

    def arrays(self, kept: list[Any]) -> list[Any]:
        """Return what steps returned, with NumPy's arrays in it."""
        return [self._map(_as_array, each) for each in kept]

    def _kept(self, leaf: Any) -> Any:
        array = self._to_array(leaf)
        return self._copied(array) if isinstance(array, np.ndarray) and not array.dtype.hasobject else array

    def _copied(self, array: Array) -> "_Kept":
        if self._end + array.nbytes > len(self._block):
            self._block, self._end = _mapped(max(_BLOCK_BYTES, array.nbytes)), 0
        kept = _Kept(self._block, self._end, array.dtype, array.shape)
        kept.array()[...] = array
        self._end += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        return kept


def forgotten(one_step: Callable[..., Any]) -> Callable[..., None]:
    """Return a step that returns nothing, so that nothing of it is held during the next."""

    def step(*given: Any) -> None:
        one_step(*given)

    return step


@dataclass(frozen=True, slots=True)
class _Kept:
    """Says where an array is."""

    block: mmap.mmap
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def array(self) -> Array:
        return np.ndarray(self.shape, self.dtype, self.block, self.offset)


def _as_array(leaf: Any) -> Any:
    return leaf.array() if isinstance(leaf, _Kept) else leaf


def _mapped(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
