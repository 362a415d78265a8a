"""Make a backbone of KerasHub on synthetic inputs."""

import inspect
from collections.abc import Mapping
from typing import Any

from dnnamo.errors import LoaderError
from dnnamo.frameworks.tensorflow import KerasModel
from dnnamo.loaders.demos import check_sizes
from dnnamo.loaders.zoo.keras.presets import PRESETS
from dnnamo.loaders.zoo.options import BATCH, MakeBatch, check_fields, checked, flag, told
from dnnamo.loaders.zoo.packages import imported
from dnnamo.loaders.zoo.tensorflow import Array, integers, noise, untrained

import keras  # isort: skip (after KerasModel, which tells what to install where TensorFlow is missing)
import numpy as np

__all__ = ["backbones", "make", "presets"]

_LENGTH = 128
_IMAGE = 224


def _hub() -> Any:
    return imported("keras_hub", extra="keras-hub")


def backbones() -> list[str]:
    """Return the names of KerasHub's backbones."""
    return sorted(name for name in dir(_hub().models) if name.endswith("Backbone") and name != "Backbone")


def presets() -> list[str]:
    """Return the names of the presets of all backbones."""
    return sorted({preset for name in backbones() for preset in getattr(_hub().models, name).presets})


def make(
    name: str,
    *,
    batch: int | None = None,
    length: int | None = None,
    image: int | None = None,
    pretrained: bool = False,
    data: MakeBatch | None = None,
    **fields: Any,
) -> KerasModel:
    """Return a backbone, which has no head and so no training.

    Args:
        name: Class of KerasHub, or preset.
        batch: Examples in the synthetic batch, 8 by default.
        length: Tokens, 128 by default.
        image: Pixels of an image's side, 224 by default.
        pretrained: Whether to download a preset, its sizes and weights.
        data: Returns one batch, a tuple (inputs, anything), in the place of the synthetic one.
        fields: Arguments of the class, in the place of the preset's sizes.

    Raises:
        LoaderError: If an option is wrong, or a preset's sizes would have to be downloaded without being asked for.
    """
    checked(data=data, batch=batch, length=length)
    check_sizes(**({} if image is None else {"image": image}))
    keras.utils.set_random_seed(0)
    network = _downloaded(name, fields) if flag("pretrained", pretrained) else _made(name, fields)
    sizes = (batch or BATCH, length or _LENGTH, image or _IMAGE)
    inputs = {} if data else {it.name: _synthetic(it, network, *sizes) for it in network.inputs}
    said = told(data=data, **dict(zip(("batch", "length", "image"), sizes, strict=True)))
    reason = "A backbone of KerasHub has no head and no loss; wrap one of its tasks in a model file to train it."
    return untrained(network, data or (lambda: (_alone(inputs), ())), made_of=said, reason=reason)


def _made(name: str, fields: Mapping[str, Any]) -> Any:
    given = {**_sizes(name), **fields}
    kind = getattr(_hub().models, PRESETS[name].backbone if name in PRESETS else name)
    check_fields(f"keras:{name}", fields, set(inspect.signature(kind).parameters) - {"kwargs"})
    try:
        return kind(**given)
    except (TypeError, ValueError) as error:
        takes = ", ".join(name for name in inspect.signature(kind).parameters if name != "kwargs")
        reason = " ".join(str(error).split())
        raise LoaderError(f"keras:{name} cannot be made: {reason}. Its options are {takes}.") from error


def _sizes(name: str) -> dict[str, int]:
    if name in backbones():
        return {}
    if name not in PRESETS:
        raise LoaderError(
            f"The sizes of keras:{name} come over the network: ask for that, and the weights, with -p pretrained=true, "
            f"or give the sizes to its backbone. Known without it are {', '.join(PRESETS)}."
        )
    known = PRESETS[name]
    return {
        "vocabulary_size": known.words,
        "num_layers": known.layers,
        "num_heads": known.heads,
        "hidden_dim": known.width,
        "intermediate_dim": known.inner,
    }


def _downloaded(name: str, fields: Mapping[str, Any]) -> Any:
    if name in backbones():
        raise LoaderError(f"{name} is a class, which has no weights of its own; pretrained goes with a preset.")
    try:
        return _hub().models.Backbone.from_preset(name, **fields)
    except Exception as error:  # of the network, in many libraries' own ways
        reason = " ".join(str(error).split())
        raise LoaderError(f"The preset keras:{name} cannot be fetched: {reason}.") from error


def _synthetic(given: Any, network: Any, batch: int, length: int, image: int) -> Array:
    """Return the array for one input of a network, by what its name ends in."""
    if given.name.endswith("token_ids"):
        return integers(network.vocabulary_size, batch, length)
    if given.name.endswith("padding_mask"):
        return np.ones((batch, length), np.int32)
    if given.name.endswith(("segment_ids", "mask_positions")):
        return np.zeros((batch, length), np.int32)
    free = [image if len(given.shape) == 4 else length for _ in given.shape[1:]]
    return noise(batch, *(size or other for size, other in zip(given.shape[1:], free, strict=True)))


def _alone(inputs: Mapping[str, Array]) -> Any:
    """Return the inputs as a backbone takes them: one is no dict."""
    return next(iter(inputs.values())) if len(inputs) == 1 else dict(inputs)
