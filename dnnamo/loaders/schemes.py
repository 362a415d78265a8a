"""The schemes of model references, as plug-ins: what stands before the colon of `scheme:name`.

A scheme is a module with what `Scheme` lists. The built-in ones stand in `_BUILT_IN`, others register under the
entry-point group `dnnamo.loaders`. Nothing branches on a scheme's name.
"""

from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from dnnamo.errors import ModelNotFound
from dnnamo.plugins import installed

__all__ = ["Described", "Scheme", "check_scheme", "describe", "find", "known", "resolve"]

_BUILT_IN = {
    "demo": "dnnamo.loaders.demos",
    "keras": "dnnamo.loaders.zoo.keras",
    "transformers": "dnnamo.loaders.zoo.transformers",
    "torchvision": "dnnamo.loaders.zoo.torchvision",
    "timm": "dnnamo.loaders.zoo.timm",
    "torch_export": "dnnamo.loaders.zoo.torch_export",
    "keras_file": "dnnamo.loaders.zoo.keras_file",
    "saved_model": "dnnamo.loaders.zoo.saved_model",
    "onnx": "dnnamo.loaders.zoo.onnx",
}
_NEAR = 0.5
"""How alike a word must be to pass for a scheme that was misspelt: `torch` for `torchvision` does."""

_FEW = 12


class Scheme(Protocol):
    """What a scheme's module offers. Importing it must import no framework: it is asked before a job is stored.

    Only `loader` is needed; a scheme without `names` is not listed, one without the others says nothing of itself.
    A keyword argument `data` of what `loader` returns is given as a function, where the job names one by reference.

    Attributes:
        TAKES: What stands after the colon, in a few words.
        PACKAGES: The packages that it imports.
        EXTRA: The extra of Dnnamo that installs them; empty if they come with Dnnamo.
        IS_PATH: Whether the name is the path of a file or folder: made absolute at submit, and held to the folders that
            a worker takes models from. False if it is not there.
    """

    TAKES: str
    PACKAGES: Sequence[str]
    EXTRA: str
    IS_PATH: bool

    def loader(self, name: str) -> Callable[..., Any]:
        """Return the function that makes the model of this name.

        Raises:
            ModelNotFound: If there is none; the message has the nearest names.
            MissingExtra: If a package that it needs is not installed.
        """

    def names(self) -> Sequence[str]:
        """Return the names that there are, in the order to list them; raises `MissingExtra` likewise."""

    def companions(self, name: str) -> Sequence[str]:
        """Return the names of files and folders beside a file, as `IS_PATH` has it, that a job needs with it.

        It is asked where the job is submitted, without the scheme's packages; a scheme may do without.
        """


class Described(NamedTuple):
    """A scheme in words.

    Attributes:
        scheme: Its name.
        takes: What stands after the colon.
        extra: As `Scheme.EXTRA`.
        installed: Whether all packages are there. None of them was imported, so one may be broken.
    """

    scheme: str
    takes: str
    extra: str
    installed: bool


def known() -> dict[str, str]:
    """Return the module of each scheme."""
    return {**_BUILT_IN, **installed("dnnamo.loaders")}


def find(name: str) -> Scheme:
    """Return a scheme's module.

    Raises:
        ModelNotFound: If there is no such scheme.
    """
    modules = known()
    if name not in modules:
        raise _unknown(name)
    return cast("Scheme", import_module(modules[name]))


def describe(name: str) -> Described:
    """Say what a scheme takes and whether it can be used here, without importing a framework."""
    module = find(name)
    return Described(
        scheme=name,
        takes=getattr(module, "TAKES", ""),
        extra=getattr(module, "EXTRA", ""),
        installed=all(find_spec(package) is not None for package in getattr(module, "PACKAGES", ())),
    )


def check_scheme(word: str) -> None:
    """Refuse a word before a colon that is no scheme, unless it can be a module.

    Raises:
        ModelNotFound: With the nearest schemes.
    """
    is_plain = word.isidentifier() and word not in known()
    if is_plain and not any(Path.cwd().joinpath(name).exists() for name in (word, f"{word}.py")) and not _spec(word):
        raise _unknown(word)


def _spec(module: str) -> object:
    try:
        return find_spec(module)
    except ValueError:  # a module that was made by hand has no spec
        return module


def _unknown(word: str) -> ModelNotFound:
    nearest = get_close_matches(word.lower(), known(), n=2, cutoff=_NEAR)
    hint = f" Did you mean {' or '.join(f'{name}:' for name in nearest)}?" if nearest else ""
    listed = ", ".join(f"{name}:" for name in known())
    return ModelNotFound(
        f"There is no scheme {word}:, and no module of that name here.{hint} The schemes are {listed}; "
        "`dnnamo models` says what each takes. A module that only the workers have is named with its package "
        "(package.module:function)."
    )


def resolve(scheme: str, name: str, names: Sequence[str], *, more: Iterable[str] = ()) -> str:
    """Return the one of a scheme's names that was meant: the same, or the same but for its case if only one is.

    Args:
        scheme: For the message.
        name: As it was given.
        names: Those that `dnnamo models` lists.
        more: Others that will do.

    Raises:
        ModelNotFound: If there is none, with the nearest.
    """
    every = [*names, *more]
    alike = [it for it in every if it.lower() == name.lower()]
    if name in alike or len(alike) == 1:
        return name if name in alike else alike[0]
    by_lower = {it.lower(): it for it in every}
    nearest = alike or [by_lower[it] for it in get_close_matches(name.lower(), by_lower, n=3)]
    hint = f" Did you mean {' or '.join(f'{scheme}:{it}' for it in nearest)}?" if nearest else ""
    few = f"The names are {', '.join(names)}." if len(names) <= _FEW else ""
    listed = few or f"`dnnamo models {scheme}` lists the {len(names)} names that there are."
    raise ModelNotFound(f"There is no {scheme}:{name}.{hint} {listed}")
