"""Weights through queue and database: taken out, changed, put in again, on both frameworks."""

from pathlib import Path

import numpy as np
import pytest

from dnnamo.arrays import read_arrays, write_arrays
from tests.acceptance.place import Place

MODELS = {"demo:mlp": "4.bias", "demo:keras_mlp": "mlp/scores/bias"}


@pytest.mark.parametrize("model", MODELS)
def test_weights_go_around_in_a_circle_to_the_bit(cluster: Place, tmp_path: Path, model: str) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    cluster.dnnamo("weights", model, "--to", str(first))
    changed = {name: np.array(array) for name, array in read_arrays(first).items()}
    bias = MODELS[model]
    changed[bias] += 1
    write_arrays(first, changed)

    cluster.dnnamo("weights", model, "--weights", str(first), "--to", str(second))

    found = read_arrays(second)
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: array.tobytes() for name, array in changed.items()
    }
    listed = cluster.json("weights", model, "-k", "*bias", "--weights", str(first))
    assert bias in [row["name"] for row in listed]
    assert all(row["name"].endswith("bias") for row in listed)


def test_weights_are_set_and_the_model_runs_in_one_job(cluster: Place, tmp_path: Path) -> None:
    path = tmp_path / "bias.safetensors"
    write_arrays(path, {"4.bias": np.full(10, 100, np.float32)})

    job = cluster.json("run", "demo:mlp", "--weights", str(path), "--steps", "1", "--warmup", "0")
    with cluster.store() as store:
        (kept,) = (it for it in store.artifacts(job["id"]) if it.name == "predictions.safetensors")
        (prediction,) = read_arrays(store.read_artifact(kept.digest)).values()

    assert (prediction > 50).all()


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"4.bias": np.full(10, np.nan, np.float32)}, "4.bias (10 of 10)"),
        ({"4.bias": np.ones(3, np.float32)}, "shape [3], the model's is [10]"),
        ({"4.bais": np.ones(10, np.float32)}, "'4.bais'"),
    ],
)
def test_weights_that_do_not_fit_fail_the_job_and_the_worker_goes_on(
    cluster: Place, tmp_path: Path, arrays: dict[str, np.ndarray], said: str
) -> None:
    path = tmp_path / "w.safetensors"
    write_arrays(path, arrays)

    failed = cluster.dnnamo("run", "demo:mlp", "--weights", str(path), code=1).stderr

    assert said in failed
    assert "(user_error)" in failed
    assert cluster.json("run", "demo:mlp", "--steps", "1")["state"] == "succeeded"
