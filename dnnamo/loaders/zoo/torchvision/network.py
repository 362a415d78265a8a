"""Make a network of torchvision, with inputs and targets of its kind."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy
from torchvision import models

from dnnamo.errors import LoaderError
from dnnamo.frameworks.pytorch import TorchModel, accuracy
from dnnamo.loaders.demos import check_sizes
from dnnamo.loaders.zoo.options import BATCH, MakeBatch, checked, flag, listed, told
from dnnamo.loaders.zoo.pytorch import integers, noise, wrapped

__all__ = ["make"]


class _Size(NamedTuple):
    """What a synthetic batch is like: the examples, the frames of a film and the pixels of a side."""

    batch: int
    frames: int
    image: int


class _Kind(NamedTuple):
    """Networks that take and return the same.

    Attributes:
        image: Pixels of an image's side, by default.
        classes: Classes, by default; 0 if there are none to choose.
        inputs: Makes the synthetic inputs.
        targets: Makes the targets, from the size and the number of classes; None if there is no training.
        loss: From outputs and targets.
        fields: Arguments that keep it from fetching anything.
        untrained: Why there is no training.
    """

    image: int
    classes: int
    inputs: Callable[[_Size], Any]
    targets: Callable[[_Size, int], torch.Tensor] | None = None
    loss: Callable[[Any, torch.Tensor], torch.Tensor] | None = None
    fields: Mapping[str, Any] = {}
    untrained: str = ""


def _images(size: _Size) -> Any:
    return noise(size.batch, 3, size.image, size.image)


def _films(size: _Size) -> Any:
    return noise(size.batch, 3, size.frames, size.image, size.image)


def _labels(size: _Size, classes: int) -> torch.Tensor:
    return integers(classes, size.batch, seed=1)


def _labels_of_pixels(size: _Size, classes: int) -> torch.Tensor:
    return integers(classes, size.batch, size.image, size.image, seed=1)


def _loss(outputs: Any, targets: torch.Tensor) -> torch.Tensor:
    """Return the cross entropy; ends of a network within it count for 0.3 (Szegedy et al. 2014, section 5)."""
    main, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
    within = [cross_entropy(it, targets) for it in auxiliary if it is not None]
    return cross_entropy(main, targets) + sum(0.3 * it for it in within)


def _loss_of_pixels(outputs: Any, targets: torch.Tensor) -> torch.Tensor:
    """Return the cross entropy, as torchvision's reference script for segmentation does: half of it within."""
    within = cross_entropy(outputs["aux"], targets) if "aux" in outputs else 0.0
    return cross_entropy(outputs["out"], targets) + 0.5 * within


_NO_BACKBONE = {"weights_backbone": None}

_KINDS = {
    "models": _Kind(224, 1000, _images, _labels, _loss),
    "segmentation": _Kind(224, 21, _images, _labels_of_pixels, _loss_of_pixels, _NO_BACKBONE),
    "video": _Kind(112, 400, _films, _labels, _loss),
    "detection": _Kind(
        320,
        91,
        lambda size: (list(_images(size)),),
        fields=_NO_BACKBONE,
        untrained="A detector of torchvision takes its targets together with the images and returns losses; wrap it in "
        "a model file to train it.",
    ),
    "optical_flow": _Kind(
        128,
        0,
        lambda size: (_images(size), _images(size).flip(-1)),
        untrained="The loss of a network for optical flow is not known here; wrap it in a model file to train it.",
    ),
}

# What is different for some, by the beginning of their names.
_IMAGE = {"inception": 299, "mvit": 224, "swin3d": 224, "s3d": 224}
_IMAGE_FIELD = {"vit_": lambda side: {"image_size": side}, "maxvit_": lambda side: {"input_size": (side, side)}}
_FIELDS = {"inception": {"init_weights": False}, "googlenet": {"init_weights": False}}


def make(
    name: str,
    module: str,
    *,
    batch: int | None = None,
    image: int | None = None,
    frames: int = 16,
    classes: int | None = None,
    pretrained: bool = False,
    data: MakeBatch | None = None,
    **fields: Any,
) -> TorchModel:
    """Return a network.

    Args:
        name: As torchvision has it.
        module: Where in torchvision.models it is.
        batch: Images or films in the synthetic batch, 8 by default.
        image: Pixels of a side.
        frames: Of a film.
        classes: Classes to tell apart.
        pretrained: Whether to download and read weights.
        data: Returns one batch, a tuple (inputs, targets), in the place of the synthetic one.
        fields: Further arguments of the network.
    """
    kind = _KINDS[module]
    checked(data=data, batch=batch)
    given = {"image": image, "frames": frames, "classes": classes}
    check_sizes(**{key: value for key, value in given.items() if value is not None})
    size = _Size(batch or BATCH, frames, image or _of(_IMAGE, name, kind.image))
    made = {} if classes is None else {"num_classes": classes}
    sized = _of(_IMAGE_FIELD, name, None)
    made |= {} if image is None or sized is None else sized(image)
    network = _network(
        name, flag("pretrained", pretrained), {**kind.fields, **_of(_FIELDS, name, {}), **made, **fields}
    )
    targets = () if kind.targets is None else kind.targets(size, classes or kind.classes)
    inputs = kind.inputs(size)
    return wrapped(
        network,
        data or (lambda: (inputs, targets)),
        loss=kind.loss,
        score=_score if kind.targets is _labels else None,
        made_of=told(data=data, batch=size.batch, image=size.image, frames=frames if kind.inputs is _films else None),
        untrained=kind.untrained,
    )


def _of(table: Mapping[str, Any], name: str, default: Any) -> Any:
    return next((value for beginning, value in table.items() if name.startswith(beginning)), default)


def _network(name: str, pretrained: bool, fields: Mapping[str, Any]) -> Any:
    torch.manual_seed(0)
    try:
        return models.get_model(name, weights="DEFAULT" if pretrained else None, **fields)
    except (TypeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise LoaderError(f"torchvision:{name} cannot be made with {listed(**fields) or 'that'}: {reason}") from error


def _score(outputs: Any, targets: torch.Tensor) -> float:
    return accuracy(outputs[0] if isinstance(outputs, tuple) else outputs, targets)
