"""A PyTorch network as a wrapped model: try `dnnamo profile examples/pytorch_model.py -p batch=16`."""

import torch

from dnnamo.frameworks.pytorch import TorchModel


def __dnnamo_loader__(batch: int = 32) -> TorchModel:
    network = torch.nn.Sequential(torch.nn.Linear(100, 200), torch.nn.ReLU(), torch.nn.Linear(200, 5))
    return TorchModel(network, lambda: (torch.randn(batch, 100), torch.randint(5, (batch,))))
