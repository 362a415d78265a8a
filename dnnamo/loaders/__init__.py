"""Model reference -> Model.

A reference is `scheme:name` with a known scheme (`demo:mlp`), `path/file.py` or `package.module`, the last two with an
optional `:factory`. Schemes are plug-ins: `dnnamo.loaders.schemes` says what one is.
"""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dnnamo.errors import LoaderError, ModelNotFound
from dnnamo.loaders import schemes
from dnnamo.loaders.files import from_file, from_module
from dnnamo.loaders.roots import allowed_file
from dnnamo.model import capabilities

__all__ = ["Place", "find_loader", "load", "locate", "locate_data", "module_of", "place_of", "references"]


def locate(reference: str, *, must_exist: bool = True) -> str:
    """Return the reference with a file's path made absolute, so that it means the same in another process.

    Args:
        reference: As somebody gave it.
        must_exist: Whether a file must be there on this machine.

    Raises:
        ModelNotFound: If it names a file or scheme that is not there, or cannot be a reference at all.
    """
    name, rest = _split(reference)
    if not name:
        raise ModelNotFound(
            f"{reference!r} is no model reference. Give a file (model.py), a module (pkg.module) or demo:mlp."
        )
    if name in schemes.known():
        return f"{name}:{_located_name(name, rest or '', must_exist=must_exist)}"
    if not _is_file(name):
        if rest is not None:
            schemes.check_scheme(reference.partition(":")[0])
        return reference
    path = _absolute(name)
    if must_exist and not _exists(path):
        raise ModelNotFound(
            f"There is no model file {path}. Check the path, or give a module (pkg.module) or demo:mlp."
        )
    return f"{path}:{rest}" if rest else str(path)


def locate_data(reference: str, params: Mapping[str, Any], *, must_exist: bool = True) -> Mapping[str, Any]:
    """Return a model's options with the file of the option `data` of a scheme made absolute, as `locate` does.

    Raises:
        ModelNotFound: If there is no such file.
    """
    data = params.get("data") if isinstance(params, Mapping) else None
    if not isinstance(data, str) or _split(reference)[0] not in schemes.known():
        return params
    return {**params, "data": locate(data, must_exist=must_exist)}


def _located_name(scheme: str, name: str, *, must_exist: bool) -> str:
    if not getattr(schemes.find(scheme), "IS_PATH", False):
        return name
    if not name:
        raise ModelNotFound(f"{scheme}: needs the path of a file or folder after the colon.")
    path = _absolute(name)
    if must_exist and not os.path.exists(path):  # noqa: PTH110 (Path.exists raises for a name that is too long)
        raise ModelNotFound(f"There is no file {path}. Check the path after {scheme}:.")
    return str(path)


def _absolute(name: str) -> Path:
    return Path(os.path.abspath(Path(name).expanduser()))  # noqa: PTH100 (Path.absolute keeps the ..)


class Place(NamedTuple):
    """Where on this machine what a reference names lies.

    Attributes:
        folder: The folder that a job needs of it.
        entry: Name of the file in it that the reference leads to, None where it is not one file.
        only: Names in the folder of what a job needs; none for all of it.
        is_code: Whether these are files that somebody writes, rather than data that a program wrote.
    """

    folder: Path
    entry: str | None = None
    only: tuple[str, ...] = ()
    is_code: bool = True


def references(reference: str, params: Mapping[str, Any]) -> list[str]:
    """Return all references that a model's own one and its options come to, as `locate` and `locate_data` left them."""
    data = params.get("data") if _split(reference)[0] in schemes.known() else None
    return [reference, data] if isinstance(data, str) else [reference]


def place_of(reference: str) -> Place | None:
    """Return where the file or folder of a reference lies; None if it names none."""
    name, rest = _split(reference)
    if name in schemes.known():
        scheme = schemes.find(name)
        return _place_of_data(scheme, Path(rest or "")) if getattr(scheme, "IS_PATH", False) else None
    return Place(Path(name).parent, entry=Path(name).name) if _is_file(name) else None


def _place_of_data(scheme: schemes.Scheme, path: Path) -> Place:
    if not path.is_file():
        return Place(path.parent, only=(path.name,), is_code=False)
    beside = scheme.companions(str(path)) if hasattr(scheme, "companions") else ()
    return Place(path.parent, entry=path.name, only=(path.name, *beside), is_code=False)


def module_of(reference: str) -> str | None:
    """Return the name of the module that a reference names; None if it names none."""
    name, _ = _split(reference)
    return None if name in schemes.known() or _is_file(name) else name


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
    given = _with_data(reference, params, roots)
    return lambda: _checked(make(**given), reference)


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
    if name in schemes.known():
        return _scheme_loader(name, rest or "", roots)
    if _is_file(name):
        return from_file(Path(name), factory=rest, roots=roots)
    return from_module(name, factory=rest, roots=roots)


def _scheme_loader(scheme: str, name: str, roots: Sequence[str]) -> Callable[..., Any]:
    module = schemes.find(scheme)
    if getattr(module, "IS_PATH", False):
        name = str(allowed_file(Path(name), roots))
    return module.loader(name)


def _with_data(reference: str, params: Mapping[str, Any], roots: Sequence[str]) -> dict[str, Any]:
    """Return the options of a model with the function in the place of the reference that a scheme's `data` is."""
    data = params.get("data")
    if data is None or _split(reference)[0] not in schemes.known():
        return dict(params)
    if not isinstance(data, str) or ":" not in data:
        raise LoaderError(
            f"data is {data!r}; it must name a function that returns one batch, a tuple (inputs, targets): "
            "data=file.py:function or data=package.module:function."
        )
    return {**params, "data": _maker(data, roots)}


def _split(reference: str) -> tuple[str, str | None]:
    """Split off what follows the scheme, or the factory; a path may have colons of its own."""
    name, _, rest = reference.partition(":")
    if name in schemes.known():
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
