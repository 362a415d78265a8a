"""Model reference -> Model.

A reference is `scheme:name` with a known scheme (`demo:mlp`), `path/file.py` or `package.module`, the last two with an
optional `:factory`. Schemes are plug-ins: a module with a function `loader(name)` that returns the function that makes
the model. The built-in ones stand in `_BUILT_IN`, others under the entry-point group `dnnamo.loaders`.
"""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from dnnamo.errors import LoaderError, ModelNotFound
from dnnamo.loaders.files import from_file, from_module
from dnnamo.model import capabilities
from dnnamo.plugins import installed

__all__ = ["find_loader", "load", "locate"]

_BUILT_IN = {"demo": "dnnamo.loaders.demos"}


def _schemes() -> dict[str, str]:
    return {**_BUILT_IN, **installed("dnnamo.loaders")}


def locate(reference: str) -> str:
    """Return the reference with a file's path made absolute, so that it means the same in another process.

    Raises:
        ModelNotFound: If it names a file that is not there, or cannot be a reference at all.
    """
    name, factory = _split(reference)
    if not name:
        raise ModelNotFound(
            f"{reference!r} is no model reference. Give a file (model.py), a module (pkg.module) or demo:mlp."
        )
    if not _is_file(name):
        return reference
    path = Path(os.path.abspath(Path(name).expanduser()))  # noqa: PTH100 (Path.absolute keeps the ..)
    if not _exists(path):
        raise ModelNotFound(
            f"There is no model file {path}. Check the path, or give a module (pkg.module) or demo:mlp."
        )
    return f"{path}:{factory}" if factory else str(path)


def load(reference: str, params: Mapping[str, Any], *, roots: Sequence[str] = ()) -> Any:
    """Load the model that a reference names; arguments and errors are those of `find_loader`."""
    return find_loader(reference, params, roots=roots)()


def find_loader(reference: str, params: Mapping[str, Any], *, roots: Sequence[str] = ()) -> Callable[[], Any]:
    """Import what a reference names, and return what makes the model.

    Args:
        reference: As `locate` returns it.
        params: Keyword arguments for the model's loader.
        roots: Folders that a model's file or module must lie under; none for anywhere. Installed modules and schemes
            may be used all the same.

    Returns:
        A function that returns an object that implements at least one method of the wrapped-model interface. It raises
        `LoaderError` if the user's loader returns something else, and whatever that raises.

    Raises:
        ModelNotFound: If there is no such file, module or name.
        Unsupported: If it lies under none of the roots.
        LoaderError: If the loader is missing or refuses the arguments.
        Exception: Whatever the user's own code raises while it is imported.
    """
    make = _maker(reference, roots)
    _check_arguments(make, params, reference)
    return lambda: _checked(make(**params), reference)


def _checked(model: Any, reference: str) -> Any:
    if isinstance(model, type) or not capabilities(model):
        raise LoaderError(
            f"The loader of {reference} returned {_kind(model)}, which implements no method of the wrapped-model "
            "interface. Return an instance of a subclass of dnnamo.Model; a torch.nn.Module or a Keras model becomes "
            "one in dnnamo.frameworks.pytorch.TorchModel or dnnamo.frameworks.tensorflow.KerasModel."
        )
    return model


def _kind(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__qualname__} itself"
    return f"a {type(value).__module__}.{type(value).__qualname__}"


def _maker(reference: str, roots: Sequence[str]) -> Callable[..., Any]:
    name, rest = _split(reference)
    scheme = _schemes().get(name)
    if scheme is not None:
        return _scheme_loader(scheme, rest or "")
    if _is_file(name):
        return from_file(Path(name), factory=rest, roots=roots)
    return from_module(name, factory=rest, roots=roots)


def _scheme_loader(module: str, name: str) -> Callable[..., Any]:
    make: Callable[..., Any] = import_module(module).loader(name)
    return make


def _split(reference: str) -> tuple[str, str | None]:
    """Split off what follows the scheme, or the factory; a path may have colons of its own."""
    name, _, rest = reference.partition(":")
    if name in _schemes():
        return name, rest
    if reference.endswith(".py") or ":" not in reference:
        return reference, None
    name, _, rest = reference.rpartition(":")
    return name, rest


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, or a folder that may not be looked into
        return False


def _is_file(name: str) -> bool:
    return name.endswith(".py") or "/" in name


def _check_arguments(make: Callable[..., Any], params: Mapping[str, Any], reference: str) -> None:
    """Tell a wrong `-p` apart from a TypeError of the user's own code."""
    try:
        signature = inspect.signature(make)
    except ValueError:  # a callable written in C may have no signature to look at
        return
    try:
        signature.bind(**params)
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "no options"
        raise LoaderError(f"The loader of {reference} takes {takes}: {error}.") from error
