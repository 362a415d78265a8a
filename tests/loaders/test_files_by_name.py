"""Files of other kinds: what is wrong with one is told in one paragraph, and where it may lie is looked at."""

import os
from pathlib import Path

import numpy as np
import pytest

from dnnamo.errors import LoaderError, ModelNotFound, Unsupported
from dnnamo.loaders import load, locate

BAD = {
    "text called .pt2": ("torch_export:{}/text.pt2", "text.pt2 is no .pt2 file"),
    "half a .pt2": ("torch_export:{}/half-open.pt2", "half-open.pt2 (is no .pt2 file|cannot be read as a program)"),
    "weights called .pt2": (
        "torch_export:{}/weights.pt2",
        r"weights.pt2 cannot be read as a program.*torch.export.save",
    ),
    "text called .keras": ("keras_file:{}/text.keras", "text.keras is no .keras file"),
    "half a .keras": ("keras_file:{}/half-compiled.keras", "half-compiled.keras is no .keras file"),
    "program as .keras": ("keras_file:{}/open.pt2", "open.pt2 is no .keras file: its name"),
    "code in .keras": ("keras_file:{}/lambda.keras", "lambda.keras cannot be read.*Lambda.*arbitrary code.*model file"),
    "text called .onnx": ("onnx:{}/text.onnx", "text.onnx is no ONNX model"),
    "half a .onnx": (
        "onnx:{}/half-open.onnx",
        "half-open.onnx is no ONNX model: it is something else, or was cut short",
    ),
    "program as .onnx": ("onnx:{}/open.pt2", "open.pt2 is no ONNX model"),
    ".onnx without its weights": (
        "onnx:{}/alone/open.onnx",
        r"weight .* lies in the file .*open.data, which is not there",
    ),
    "empty folder": ("saved_model:{}/empty", r"empty is no SavedModel: there is no saved_model.pb"),
    "garbage in a SavedModel": ("saved_model:{}/garbage", "garbage cannot be read as a SavedModel"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_is_not_what_its_name_says_is_refused_in_one_paragraph(case: str, written_files: Path) -> None:
    reference, says = BAD[case]
    with pytest.raises(LoaderError, match=says) as caught:
        load(reference.format(written_files), {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("torch_export:{}", "There is no file .* It is a folder"),
        ("saved_model:{}/text.pt2", "There is no folder .* It is a file"),
        ("keras_file:{}/absent.keras", "There is no file"),
        ("onnx:{}", "There is no file .* It is a folder"),
    ],
)
def test_a_path_of_another_kind_is_not_found_on_the_worker(reference: str, says: str, written_files: Path) -> None:
    with pytest.raises(ModelNotFound, match=says):
        load(reference.format(written_files), {})


def test_a_path_is_made_absolute_and_looked_for_at_submit(written_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(written_files)
    assert locate("keras_file:bare.keras") == f"keras_file:{written_files}/bare.keras"
    assert locate("saved_model:./served/") == f"saved_model:{written_files}/served"
    with pytest.raises(ModelNotFound, match=f"There is no file {written_files}/absent.pt2"):
        locate("torch_export:absent.pt2")
    with pytest.raises(ModelNotFound, match="torch_export: needs the path"):
        locate("torch_export:")


@pytest.mark.parametrize(
    "reference", ["torch_export:{}/open.pt2", "keras_file:{}/bare.keras", "saved_model:{}/served", "onnx:{}/open.onnx"]
)
def test_a_file_outside_of_a_workers_folders_is_refused(reference: str, written_files: Path, tmp_path: Path) -> None:
    reference = reference.format(written_files)
    with pytest.raises(Unsupported, match="lies under none of the folders"):
        load(reference, {}, roots=[str(tmp_path)])
    link = tmp_path / "link"
    link.symlink_to(reference.partition(":")[2])
    with pytest.raises(Unsupported, match="which leads to"):
        load(f"{reference.partition(':')[0]}:{link}", {}, roots=[str(tmp_path)])
    assert load(reference, {}, roots=[str(written_files)]).run_inference(1)


def test_data_from_outside_of_a_workers_folders_is_refused(written_files: Path, tmp_path: Path) -> None:
    (tmp_path / "given_data.py").write_text("raise AssertionError")
    params = {"data": f"{tmp_path}/given_data.py:make"}
    with pytest.raises(Unsupported, match="given_data.py"):
        load(f"keras_file:{written_files}/bare.keras", params, roots=[str(written_files)])


@pytest.mark.parametrize("data", [3, "file.py", ["file.py:make"]])
def test_data_that_names_no_function_is_refused(data: object) -> None:
    with pytest.raises(LoaderError, match="data is .*; it must name a function"):
        load("keras:ResNet50", {"data": data})


def test_a_program_of_a_fixed_batch_refuses_another(written_files: Path) -> None:
    reference = f"torch_export:{written_files}/fixed.pt2"
    assert len(load(reference, {"batch": 2}).run_inference(1)[0]) == 2
    with pytest.raises(LoaderError, match="batch is 5, and .*fixed.pt2 was exported for 2 alone"):
        load(reference, {"batch": 5})


def test_a_program_gives_its_weights_and_graph(written_files: Path) -> None:
    import torch

    model = load(f"torch_export:{written_files}/open.pt2", {})
    weights = torch.load(written_files / "weights.pt2")
    np.testing.assert_array_equal(model.get_weights(["0.weight"])["0.weight"], weights["0.weight"].numpy())
    assert isinstance(model.get_inference_graph(), torch.export.ExportedProgram)


def test_a_keras_file_with_open_shapes_takes_sizes_for_them(written_files: Path) -> None:
    model = load(f"keras_file:{written_files}/both.keras", {"batch": 3, "length": 5, "image": 9})
    inputs, targets = model._make_batch()
    assert [array.shape for array in inputs] == [(3, 5), (3, 9, 9, 3)]
    assert inputs[0].max() < 7
    np.testing.assert_array_equal(targets.sum(-1), np.ones(3))
    assert len(model.run_training(1)) == 1


def test_a_keras_file_without_a_loss_says_why_it_cannot_be_trained(written_files: Path) -> None:
    model = load(f"keras_file:{written_files}/bare.keras", {"batch": 2})
    with pytest.raises(Unsupported, match="saved before it was compiled"):
        model.run_training(1)


def test_a_saved_model_names_its_signatures(written_files: Path) -> None:
    reference = f"saved_model:{written_files}/served"
    with pytest.raises(LoaderError, match="no signature 'absent'. It has .*serving_default"):
        load(reference, {"signature": "absent"})
    model = load(reference, {"signature": "serve", "batch": 2})
    assert sorted(array.shape for array in model.get_weights().values()) == [(5,), (36, 5)]


def test_a_folder_that_may_not_be_read_is_not_there(tmp_path: Path) -> None:
    if os.getuid() == 0:
        long = tmp_path / ("x" * 300)
    else:
        long = tmp_path / "closed" / "model.keras"
        long.parent.mkdir(mode=0)
    with pytest.raises(ModelNotFound, match="There is no file"):
        locate(f"keras_file:{long}")


def test_an_onnx_file_takes_sizes_by_the_names_that_it_has_for_them(written_files: Path) -> None:
    model = load(f"onnx:{written_files}/images.onnx", {"batch": 2, "height": 9, "width": 7})

    assert [array.shape for array in model.run_inference()[0]] == [(2, 4, 7, 5), (2, 4, 1, 1)]
    assert "batch=2, height=9, width=7" in model.made_of
    with pytest.raises(LoaderError, match="height is 0; it must be a whole number"):
        load(f"onnx:{written_files}/images.onnx", {"height": 0})
    with pytest.raises(LoaderError, match="height=… -p width=…"):
        load(f"onnx:{written_files}/images.onnx", {}).run_inference()
