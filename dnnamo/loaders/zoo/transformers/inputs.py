"""Synthetic inputs for a transformer: what its class calls its main input, and what belongs with it."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from dnnamo.errors import LoaderError
from dnnamo.loaders.zoo.pytorch import integers, noise

__all__ = ["Sizes", "cannot_make_up", "synthetic"]

_LENGTH = 128
_SAMPLES = 16_000
"""Of sound, where the length is not given: a second, at the rate that speech is mostly sampled with."""
_IMAGE = 224


class Sizes(NamedTuple):
    """What a batch is like; None for what the configuration says, or the defaults here.

    Attributes:
        batch: Examples.
        length: Tokens of a text, samples or frames of a sound.
        image: Pixels of an image's side.
    """

    batch: int
    length: int | None
    image: int | None


def synthetic(network: Any, sizes: Sizes) -> dict[str, torch.Tensor]:
    """Return the keyword arguments for one call of a network.

    Raises:
        LoaderError: If one cannot be made up from the configuration.
    """
    takes = inspect.signature(network.forward).parameters
    wanted = _wanted(network, takes)
    unknown = [name for name in wanted if name not in _MAKERS]
    if unknown:
        raise cannot_make_up(type(network).__name__, ", ".join(unknown))
    return {name: _MAKERS[name](network.config, sizes) for name in wanted}


def cannot_make_up(network: str, inputs: str) -> LoaderError:
    """Return the error that says which inputs of a network are not made up here, and what to do."""
    return LoaderError(
        f"{network} takes {inputs}, which cannot be made up here. Name a function that returns a batch: "
        "-p data=file.py:function."
    )


def _wanted(network: Any, takes: Mapping[str, Any]) -> list[str]:
    main = network.main_input_name
    wanted = [main]
    if all(hasattr(network.config, part) for part in ("text_config", "vision_config")):
        wanted = [name for name in ("input_ids", "pixel_values") if name in takes] or wanted
    if network.config.is_encoder_decoder and "decoder_input_ids" in takes:
        wanted.append("decoder_input_ids")
    required = [name for name, it in takes.items() if it.default is it.empty and it.kind is it.POSITIONAL_OR_KEYWORD]
    return [*wanted, *(name for name in required if name not in wanted)]


def _tokens(config: Any, sizes: Sizes) -> torch.Tensor:
    text = config.get_text_config()
    ids = integers(text.vocab_size, sizes.batch, sizes.length or _length(text))
    end = getattr(text, "eos_token_id", None)
    if isinstance(end, int) and text.vocab_size > 1:
        # Classifiers read at the end token, and want as many in each text: one, at its end.
        ids = torch.where(ids == end, (end + 1) % text.vocab_size, ids)
        ids[:, -1] = end
    return ids


def _length(text: Any) -> int:
    most = getattr(text, "max_position_embeddings", None)
    return min(_LENGTH, most) if isinstance(most, int) and most > 0 else _LENGTH


def _image_size(config: Any) -> int | None:
    """Return the side of the images that a configuration is for; None if it does not say."""
    size = getattr(_vision(config), "image_size", None)
    return max(size) if isinstance(size, (list, tuple)) else size


def _vision(config: Any) -> Any:
    return getattr(config, "vision_config", config)


def _image(config: Any, sizes: Sizes) -> torch.Tensor:
    side = sizes.image or _image_size(config) or _IMAGE
    vision = _vision(config)
    channels = getattr(vision, "num_channels", None) or 3
    frames = getattr(vision, "num_frames", None)
    return noise(sizes.batch, *([frames] if frames else []), channels, side, side)


def _sound(config: Any, sizes: Sizes) -> torch.Tensor:
    bins = getattr(config, "num_mel_bins", None)
    if bins and hasattr(config, "max_length"):  # a spectrogram in the place of samples
        return noise(sizes.batch, config.max_length, bins)
    return noise(sizes.batch, sizes.length or _SAMPLES)


def _features(config: Any, sizes: Sizes) -> torch.Tensor:
    bins = getattr(config, "num_mel_bins", None)
    if bins and hasattr(config, "max_source_positions"):  # whose convolutions halve the frames
        return noise(sizes.batch, bins, sizes.length or 2 * config.max_source_positions)
    width = bins or getattr(config, "feature_projection_input_dim", None)
    if width is None:
        raise cannot_make_up(type(config).__name__.removesuffix("Config"), "input_features")
    return noise(sizes.batch, sizes.length or _LENGTH, width)


_MAKERS: dict[str, Callable[[Any, Sizes], torch.Tensor]] = {
    "input_ids": _tokens,
    "decoder_input_ids": _tokens,
    "pixel_values": _image,
    "input_values": _sound,
    "input_features": _features,
}
