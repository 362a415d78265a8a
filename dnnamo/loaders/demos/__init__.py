"""`demo:NAME`: small networks that come with Dnnamo."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from dnnamo.errors import LoaderError
from dnnamo.loaders.schemes import resolve

__all__ = ["EXTRA", "PACKAGES", "TAKES", "check_sizes", "loader", "names"]

TAKES = "a small network that comes with Dnnamo, on PyTorch or TensorFlow"
PACKAGES = ()
EXTRA = ""

_DEMOS = {
    "mlp": "pytorch",
    "cnn": "pytorch",
    "transformer": "pytorch",
    "keras_mlp": "tensorflow",
    "keras_cnn": "tensorflow",
}


def loader(name: str) -> Callable[..., Any]:
    """Return the function that makes the demo network of this name.

    Raises:
        ModelNotFound: If there is none.
        MissingExtra: If its framework is not installed.
    """
    name = resolve("demo", name, names())
    framework = _DEMOS[name]
    import_module(f"dnnamo.frameworks.{framework}")  # says which extra to install if it is missing
    make: Callable[..., Any] = getattr(import_module(f"{__name__}.{framework}"), name)
    return make


def names() -> list[str]:
    """Return the names of the demos."""
    return list(_DEMOS)


def check_sizes(**sizes: object) -> None:
    """Refuse sizes that are not whole numbers of at least 1.

    Raises:
        LoaderError: If one is something else.
    """
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise LoaderError(f"{name} is {value!r}; it must be a whole number of at least 1.")
