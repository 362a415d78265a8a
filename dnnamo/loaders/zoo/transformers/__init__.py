"""`transformers:NAME`: architectures of Hugging Face transformers, with random weights from their configuration.

NAME is a model type (`bert`) or a class (`BertForSequenceClassification`). Nothing is fetched from a network unless the
option `pretrained` names a checkpoint.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from dnnamo.loaders.schemes import resolve
from dnnamo.loaders.zoo.packages import imported

__all__ = ["EXTRA", "PACKAGES", "TAKES", "loader", "names"]

TAKES = "a model type (bert, gpt2, vit) or a class (BertForMaskedLM) of transformers"
PACKAGES = ("torch", "transformers")
EXTRA = "transformers"


def loader(name: str) -> Callable[..., Any]:
    """Return the function that makes the network of a model type or class.

    Raises:
        ModelNotFound: If there is none.
        MissingExtra: If PyTorch or transformers is not installed.
    """
    _import()
    from dnnamo.loaders.zoo.transformers.heads import class_names
    from dnnamo.loaders.zoo.transformers.network import make

    found = resolve("transformers", name, names(), more=class_names())
    return partial(make, found)


def names() -> list[str]:
    """Return the model types; classes are not listed."""
    _import()
    from dnnamo.loaders.zoo.transformers.heads import model_types

    return model_types()


def _import() -> None:
    imported("torch", extra="torch")
    imported("transformers", extra="transformers")
