"""Make a transformer from its configuration, if there is room for it."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import psutil
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from dnnamo.errors import LoaderError
from dnnamo.frameworks.pytorch import TorchModel
from dnnamo.loaders.demos import check_sizes
from dnnamo.loaders.zoo.options import BATCH, MakeBatch, check_fields, checked, told
from dnnamo.loaders.zoo.pytorch import wrapped
from dnnamo.loaders.zoo.transformers.heads import Head, head_of_class, head_of_type
from dnnamo.loaders.zoo.transformers.inputs import Sizes, cannot_make_up, synthetic

__all__ = ["make"]

_REFUSALS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    OSError,
    StrictDataclassError,
    TypeError,
    ValueError,
)
"""What transformers raises for fields that do not fit, packages that are missing and checkpoints that are not there."""

_SUGGESTED = "AutoModelForSequenceClassification"


def make(
    name: str,
    *,
    batch: int | None = None,
    length: int | None = None,
    image: int | None = None,
    classes: int | None = None,
    head: str | None = None,
    pretrained: str | None = None,
    data: MakeBatch | None = None,
    **fields: Any,
) -> TorchModel:
    """Return a transformer.

    Args:
        name: Model type or class.
        batch: Examples in the synthetic batch, 8 by default.
        length: Tokens (128 by default), or samples of a sound.
        image: Pixels of an image's side; the configuration's by default.
        classes: Classes of a head that classifies.
        head: Class that stands for a head, as `AutoModelForSequenceClassification`; by default the first that the model
            type has of a language model, a classifier and none.
        pretrained: Checkpoint to read configuration and weights from: a folder, or a name to download.
        data: Returns one batch, a tuple (dict of inputs, targets), in the place of the synthetic one.
        fields: Fields of the configuration.

    Raises:
        LoaderError: If an option is wrong, or the network is too large for this machine.
    """
    checked(data=data, batch=batch, length=length)
    check_sizes(**{key: size for key, size in (("image", image), ("classes", classes)) if size is not None})
    chosen, kind = _chosen(name, head)
    config = _config(name, kind, pretrained, fields, {"num_labels": classes, "image_size": image})
    outline = _outline(name, kind, config)
    _check_room(name, outline)
    sizes = Sizes(batch or BATCH, length, image)
    make_batch = data or _synthetic(outline, chosen, sizes)
    return wrapped(
        _network(name, kind, config, pretrained),
        make_batch,
        loss=None if chosen.task is None else chosen.task.loss,
        score=None if chosen.task is None else chosen.task.score,
        made_of=told(data=data, **sizes._asdict()),
        untrained=f"{kind.__name__} has no loss that is known here; another head may, as in -p head={_SUGGESTED}.",
    )


def _chosen(name: str, head: str | None) -> tuple[Head, Any]:
    if name in CONFIG_MAPPING:
        chosen, class_name = head_of_type(name, head)
    elif head is None:
        chosen, class_name = head_of_class(name), name
    else:
        raise LoaderError(f"{name} is a class with its own head; head goes with a model type, as in transformers:bert.")
    return chosen, _refusing(name, lambda: getattr(transformers, class_name))


def _config(
    name: str, kind: Any, pretrained: str | None, fields: Mapping[str, Any], given: Mapping[str, int | None]
) -> Any:
    config_class = CONFIG_MAPPING[name] if name in CONFIG_MAPPING else kind.config_class  # noqa: SIM401 (it imports lazily)
    default = _refusing(name, config_class)
    known = set(default.to_dict()) | set(default.attribute_map)
    check_fields(f"The configuration of {name}", fields, known)
    set_here = {key: value for key, value in given.items() if value is not None and hasattr(default, key)}
    config = _refusing(name, lambda: _made(config_class, pretrained, {**set_here, **fields}))
    _set_image(config, given["image_size"])
    text = _refusing(name, config.get_text_config)
    if getattr(text, "pad_token_id", 0) is None:
        text.pad_token_id = 0  # without one, a classifier takes no more than one text at once
    if "use_cache" not in fields and hasattr(config, "use_cache"):
        config.use_cache = False  # keys and values that nothing would read
    # A type that reads images too may have a language model that is made of the part for text alone.
    own = _refusing(name, lambda: kind.config_class)
    return text if isinstance(text, own) and not isinstance(config, own) else config


def _made(config_class: Any, pretrained: str | None, fields: Mapping[str, Any]) -> Any:
    if pretrained is None:
        return config_class(**fields)
    if not isinstance(pretrained, str):
        raise LoaderError(f"pretrained is {pretrained!r}; it must name a checkpoint, as in pretrained=org/name.")
    return config_class.from_pretrained(pretrained, **fields)


def _set_image(config: Any, image: int | None) -> None:
    """Set the size of the images of a network that reads text as well; its own configuration is within."""
    vision = getattr(config, "vision_config", None)
    if image is not None and vision is not None:
        vision.image_size = image


def _network(name: str, kind: Any, config: Any, pretrained: str | None) -> Any:
    torch.manual_seed(0)
    if pretrained is None:
        return _refusing(name, lambda: kind(config))
    return _refusing(name, lambda: kind.from_pretrained(pretrained, config=config))


def _outline(name: str, kind: Any, config: Any) -> Any:
    """Return a network that has shapes and no numbers, for what can be wrong to be found before time is spent on it."""
    with torch.device("meta"):
        return _refusing(name, lambda: kind(config))


def _check_room(name: str, network: Any) -> None:
    """Refuse a network whose weights do not fit into the memory that is left, before the machine runs out of it."""
    needed = sum(weight.numel() * weight.element_size() for weight in network.parameters())
    left = psutil.virtual_memory().available
    if needed > left:
        count = sum(weight.numel() for weight in network.parameters())
        raise LoaderError(
            f"transformers:{name} has {count / 1e9:.1f} billion weights in this configuration, which take "
            f"{needed / 2**30:.0f} GiB; {left / 2**30:.0f} GiB of memory are left here. Make it smaller with fields of "
            "its configuration, as in -p num_hidden_layers=2 -p hidden_size=256."
        )


_Made = TypeVar("_Made")


def _refusing(name: str, make: Callable[[], _Made]) -> _Made:
    """Make something of a configuration; what is wrong with its fields becomes a `LoaderError`."""
    try:
        return make()
    except ImportError as error:
        told = " ".join(str(error).split())
        raise LoaderError(f"transformers:{name} needs a package that is not installed here: {told}") from error
    except _REFUSALS as error:
        told = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise LoaderError(
            f"transformers cannot make {name} with this configuration, by default or by the options given: {told}"
        ) from error


def _synthetic(network: Any, head: Head, sizes: Sizes) -> MakeBatch:
    try:
        inputs = synthetic(network, sizes)
        targets = None if head.task is None else head.task.targets(network.config, inputs)
    except (AttributeError, KeyError, TypeError) as error:  # a configuration that says it in its own way
        raise cannot_make_up(
            type(network).__name__, f"inputs that its configuration does not tell ({error})"
        ) from error
    return lambda: (inputs, targets)
