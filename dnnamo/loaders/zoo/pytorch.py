"""What the schemes for PyTorch share: synthetic batches, and wrapped models with a reason where one cannot train."""

from collections.abc import Callable
from typing import Any

from dnnamo.frameworks.pytorch import TorchModel
from dnnamo.loaders.zoo.options import MakeBatch
from dnnamo.model import Model

import torch  # isort: skip (after TorchModel, which tells what to install where PyTorch is missing)

__all__ = ["integers", "noise", "wrapped"]


class _Inferring(TorchModel):
    """A network that cannot be trained as it is."""

    run_training = Model.run_training
    profile_training = Model.profile_training
    get_training_graph = Model.get_training_graph


def wrapped(
    network: torch.nn.Module,
    make_batch: MakeBatch,
    *,
    loss: Callable[[Any, Any], torch.Tensor] | None,
    score: Callable[[Any, Any], float] | None = None,
    made_of: str,
    untrained: str = "",
) -> TorchModel:
    """Return a network as a wrapped model; without a loss it has no training, and `untrained` says why."""
    if loss is None:
        model: TorchModel = _Inferring(network, make_batch)
        model.reasons = dict.fromkeys(("run_training", "profile_training", "get_training_graph"), untrained)
    else:
        model = TorchModel(network, make_batch, loss=loss, score=score)
    model.made_of = made_of
    return model


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return normally distributed numbers, the same for the same arguments."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def integers(below: int, *shape: int, seed: int = 0) -> torch.Tensor:
    """Return whole numbers from 0, the same for the same arguments."""
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(seed))
