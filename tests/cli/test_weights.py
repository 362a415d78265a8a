import json

import numpy as np
import pytest

from dnnamo.arrays import packed, read_arrays
from dnnamo.errors import UsageError
from dnnamo.records import WEIGHTS_NAME, Artifact, JobSpec, Outcome
from tests.cli.conftest import Said

WEIGHTS = {"b": np.arange(6, dtype=np.float16).reshape(2, 3), "a": np.array(2.5)}


@pytest.fixture
def job(store, tmp_path) -> int:
    """A get_weights job that a worker did."""
    job_id = store.submit(JobSpec(model="demo:mlp", method="get_weights", keys=["a", "b*"]))
    claim = store.claim(["cpu"], worker="w", lease_s=30, job_id=job_id)
    outcome = Outcome(state="succeeded", artifacts=[Artifact(name=WEIGHTS_NAME, media_type="x/y")])
    assert store.record(claim, outcome, files={WEIGHTS_NAME: packed(WEIGHTS)})
    return job_id


def test_weights_are_listed(store, job):
    said = Said.well("weights", job, "-o", "json")

    assert json.loads(said.out) == [
        {"name": "a", "type": "float64", "shape": [], "bytes": 8},
        {"name": "b", "type": "float16", "shape": [2, 3], "bytes": 12},
    ]
    assert said.err == f"Job {job} has 2 arrays, 20 bytes.\n"


def test_weights_go_to_a_file(store, job, tmp_path):
    said = Said.well("weights", job, "--to", tmp_path / "w.safetensors")

    found = read_arrays(tmp_path / "w.safetensors")
    assert {name: array.tolist() for name, array in found.items()} == {
        name: array.tolist() for name, array in WEIGHTS.items()
    }
    assert f"in {tmp_path}/w.safetensors" in said.err


def test_the_keys_are_shown(store, job):
    assert "keys         a b*" in Said.well("show", job).out


def test_options_that_make_a_job_do_not_apply_to_one_that_is_stored(store, job):
    for words in (["-k", "a"], ["--device", "gpu"], ["-p", "batch=3"]):
        assert f"Job {job} is stored" in str(Said("weights", job, *words).error)


def test_a_job_of_another_method_has_no_weights(store):
    job_id = store.submit(JobSpec(model="demo:mlp", method="run_inference"))

    error = Said("weights", job_id).error

    assert isinstance(error, UsageError)
    assert f"Job {job_id} called run_inference" in str(error)
