"""`torchvision:NAME`: the networks of torchvision.models, with random weights.

Nothing is fetched from a network unless the option `pretrained` asks for it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from dnnamo.loaders.schemes import resolve
from dnnamo.loaders.zoo.packages import imported

__all__ = ["EXTRA", "PACKAGES", "TAKES", "loader", "names"]

TAKES = "a network of torchvision.models (resnet18, fasterrcnn_resnet50_fpn, r3d_18)"
PACKAGES = ("torch", "torchvision")
EXTRA = "torchvision"

_MODULES = ("models", "segmentation", "video", "detection", "optical_flow")


def loader(name: str) -> Callable[..., Any]:
    """Return the function that makes a network.

    Raises:
        ModelNotFound: If there is none of this name.
        MissingExtra: If torchvision is not installed.
        LoaderError: If it does not fit the PyTorch that is.
    """
    found = resolve("torchvision", name, names())
    from dnnamo.loaders.zoo.torchvision.network import make

    return partial(make, found, next(module for module in _MODULES if found in _listed(module)))


def names() -> list[str]:
    """Return the names of the networks, quantised ones left out."""
    return [name for module in _MODULES for name in _listed(module)]


def _listed(module: str) -> list[str]:
    imported("torch", extra="torch")
    models = imported("torchvision", extra=EXTRA).models
    return list(models.list_models(module=models if module == "models" else getattr(models, module)))
