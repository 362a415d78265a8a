"""Writes the trace of 50 training steps of a transformer with PyTorch's own export: `python -m … FILE LAYERS`."""

import os
import sys

os.environ["OMP_NUM_THREADS"] = "1"

from dnnamo.loaders import load
from dnnamo.model import Capturing

STEPS = 50


def main() -> None:
    """Profile with input shapes and export."""
    path, layers = sys.argv[1:]
    model = load("demo:transformer", {"layers": int(layers), "batch": 8, "length": 32})
    model.run_training(n_steps=2)
    with Capturing(["shapes"]):
        model.profile_training(n_steps=STEPS).export_chrome_trace(path)


if __name__ == "__main__":
    main()
