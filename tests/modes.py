"""Modes of files mean nothing to root; here they do."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["obeying_modes"]

_DAC_OVERRIDE, _DAC_READ_SEARCH = 1 << 1, 1 << 2
_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def obeying_modes() -> Iterator[None]:
    """Be held to the modes of files during the block, as everybody but root is; see capabilities(7), capget(2)."""
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    before = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable ones, twice
    _call("capget", header, before)
    held = (ctypes.c_uint32 * 6)(*before)
    held[0] &= ~(_DAC_OVERRIDE | _DAC_READ_SEARCH)
    _call("capset", header, held)
    try:
        yield
    finally:
        _call("capset", header, before)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), name)
