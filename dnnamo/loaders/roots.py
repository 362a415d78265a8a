"""Where a worker takes models from, if it does not take them from anywhere.

What user code does once it runs is not limited by this; it keeps a job from naming code that nobody put there as a
model: an upload, a temporary file, another user's folder.
"""

import os
import site
import sysconfig
from collections.abc import Iterator, Sequence
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
    SourcelessFileLoader,
)
from importlib.util import find_spec
from pathlib import Path

from dnnamo.errors import Unsupported

__all__ = ["allowed_file", "check_module", "is_installed", "is_under"]

_FORMS = (
    (ExtensionFileLoader, EXTENSION_SUFFIXES),
    (SourceFileLoader, SOURCE_SUFFIXES),
    (SourcelessFileLoader, BYTECODE_SUFFIXES),
)


def allowed_file(path: Path, roots: Sequence[str]) -> Path:
    """Return the file to load for a path: the one that all its symbolic links lead to if there are roots.

    Raises:
        Unsupported: If that lies under none of the roots.
    """
    if not roots:
        return path
    if not is_under(path, roots):
        raise _refusal(f"The model file {path}", path, roots)
    return _resolved(path)


def check_module(name: str, roots: Sequence[str]) -> None:
    """Look up where a module and the packages around it would be imported from, and import nothing.

    They must lie under the roots or be installed: in the standard library or in site-packages, as found there. A
    module that is not found is left to the import.

    Raises:
        Unsupported: If there are roots and one of these lies elsewhere.
    """
    if not roots:
        return
    for spec in _specs(name):
        for place in _places(spec):
            if not is_under(place, roots) and not is_installed(place):
                raise _refusal(f"The module {spec.name} at {place}", place, roots)


def is_under(path: Path, roots: Sequence[str]) -> bool:
    """Whether a path lies under one of the roots, once all symbolic links of both are followed."""
    return any(_resolved(path).is_relative_to(_resolved(Path(root))) for root in roots)


def _resolved(path: Path) -> Path:
    return Path(os.path.realpath(path))  # not Path.resolve, which raises RuntimeError for links in a circle


def _specs(name: str) -> Iterator[ModuleSpec]:
    """Yield the specs of `a`, `a.b` and `a.b.c`, as far as they can be found without running the packages' code."""
    top, *inner = name.split(".")
    spec = find_spec(top)
    level = [] if spec is None else [spec]
    yield from level
    for part in inner:
        folders = [folder for spec in level for folder in spec.submodule_search_locations or ()]
        found = [FileFinder(folder, *_FORMS).find_spec(part) for folder in folders]
        level = [spec for spec in found if spec is not None]
        yield from level


def _places(spec: ModuleSpec) -> Iterator[Path]:
    """Yield the file of a module and the folders of a package: none if it is built in, many for a namespace package."""
    if spec.has_location and spec.origin is not None:
        yield Path(os.path.abspath(spec.origin))  # noqa: PTH100 (Path.absolute keeps the ..)
    for folder in spec.submodule_search_locations or ():
        yield Path(os.path.abspath(folder))  # noqa: PTH100


def is_installed(place: Path) -> bool:
    """Whether it was found among what is installed; installers may put links there, so they are not followed."""
    paths = sysconfig.get_paths()
    folders = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")} | set(site.getsitepackages())
    return any(place.is_relative_to(folder) for folder in folders)


def _refusal(what: str, path: Path, roots: Sequence[str]) -> Unsupported:
    resolved = _resolved(path)
    leads_to = "" if resolved == path else f", which leads to {resolved},"
    return Unsupported(
        f"{what}{leads_to} lies under none of the folders that this worker takes models from: {', '.join(roots)}. Put "
        "the model there, or have DNNAMO_MODEL_ROOTS of the worker name its folder."
    )
