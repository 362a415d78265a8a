"""Packages that are not in the tests' environment: in processes that have the folder that `make test` made for them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ZOO = ROOT / ".venv-zoo"

PARAMETERS = """
import json, keras_hub
from dnnamo.loaders import load
from dnnamo.loaders.zoo.keras.presets import PRESETS
kinds = {name: getattr(keras_hub.models, preset.backbone) for name, preset in PRESETS.items()}
told = {name: kind.presets[name]["metadata"]["params"] for name, kind in kinds.items()}
made = {name: load(f"keras:{name}", {"batch": 1, "length": 4}) for name in PRESETS if told[name] < 70_000_000}
kind = load("keras:BertBackbone", {"batch": 2, "length": 4, "vocabulary_size": 9, "num_layers": 1, "num_heads": 2,
    "hidden_dim": 4, "intermediate_dim": 4})
def refused(name, **params):
    try:
        load(f"keras:{name}", params)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
print(json.dumps({
    "told": {name: told[name] for name in made},
    "made": {name: sum(array.size for array in model.get_weights().values()) for name, model in made.items()},
    "reasons": [model.reasons["run_training"] for model in made.values()],
    "batch": [len(array) for array in kind.run_inference(1)[0].values()],
    "nearest": refused("bert_tinny_en"),
    "fetched": refused("llama2_7b_en"),
    "option": refused("bert_tiny_en_uncased", layers=2),
    "missing": refused("BertBackbone", num_layers=2),
}))
"""


@pytest.fixture(scope="module", autouse=True)
def _zoo() -> None:
    if not (ZOO / "installed").exists():
        if "CI" in os.environ:
            pytest.fail("make test did not make .venv-zoo")
        pytest.skip("there is no .venv-zoo; make test makes it")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    paths = [str(ZOO), *map(str, (ROOT, ROOT / "workers", ROOT / "storage"))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, cwd=ROOT)


def test_torchvision_and_timm_keep_the_contract_of_schemes() -> None:
    words = ("-q", "-p", "tests.loaders.torchvision_operators", "-p", "no:cacheprovider", "-k", "torchvision or timm")
    done = run("-m", "pytest", *words, "tests/loaders/test_schemes.py", "tests/loaders/test_torchvision.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


@pytest.mark.parametrize("reference", ["torchvision:resnet18", "timm:resnet18"])
def test_a_torchvision_that_does_not_fit_is_told_in_one_paragraph(reference: str) -> None:
    said = run("-c", f"from dnnamo.loaders import load; load({reference!r}, {{}})").stderr.strip().splitlines()[-1]
    if "LoaderError" not in said:
        pytest.skip("this torchvision fits this PyTorch")
    assert "is installed, but cannot be imported beside torch" in said
    assert "torchvision::nms" in said
    assert "pip install 'dnnamo[" in said


def test_kerashub_presets_have_as_many_weights_as_it_tells_and_need_no_network() -> None:
    done = run("-c", PARAMETERS)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["made"] == found["told"]
    assert len(found["made"]) >= 3
    assert all("no head and no loss" in reason for reason in found["reasons"])
    assert set(found["batch"]) == {2}
    assert "ModelNotFound" in found["nearest"]
    assert "keras:bert_tiny_en_uncased" in found["nearest"]
    assert "LoaderError" in found["fetched"]
    assert "-p pretrained=true" in found["fetched"]
    assert "has no option 'layers'" in found["option"]
    assert "vocabulary_size" in found["missing"]
