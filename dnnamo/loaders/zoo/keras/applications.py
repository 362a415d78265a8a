"""Make a network of keras.applications on synthetic images."""

import inspect
from typing import Any

from dnnamo.errors import LoaderError
from dnnamo.frameworks.tensorflow import KerasModel
from dnnamo.loaders.demos import check_sizes
from dnnamo.loaders.zoo.options import BATCH, MakeBatch, check_fields, checked, flag, listed, told
from dnnamo.loaders.zoo.tensorflow import integers, noise, trained

import keras  # isort: skip (after KerasModel, which tells what to install where TensorFlow is missing)

__all__ = ["make"]

_SET_HERE = {"include_top", "weights", "input_tensor", "input_shape", "pooling", "classes", "classifier_activation"}


def make(
    name: str,
    *,
    batch: int | None = None,
    image: int | None = None,
    classes: int = 1000,
    pretrained: bool = False,
    data: MakeBatch | None = None,
    **fields: Any,
) -> KerasModel:
    """Return a classifier of images.

    Args:
        name: Function of keras.applications.
        batch: Images in the synthetic batch, 8 by default.
        image: Pixels of an image's side; the network's own by default.
        classes: Classes to tell apart.
        pretrained: Whether to download and read the weights for ImageNet.
        data: Returns one batch, a tuple (images, class indices), in the place of the synthetic one.
        fields: Further arguments of the function, as `alpha` of the MobileNets.

    Raises:
        LoaderError: If an option is wrong.
    """
    checked(data=data, batch=batch)
    check_sizes(classes=classes, **({} if image is None else {"image": image}))
    function = getattr(keras.applications, name)
    check_fields(f"keras:{name}", fields, set(inspect.signature(function).parameters) - _SET_HERE)
    shape = {} if image is None else {"input_shape": (image, image, 3)}
    weights = "imagenet" if flag("pretrained", pretrained) else None
    keras.utils.set_random_seed(0)
    try:
        network = function(weights=weights, classes=classes, classifier_activation=None, **shape, **fields)
    except (TypeError, ValueError) as error:
        given = listed(image=image, classes=classes, **fields)
        raise LoaderError(f"keras:{name} cannot be made with {given}: {' '.join(str(error).split())}") from error
    made = noise(batch or BATCH, *network.inputs[0].shape[1:]), integers(classes, batch or BATCH, seed=1)
    said = told(data=data, batch=batch or BATCH, image=network.inputs[0].shape[1], classes=classes)
    return trained(network, data or (lambda: made), made_of=said)
