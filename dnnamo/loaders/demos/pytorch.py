"""Small PyTorch networks on synthetic data, each sized to run in seconds on one core."""

import torch
from torch import nn

from dnnamo.errors import LoaderError
from dnnamo.frameworks.pytorch import TorchModel, accuracy
from dnnamo.loaders.demos import check_sizes

__all__ = ["cnn", "mlp", "transformer"]


def mlp(batch: int = 64, hidden: int = 256) -> TorchModel:
    """Return a perceptron of two hidden layers on `batch` vectors of 64 features, 10 classes."""
    check_sizes(batch=batch, hidden=hidden)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10)
    )
    data = torch.randn(batch, 64), torch.randint(10, (batch,))
    return TorchModel(network, lambda: data, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))


def cnn(batch: int = 32) -> TorchModel:
    """Return a convolutional network on `batch` images of 28 by 28 pixels, 10 classes."""
    check_sizes(batch=batch)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 10),
    )
    data = torch.randn(batch, 1, 28, 28), torch.randint(10, (batch,))
    return TorchModel(network, lambda: data, optimizer=lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9))


def transformer(batch: int = 16, length: int = 64, width: int = 128, layers: int = 2) -> TorchModel:
    """Return a transformer encoder that tags each of `length` tokens of `batch` sentences, 100 classes."""
    check_sizes(batch=batch, length=length, width=width, layers=layers)
    if width % 4:
        raise LoaderError(f"width is {width}; it must be a multiple of 4, the number of attention heads.")
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Embedding(1000, width),
        nn.TransformerEncoder(nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True), layers),
        nn.Linear(width, 100),
    )
    data = torch.randint(1000, (batch, length)), torch.randint(100, (batch, length))
    return TorchModel(
        network,
        lambda: data,
        loss=lambda outputs, targets: nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten()),
        optimizer=lambda p: torch.optim.Adam(p, lr=1e-3),
        score=accuracy,
    )
