"""Random numbers that begin with a seed: Python's, NumPy's, and those of every framework that a model uses."""

import builtins
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from dnnamo.frameworks import PRELOADS, in_use, known

__all__ = ["seed_all", "seeding"]


def seed_all(number: int) -> None:
    """Seed Python's, NumPy's and the generators of the frameworks that have been imported."""
    for framework in in_use():
        framework.seed(number)
    random.seed(number)
    np.random.seed(number)


@contextmanager
def seeding(number: int | None) -> Iterator[None]:
    """Seed everything now, and again when a framework is imported in the block, by a loader function for example.

    Args:
        number: The seed; None leaves random numbers to chance.
    """
    if number is None:
        yield
        return
    seed_all(number)
    plain = builtins.__import__
    builtins.__import__ = _SeedingImport(number)
    try:
        yield
    finally:
        builtins.__import__ = plain


class _SeedingImport:
    """Python's `__import__`, which seeds everything as soon as one more framework can be used."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._import = builtins.__import__
        self._awaited = {package: plugin for package, plugin in known().items() if package not in sys.modules}

    def __call__(self, *given: Any, **more: Any) -> Any:
        module = self._import(*given, **more)
        ready = [package for package, plugin in self._awaited.items() if _is_ready(package, plugin)]
        for package in ready:
            del self._awaited[package]  # first, as seeding imports the plug-in
        if ready:
            seed_all(self._number)
        return module


def _is_ready(package: str, plugin: str) -> bool:
    """Whether a framework has been imported, and its plug-in and what that needs are not half imported now."""
    if package not in sys.modules:
        return False
    needed = PRELOADS[package].modules if package in PRELOADS else ()
    return not any(_is_half_imported(name) for name in (package, plugin, *needed))


def _is_half_imported(name: str) -> bool:
    return getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False)
