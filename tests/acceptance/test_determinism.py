"""A seed gives the same losses to the bit, on one thread, wherever and however often the job runs."""

import numpy as np
import pytest

from tests.acceptance.place import Place

TORCH = """
import random
import numpy as np
import torch
from torch import nn
from dnnamo.frameworks.pytorch import TorchModel

rows = torch.randn(256, 20)
words = list({f"word {number}" for number in range(50)})  # in an order that the hashes of strings decide

def __dnnamo_loader__():
    classes = torch.tensor([len(words[row % 50]) % 5 for row in range(256)])
    data = torch.utils.data.TensorDataset(rows, torch.stack([classes, torch.arange(256)], 1))
    batches = iter(())
    def make_batch():
        nonlocal batches
        try:
            inputs, targets = next(batches)
        except StopIteration:
            batches = iter(torch.utils.data.DataLoader(data, batch_size=32, shuffle=True))
            inputs, targets = next(batches)
        noise = random.random() + np.random.standard_normal((32, 20)).astype(np.float32)
        return inputs + noise, (targets[:, 0] + hash(words[int(targets[0, 1]) % 50])) % 5
    return TorchModel(nn.Sequential(nn.Linear(20, 64), nn.Dropout(0.5), nn.ReLU(), nn.Linear(64, 5)), make_batch)
"""

KERAS = """
import random
import numpy as np

def __dnnamo_loader__():
    import keras  # not before now
    from dnnamo.frameworks.tensorflow import KerasModel
    import tensorflow as tf

    rows, classes = np.random.standard_normal((256, 20)).astype(np.float32), np.random.randint(5, size=256)
    data = iter(tf.data.Dataset.from_tensor_slices((rows, classes)).shuffle(256).batch(32).repeat())
    layers = [keras.layers.Dense(64, "relu"), keras.layers.Dropout(0.5), keras.layers.GaussianNoise(0.1)]
    network = keras.Sequential([keras.Input((20,)), *layers, keras.layers.Dense(5)])
    def make_batch():
        inputs, targets = next(data)
        return inputs + random.random(), targets
    return KerasModel(network, make_batch)
"""


@pytest.mark.parametrize("text", [TORCH, KERAS], ids=["pytorch", "tensorflow"])
def test_losses_are_the_same_to_the_bit(embedded: Place, cluster: Place, text: str) -> None:
    path = embedded.file("seeded.py", text)
    asked = ("run", path, "--mode", "training", "--steps", 10, "--threads", 1)

    first, other = cluster.json(*asked, "--seed", 7), cluster.json(*asked, "--seed", 8)
    again = [place.json(*asked, "--seed", 7) for place in (cluster, embedded)]

    assert len(set(first["loss"])) == 10
    assert [job["loss"] for job in again] == [first["loss"]] * 2
    assert [job["steps"]["warmup"]["count"] for job in (first, *again)] == [5] * 3
    assert not set(first["loss"]) & set(other["loss"])
    assert [float(np.float32(loss)) for loss in first["loss"]] == first["loss"]  # as the framework had it
    assert "seed 7" in cluster.dnnamo("show", first["id"]).stdout


def test_a_seed_and_repeats_do_not_go_together(embedded: Place) -> None:
    refused = embedded.dnnamo("run", "demo:mlp", "--mode", "training", "--seed", 1, "--repeat", 2, code=2)

    assert "repeats is 2 with a seed" in refused.stderr
