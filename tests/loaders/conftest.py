"""Files that loaders read, written once."""

import sys
import warnings
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


@pytest.fixture(scope="session")
def written_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of one good file of each kind, and of some bad ones; made by the frameworks themselves."""
    folder = tmp_path_factory.mktemp("written")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the frameworks have to say of each other as they write
        _write_programs(folder)
        _write_keras(folder)
        _write_onnx(folder)
    (folder / "empty").mkdir()
    (folder / "garbage").mkdir()
    (folder / "garbage" / "saved_model.pb").write_text("this is no graph")
    for name in ("text.pt2", "text.keras", "text.onnx"):
        (folder / name).write_text("this is no archive")
    for name in ("open.pt2", "compiled.keras", "open.onnx"):
        (folder / f"half-{name}").write_bytes((folder / name).read_bytes()[:-200])
    return folder


def _write_programs(folder: Path) -> None:
    import torch

    network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 3)).eval()
    inputs = (torch.randn(2, 4),)
    fixed = torch.export.export(network, inputs)
    torch.export.save(fixed, folder / "fixed.pt2")
    opened = torch.export.export(network, inputs, dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(opened, folder / "open.pt2")
    torch.save(network.state_dict(), folder / "weights.pt2")


def _write_keras(folder: Path) -> None:
    import keras

    network = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(5)])
    network.save(folder / "bare.keras")
    network.export(folder / "served", verbose=False)
    network.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    network.save(folder / "compiled.keras")
    inputs = keras.Input((None,), dtype="int32"), keras.Input((None, None, 3))
    words = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(7, 4)(inputs[0]))
    image = keras.layers.GlobalAveragePooling2D()(inputs[1])
    both = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(keras.layers.Concatenate()([words, image])))
    both.compile("sgd", "categorical_crossentropy")
    both.save(folder / "both.keras")
    keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x + 1)]).save(folder / "lambda.keras")


def _write_onnx(folder: Path) -> None:
    import onnx

    from tests.frameworks.onnx_models import convolution, perceptron

    onnx.save_model(
        perceptron(), folder / "open.onnx", save_as_external_data=True, location="open.data", size_threshold=64
    )
    onnx.save_model(convolution(), folder / "images.onnx")
    (folder / "alone").mkdir()
    (folder / "alone" / "open.onnx").write_bytes((folder / "open.onnx").read_bytes())
