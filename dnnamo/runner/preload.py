"""Import a framework ahead of need, without it passing for used.

What a model uses is told by what it has imported: `dnnamo.frameworks.in_use` and much else looks at `sys.modules`. So
modules that were imported ahead are put aside, and come back, as they are, with the first import of one of them.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

from dnnamo.frameworks import PRELOADS, plugin_module

__all__ = ["can_fork", "preload", "preload_profiles"]


def can_fork(packages: Sequence[str]) -> bool:
    """Whether a process that has imported all of these may be forked."""
    return all(PRELOADS[package].forks for package in packages if package in PRELOADS)


def preload(package: str) -> None:
    """Import a framework's package with what running and profiling need of it, and put it aside.

    A package that is no framework is passed over. One that is not installed, or fails to import, is left to the model's
    own import, which shows the error.
    """
    if package not in PRELOADS or find_spec(package) is None:
        return
    before = set(sys.modules)
    plugin = plugin_module(package)
    try:
        for name in (package, *PRELOADS[package].modules, plugin):
            import_module(name)
    except Exception:  # of the framework's own code, so it may be anything
        for name in set(sys.modules) - before:
            del sys.modules[name]
    else:
        sys.meta_path.insert(0, _Aside([package, plugin]))


def preload_profiles() -> None:
    """Import what makes a stored profile of a recording, so that none of it is waited for once there is one."""
    # Arrow's own allocators take new memory for each column of a table; the one that it has by default also starts a
    # thread unless told otherwise, and a process with several is not forked.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")
    for name in ("build", "readers.kineto"):
        import_module(f"dnnamo.profiles.{name}")


class _Aside(MetaPathFinder, Loader):
    """Modules that were imported and taken out of `sys.modules`, to be put back when one of them is asked for."""

    def __init__(self, roots: Sequence[str]) -> None:
        names = [name for name in sys.modules if any(f"{name}.".startswith(f"{root}.") for root in roots)]
        self._modules = {name: sys.modules.pop(name) for name in names}
        self._holders = [(name, holder) for name in names if (holder := sys.modules.get(name.rpartition(".")[0]))]
        for name, holder in self._holders:
            # So that `from package import module` asks the import system where the package itself stays.
            delattr(holder, name.rpartition(".")[2])

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return a spec whose loader puts everything back."""
        known = self._modules[fullname].__spec__ if fullname in self._modules else None
        if known is None:
            return None
        spec = ModuleSpec(fullname, self, origin=known.origin, loader_state=known)
        spec.submodule_search_locations = known.submodule_search_locations
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Put all modules back and return the one asked for."""
        sys.meta_path.remove(self)
        sys.modules.update(self._modules)
        for name, holder in self._holders:
            setattr(holder, name.rpartition(".")[2], self._modules[name])
        return self._modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        """Undo what the import system did to a module that it takes for a new one."""
        if module.__spec__ is not None:
            module.__spec__ = module.__spec__.loader_state
