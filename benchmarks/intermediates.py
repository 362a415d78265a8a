"""What the statistics of all intermediates cost in memory, against a plain forward pass of the same network.

Run with `make bench-intermediates`. Each pass has a fresh process; they are interleaved, and of each kind's peaks of
resident memory the median counts. The bar is a ratio of 1.3.
"""

import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROUNDS = 3
BAR = 1.3
BATCH = 8
TOKENS = 128


def bert() -> Any:
    """Return transformers' BERT-base with random weights, on tokens."""
    import torch
    from transformers import BertConfig, BertModel

    from dnnamo.frameworks.pytorch import TorchModel

    torch.manual_seed(0)
    config = BertConfig()
    tokens = torch.randint(config.vocab_size, (BATCH, TOKENS))
    return TorchModel(BertModel(config), lambda: ({"input_ids": tokens}, None))


def dense() -> Any:
    """Return a Keras network of 400 MB of weights in 25 layers, on vectors."""
    import keras
    import numpy as np

    from dnnamo.frameworks.tensorflow import KerasModel

    layers = [keras.layers.Dense(2048, activation="relu") for _ in range(25)]
    inputs = np.ones((1024, 2048), np.float32)
    return KerasModel(keras.Sequential([keras.Input((2048,)), *layers]), lambda: (inputs, 0))


def vgg16() -> Any:
    """Return keras.applications' VGG16 with random weights, 550 MB of them, on images."""
    import keras
    import numpy as np

    from dnnamo.frameworks.tensorflow import KerasModel

    images = np.ones((BATCH, 224, 224, 3), np.float32)
    return KerasModel(keras.applications.VGG16(weights=None), lambda: (images, 0))


def resnet50() -> Any:
    """Return keras.applications' ResNet50 with random weights, on images."""
    import keras
    import numpy as np

    from dnnamo.frameworks.tensorflow import KerasModel

    images = np.ones((BATCH, 224, 224, 3), np.float32)
    return KerasModel(keras.applications.ResNet50(weights=None), lambda: (images, 0))


NETWORKS: dict[str, Callable[[], Any]] = {
    "BERT-base": bert,
    "Keras dense": dense,
    "Keras VGG16": vgg16,
    "Keras ResNet50": resnet50,
}


def one_pass(network: str, kind: str) -> None:
    """Make a network and one pass through it; print the process's peak of resident memory, in bytes."""
    from dnnamo.intermediates.statistics import describe

    model = NETWORKS[network]()
    found = {}
    if kind == "plain":
        model.run_inference(1)
    else:
        model.get_intermediates(receive=lambda name, array: found.update({name: describe(name, array)}))
    status = Path("/proc/self/status").read_text()
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    total = sum(it.bytes for it in found.values())
    print(json.dumps({"peak": int(peak[1]) * 1024 if peak else 0, "arrays": len(found), "bytes": total}))


def measured(network: str, kind: str) -> dict[str, int]:
    """Return what one pass in a fresh process printed."""
    command = [sys.executable, "-m", "benchmarks.intermediates", network, kind]
    quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=quiet)
    said: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return said


def main() -> int:
    """Print the ratio for each network; return 1 if one is over the bar."""
    worst = 0.0
    for network in NETWORKS:
        passes: dict[str, list[dict[str, int]]] = {"plain": [], "intermediates": []}
        for _ in range(ROUNDS):
            for kind, found in passes.items():
                found.append(measured(network, kind))
        plain, taken = (statistics.median(it["peak"] for it in found) for found in passes.values())
        arrays, size = passes["intermediates"][0]["arrays"], passes["intermediates"][0]["bytes"]
        print(
            f"{network:<15} {taken / 2**20:6.0f} MiB, {taken / plain:.2f} x the {plain / 2**20:.0f} MiB of a plain "
            f"pass, for {arrays} arrays of {size / 2**20:.0f} MiB",
            flush=True,
        )
        worst = max(worst, taken / plain)
    print(f"bar: {BAR} x, {'held' if worst <= BAR else 'MISSED'}")
    return int(worst > BAR)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        one_pass(*sys.argv[1:])
    else:
        sys.exit(main())
