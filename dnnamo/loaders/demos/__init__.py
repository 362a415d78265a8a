"""`demo:NAME`: small networks that come with Dnnamo."""

from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from dnnamo.errors import LoaderError, ModelNotFound

__all__ = ["check_sizes", "loader"]

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
    if name not in _DEMOS:
        nearest = get_close_matches(name, _DEMOS, n=1)
        hint = f" Did you mean demo:{nearest[0]}?" if nearest else ""
        raise ModelNotFound(f"There is no demo:{name}.{hint} The demos are {', '.join(_DEMOS)}.")
    framework = _DEMOS[name]
    import_module(f"dnnamo.frameworks.{framework}")  # says which extra to install if it is missing
    make: Callable[..., Any] = getattr(import_module(f"{__name__}.{framework}"), name)
    return make


def check_sizes(**sizes: object) -> None:
    """Refuse sizes that are not whole numbers of at least 1.

    Raises:
        LoaderError: If one is something else.
    """
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise LoaderError(f"{name} is {value!r}; it must be a whole number of at least 1.")
