"""Intermediates through queue and database, on both frameworks."""

from pathlib import Path

import numpy as np
import pytest

from dnnamo.arrays import read_arrays
from tests.acceptance.place import Place

MODELS = {"demo:cnn": ("0", "Sequential"), "demo:keras_cnn": ("cnn/convolution_1", "cnn")}


@pytest.mark.parametrize("model", MODELS)
def test_figures_and_arrays_of_a_model_agree(cluster: Place, tmp_path: Path, model: str) -> None:
    first, network = MODELS[model]
    path = tmp_path / "arrays.safetensors"
    figures = cluster.json("intermediates", model, "-p", "batch=4", "--seed", 1)
    assert {first, network} <= {row["name"] for row in figures}

    kept = cluster.json(
        "intermediates", model, "-p", "batch=4", "--seed", 1, "-k", first, "-k", network, "--values", "--to", path
    )

    arrays = read_arrays(path)
    assert set(arrays) == {first, network} == {row["name"] for row in kept}
    for row in figures:
        if row["name"] in arrays:
            array = np.array(arrays[row["name"]], np.float64)
            assert (row["shape"], row["count"]) == (list(array.shape), array.size)
            assert (row["min"], row["max"]) == (array.min(), array.max())
            assert row["std"] == pytest.approx(array.std())
            assert sum(row["histogram"]) == array.size


def test_beyond_the_budget_the_job_fails_and_says_what_to_do(cluster: Place) -> None:
    failed = cluster.dnnamo("intermediates", "demo:cnn", "--values", "--budget", "10kB", code=1).stderr

    for said in ("(user_error)", "9.77 KiB", "'0' (float32", "--keys", "--budget"):
        assert said in failed


def test_a_key_that_stands_for_none_fails_the_job(cluster: Place) -> None:
    failed = cluster.dnnamo("intermediates", "demo:cnn", "-k", "Sequentail", code=1).stderr

    assert "'Sequentail' (the nearest is 'Sequential')" in failed
