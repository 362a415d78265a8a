"""`timm:NAME`: the image networks of PyTorch Image Models, with random weights.

Nothing is fetched from a network unless the option `pretrained` asks for it.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from dnnamo.errors import LoaderError
from dnnamo.loaders.demos import check_sizes
from dnnamo.loaders.schemes import resolve
from dnnamo.loaders.zoo.options import BATCH, MakeBatch, checked, flag, listed, told
from dnnamo.loaders.zoo.packages import imported

if TYPE_CHECKING:
    from dnnamo.frameworks.pytorch import TorchModel

__all__ = ["EXTRA", "PACKAGES", "TAKES", "loader", "names"]

TAKES = "an architecture of timm (vit_tiny_patch16_224), with .TAG for certain weights"
PACKAGES = ("torch", "timm")
EXTRA = "timm"


def loader(name: str) -> Callable[..., Any]:
    """Return the function that makes an architecture.

    Raises:
        ModelNotFound: If there is none of this name.
        MissingExtra: If timm is not installed.
        LoaderError: If it, or the torchvision that it needs, does not fit the PyTorch that is.
    """
    architecture, dot, tag = name.partition(".")
    return partial(_make, resolve("timm", architecture, names()) + dot + tag)


def names() -> list[str]:
    """Return the architectures."""
    return list(_timm().list_models())


def _timm() -> Any:
    imported("torch", extra="torch")
    return imported("timm", extra=EXTRA)


def _make(
    name: str,
    *,
    batch: int | None = None,
    image: int | None = None,
    classes: int | None = None,
    pretrained: bool = False,
    data: MakeBatch | None = None,
    **fields: Any,
) -> "TorchModel":
    """Return an architecture; it has training if it has a classifier, and `classes` gives it one.

    Args:
        name: As timm has it.
        batch: Images in the synthetic batch, 8 by default.
        image: Pixels of a side; the architecture's own by default.
        classes: Classes to tell apart.
        pretrained: Whether to download and read weights.
        data: Returns one batch, a tuple (images, class indices), in the place of the synthetic one.
        fields: Further arguments of the architecture, as `depth`.
    """
    import torch

    from dnnamo.frameworks.pytorch import accuracy
    from dnnamo.loaders.zoo.pytorch import integers, noise, wrapped

    checked(data=data, batch=batch)
    given = {"image": image, "classes": classes}
    check_sizes(**{key: value for key, value in given.items() if value is not None})
    network = _network(name, flag("pretrained", pretrained), {**_given(name, image, classes), **fields})
    channels, side, _ = network.pretrained_cfg.get("input_size", (3, 224, 224))
    size = (batch or BATCH, fields.get("in_chans", channels), image or side)
    has_classes = network.num_classes > 0
    inputs = noise(*size, size[-1])
    targets = integers(network.num_classes, size[0], seed=1) if has_classes else ()
    return wrapped(
        network,
        data or (lambda: (inputs, targets)),
        loss=torch.nn.functional.cross_entropy if has_classes else None,
        score=accuracy if has_classes else None,
        made_of=told(data=data, batch=size[0], image=size[-1]),
        untrained=f"timm:{name} has no classifier as it is; -p classes=N gives it one.",
    )


def _given(name: str, image: int | None, classes: int | None) -> dict[str, int]:
    """Return the options as timm takes them; a size goes to the architecture where that is made for one size."""
    has_fixed_size = getattr(_timm().get_pretrained_cfg(name), "fixed_input_size", False)
    sized = {} if image is None or not has_fixed_size else {"img_size": image}
    return sized if classes is None else {**sized, "num_classes": classes}


def _network(name: str, pretrained: bool, fields: Mapping[str, Any]) -> Any:
    import torch

    torch.manual_seed(0)
    try:
        return _timm().create_model(name, pretrained=pretrained, **fields)
    except (AssertionError, RuntimeError, TypeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise LoaderError(f"timm:{name} cannot be made with {listed(**fields) or 'that'}: {reason}") from error
