"""Random numbers that begin with a seed: Python's, NumPy's, and those of every framework that a model uses."""

import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

import numpy as np

from dnnamo.frameworks import in_use, known

__all__ = ["seed_all", "seeding"]


def seed_all(number: int) -> None:
    """Seed Python's, NumPy's and the generators of the frameworks that have been imported."""
    for framework in in_use():
        if hasattr(framework, "seed"):  # else it is being imported itself, as what imports the framework first
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
    finder = _SeedsOnImport(number)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _SeedsOnImport(MetaPathFinder):
    """Finds frameworks as the finders after it do, and has everything seeded once one has been imported."""

    def __init__(self, number: int) -> None:
        self._number = number
        # A framework's own module imports the package, so that can be seeded only when both are there.
        self._awaited = {module for pair in known().items() for module in pair if module not in sys.modules}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of an awaited framework with a loader that seeds; None for anything else."""
        if fullname not in self._awaited:
            return None
        self._awaited.remove(fullname)  # first, as the next line comes back here
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _SeedingLoader(spec.loader, self._number)
        return spec


class _SeedingLoader(Loader):
    """Loads as another loader does, then seeds everything."""

    def __init__(self, loader: Loader, number: int) -> None:
        self._loader = loader
        self._number = number

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Have the other loader make the module."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Have the other loader fill the module, which is that loader's from here on, and seed."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        seed_all(self._number)
