"""`keras:NAME`: the networks of keras.applications and, where KerasHub is installed, its backbones; random weights.

NAME is a function of keras.applications (`ResNet50`), or a backbone (`BertBackbone`) or preset (`bert_base_en`) of
KerasHub. Nothing is fetched from a network unless the option `pretrained` asks for it.
"""

import ast
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dnnamo.errors import MissingExtra, ModelNotFound
from dnnamo.loaders.schemes import resolve
from dnnamo.loaders.zoo.keras.presets import PRESETS

__all__ = ["EXTRA", "PACKAGES", "TAKES", "loader", "names"]

TAKES = "a network of keras.applications (ResNet50), a preset or backbone of KerasHub (bert_base_en, BertBackbone)"
PACKAGES = ("keras", "tensorflow")
EXTRA = "tensorflow"


def loader(name: str) -> Callable[..., Any]:
    """Return the function that makes a network.

    Raises:
        ModelNotFound: If there is none of this name.
        MissingExtra: If TensorFlow, or for a name of KerasHub that, is not installed.
    """
    applications = _applications()
    try:
        found = resolve("keras", name, names())
    except ModelNotFound:
        return _of_hub(name)
    if found not in applications:
        return _of_hub(found)
    from dnnamo.loaders.zoo.keras.applications import make

    return partial(make, found)


def _of_hub(name: str) -> Callable[..., Any]:
    if find_spec("keras_hub") is None:
        if name not in PRESETS and not _is_like_hub(name):
            resolve("keras", name, names())
        raise MissingExtra(f"keras:{name} is not in keras.applications, and KerasHub", extra="keras-hub")
    from dnnamo.loaders.zoo.keras.hub import backbones, make, presets

    found = resolve("keras", name, names(), more=[*backbones(), *presets()])
    return partial(make, found)


def _is_like_hub(name: str) -> bool:
    """Whether a name looks like a backbone or preset, and not like a slip in one of keras.applications."""
    looks = name.endswith("Backbone") or ("_" in name and name.islower())
    return looks and not get_close_matches(name.lower(), [it.lower() for it in _applications()])


def names() -> list[str]:
    """Return the networks of keras.applications and those presets of KerasHub that need no network."""
    return [*_applications(), *PRESETS]


def _applications() -> list[str]:
    """Return the functions that keras.applications has, read from its source: to import it takes seconds."""
    spec = find_spec("keras")
    if spec is None or spec.origin is None:
        raise MissingExtra("keras", extra="tensorflow")
    tree = ast.parse((Path(spec.origin).parent / "applications" / "__init__.py").read_text())
    imported = [
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    return sorted(name for name in imported if name[0].isupper())
