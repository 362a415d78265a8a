"""What every scheme keeps to, built in or of another package."""

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from dnnamo.errors import LoaderError, ModelNotFound, Unsupported
from dnnamo.loaders import load, locate, schemes
from dnnamo.model import capabilities

HEAVY = ("torch", "tensorflow", "keras", "transformers", "torchvision", "timm", "onnxruntime")


class Case(NamedTuple):
    """A small model of a scheme.

    Attributes:
        name: What stands after the colon; `{files}` stands for the folder of `written_files`.
        params: Options that make it small.
        trains: Whether it has training.
        miss: A name that is near to one that there is, or the path of no file.
        near: What the answer to that has.
    """

    name: str
    params: Mapping[str, Any]
    trains: bool
    miss: str
    near: str

    @property
    def is_path(self) -> bool:
        return "{files}" in self.name


CASES = {
    "demo": Case("mlp", {"batch": 2}, True, "mpl", "demo:mlp"),
    "keras": Case("MobileNetV3Small", {"batch": 2, "image": 32, "classes": 5}, True, "ResNet5", "keras:ResNet50"),
    "transformers": Case(
        "bert",
        {"batch": 2, "length": 8, "num_hidden_layers": 1, "hidden_size": 24, "intermediate_size": 32},
        True,
        "bret",
        "transformers:bert",
    ),
    "torchvision": Case(
        "shufflenet_v2_x0_5",
        {"batch": 2, "image": 32, "classes": 5},
        True,
        "shuflenet_v2_x0_5",
        "torchvision:shufflenet_v2_x0_5",
    ),
    "timm": Case(
        "test_vit",
        {"batch": 2, "image": 32, "classes": 5},
        True,
        "vit_tny_patch16_224",
        "timm:vit_tiny_patch16_224",
    ),
    "torch_export": Case("{files}/open.pt2", {"batch": 3}, False, "{files}/absent.pt2", "absent.pt2"),
    "keras_file": Case("{files}/compiled.keras", {"batch": 3}, True, "{files}/absent.keras", "absent.keras"),
    "onnx": Case("{files}/open.onnx", {"batch": 3}, False, "{files}/absent.onnx", "absent.onnx"),
    "saved_model": Case("{files}/served", {"batch": 3}, False, "{files}/absent", "absent"),
}


INSTALLED = [name for name in CASES if schemes.describe(name).installed]
"""Of torchvision and timm test_apart.py sees to it that they are."""


@pytest.fixture(params=INSTALLED)
def scheme(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def case(scheme: str, request: pytest.FixtureRequest) -> Case:
    found = CASES[scheme]
    written_files = request.getfixturevalue("written_files") if found.is_path else None
    return found._replace(name=found.name.format(files=written_files), miss=found.miss.format(files=written_files))


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """The models of the cases, each made when first asked for."""
    return {}


@pytest.fixture
def model(scheme: str, case: Case, models: dict[str, Any]) -> Any:
    if scheme not in models:
        models[scheme] = load(f"{scheme}:{case.name}", case.params)
    return models[scheme]


def leaves(value: Any) -> list[np.ndarray]:
    """Return the arrays in what a model predicted."""
    if isinstance(value, Mapping):
        value = list(value.values())
    return (
        [leaf for item in value for leaf in leaves(item)] if isinstance(value, (list, tuple)) else [np.asarray(value)]
    )


def test_every_scheme_has_a_case() -> None:
    assert set(schemes.known()) == set(CASES)


def test_a_name_that_is_unknown_is_answered_with_the_nearest(scheme: str, case: Case) -> None:
    with pytest.raises(ModelNotFound) as caught:
        schemes.find(scheme).loader(case.miss)
    assert case.near in str(caught.value)


@pytest.mark.parametrize("scheme", [name for name in INSTALLED if not CASES[name].is_path])
def test_the_name_is_among_those_that_are_listed_and_fits_in_any_case(scheme: str, case: Case) -> None:
    listed = schemes.find(scheme).names()
    assert case.name in listed
    assert len(set(listed)) == len(listed)
    assert callable(schemes.find(scheme).loader(case.name.upper()))


def test_two_runs_predict_the_same(model: Any) -> None:
    for one, other in zip(leaves(model.run_inference(2)), leaves(model.run_inference(2)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_batch_has_the_size_that_the_option_says(model: Any, case: Case) -> None:
    sizes = {len(leaf) for leaf in leaves(model.run_inference(1)) if leaf.ndim}
    assert sizes == {case.params["batch"]}


def test_training_is_there_where_it_is_said_to_be(model: Any, case: Case) -> None:
    assert ("run_training" in capabilities(model)) == case.trains
    if not case.trains:
        with pytest.raises(Unsupported, match=re.escape(model.reasons["run_training"])):
            model.run_training(1)
        return
    steps = model.run_training(2)
    assert len(steps) == 2
    assert all(np.isfinite(loss) for loss, _ in steps)


@pytest.mark.parametrize("value", [0, -1, 1.5, "8", True])
def test_a_batch_that_is_none_is_refused(scheme: str, case: Case, value: object) -> None:
    with pytest.raises(LoaderError, match="batch is .*; it must be a whole number of at least 1"):
        load(f"{scheme}:{case.name}", {**case.params, "batch": value})


def test_an_option_that_is_unknown_is_refused(scheme: str, case: Case) -> None:
    with pytest.raises(LoaderError, match="batsh"):
        load(f"{scheme}:{case.name}", {"batsh": 2})


@pytest.mark.parametrize("scheme", [name for name in INSTALLED if name != "demo"])
def test_a_function_makes_the_batch_in_place_of_the_loader(scheme: str, case: Case, model: Any, tmp_path: Path) -> None:
    made = model._make_batch()
    (tmp_path / "given_data.py").write_text("batches = []\ndef make():\n    return batches[0]\n")
    given = {name: value for name, value in case.params.items() if name not in ("batch", "length")}
    loaded = load(f"{scheme}:{case.name}", {**given, "data": f"{tmp_path}/given_data.py:make"})
    sys.modules["_dnnamo_model_given_data"].batches.append(made)
    assert loaded._make_batch() is made
    assert "data" in loaded.made_of
    with pytest.raises(LoaderError, match="batch cannot be given together with data"):
        load(f"{scheme}:{case.name}", {**given, "data": f"{tmp_path}/given_data.py:make", "batch": 2})


def test_a_scheme_is_described_and_listed_by_name_without_its_packages() -> None:
    program = (
        "import sys; from dnnamo.loaders import schemes, locate; [schemes.describe(it) for it in schemes.known()];"
        "[locate(it + ':name') for it in schemes.known() if not getattr(schemes.find(it), 'IS_PATH', False)];"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & set(HEAVY) == set()


def test_a_description_says_whether_all_packages_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert schemes.describe("demo") == ("demo", schemes.find("demo").TAKES, "", True)
    monkeypatch.setattr(schemes.find("transformers"), "PACKAGES", ("torch", "absent_given"))
    assert schemes.describe("transformers").installed is False
    assert schemes.describe("transformers").extra == "transformers"


@pytest.mark.parametrize(
    ("reference", "nearest"),
    [("kears:ResNet50", "keras:"), ("transformer:bert", "transformers:"), ("Demo:mlp", "demo:")],
)
def test_a_scheme_that_is_misspelt_is_answered_with_the_nearest_before_anything_is_stored(
    reference: str, nearest: str
) -> None:
    with pytest.raises(ModelNotFound) as caught:
        locate(reference)
    assert f"There is no scheme {reference.partition(':')[0]}:" in str(caught.value)
    assert f"Did you mean {nearest}" in str(caught.value)
    assert all(f"{name}:" in str(caught.value) for name in schemes.known())


def test_a_scheme_that_is_like_none_lists_them_all() -> None:
    with pytest.raises(ModelNotFound, match="The schemes are demo:, keras:"):
        locate("zzz:name")


def test_a_module_is_no_scheme(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "given_module.py").touch()
    (tmp_path / "given_folder").mkdir()
    for reference in ("given_module:make", "given_folder:make", "json:loads", "on_the_worker.models:make", "anything"):
        assert locate(reference) == reference


def test_names_that_differ_by_case_alone_are_told_apart() -> None:
    assert schemes.resolve("given", "AB", ["ab", "AB"]) == "AB"
    with pytest.raises(ModelNotFound, match="Did you mean given:ab or given:AB"):
        schemes.resolve("given", "Ab", ["ab", "AB"])
