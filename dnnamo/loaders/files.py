"""Python files and modules that expose `__dnnamo_loader__` or another function that returns a model."""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from dnnamo.errors import LoaderError, ModelNotFound
from dnnamo.loaders.roots import allowed_file, check_module, is_under

__all__ = ["from_file", "from_module"]

_LOADER = "__dnnamo_loader__"


def from_file(path: Path, *, factory: str | None = None, roots: Sequence[str] = ()) -> Callable[..., Any]:
    """Run a Python file and return its loader; the file's own folder is on the import path, as for a script."""
    path = allowed_file(path, roots)
    if not path.is_file():
        raise ModelNotFound(
            f"There is no model file {path} on this machine. Put it there, or submit it without --no-bundle, so that "
            "it comes along."
        )
    # A name of its own, as torch.py would otherwise pass for PyTorch.
    name = f"_dnnamo_model_{path.stem}"
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModelNotFound(f"{path} is no Python file: its name must end with .py.")
    module = module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    sys.modules[name] = module  # before it runs, as dataclasses expect
    spec.loader.exec_module(module)
    return _loader(module, factory, str(path))


def from_module(name: str, *, factory: str | None = None, roots: Sequence[str] = ()) -> Callable[..., Any]:
    """Import a module and return its loader; the working folder is on the import path, if models may lie there."""
    if name.startswith("."):
        raise ModelNotFound(
            f"There is no module {name!r}: give its full name (package.module), or a file ending in .py."
        )
    if not roots or is_under(Path.cwd(), roots):
        sys.path.insert(0, str(Path.cwd()))
    check_module(name, roots)
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        # Only the module asked for is "not found"; what fails inside it is the user's to see as it is.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise ModelNotFound(
            f"There is no module {name!r}: {error.name!r} is neither installed nor in {Path.cwd()}. A model file needs "
            "its .py ending; the networks that come with Dnnamo are demo:NAME."
        ) from error
    return _loader(module, factory, f"{name} ({getattr(module, '__file__', None) or 'no file'})")


def _loader(module: ModuleType, factory: str | None, reference: str) -> Callable[..., Any]:
    name = factory or _LOADER
    found = getattr(module, name, None)
    if found is None:
        raise LoaderError(
            f"{reference} has no function {name}(). Add one that returns the model, or name the one that does after a "
            "colon."
        )
    if not callable(found):
        raise LoaderError(f"{name} in {reference} is of type {type(found).__name__}; it must be a function.")
    make: Callable[..., Any] = found
    return make
