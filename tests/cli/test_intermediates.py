import csv
import io
import json

import numpy as np
import pytest

from dnnamo import client
from dnnamo.arrays import packed, read_arrays
from dnnamo.errors import UsageError
from dnnamo.records import VALUES_NAME, Artifact, JobSpec, Outcome
from tests.cli.conftest import Said
from tests.intermediates.given import INTERMEDIATES

FIRST, SECOND = (it.name for it in INTERMEDIATES)
FILES = {VALUES_NAME: {FIRST: np.ones((2, 32))}, "intermediates-2.safetensors": {SECOND: np.zeros((0, 4))}}


def record(store, **options) -> int:
    """A get_intermediates job that a worker did."""
    job_id = store.submit(JobSpec(model="demo:mlp", method="get_intermediates", **options))
    claim = store.claim(["cpu"], worker="w", lease_s=30, job_id=job_id)
    files = {name: packed(arrays) for name, arrays in FILES.items()} if options else {}
    artifacts = [Artifact(name=name, media_type="x/y") for name in files]
    outcome = Outcome(state="succeeded", intermediates=INTERMEDIATES, artifacts=artifacts)
    assert store.record(claim, outcome, files=files)
    return job_id


def test_figures_are_listed(store):
    job = record(store)
    said = Said.well("intermediates", job)

    assert said.err == (
        f"Job {job} has 2 intermediates of 256 bytes, 1 with elements that are not finite, of which block.0 came "
        "first.\n"
    )
    header, _, first, second = said.out.splitlines()
    assert header.split() == ["name", "type", "shape", "min", "max", "mean", "std", "zeros", "not", "finite"]
    assert first.split() == [
        "block.0", "float32", "[2,", "32]", "-0.1", "1e+300", "0.3333", "4.941e-324", "25.0%", "2",
    ]  # fmt: skip
    assert second.split()[:2] == ["block.0#2", "bfloat16"]


def test_figures_as_data_have_the_histogram_with_its_borders(store):
    job = record(store)

    first, second = json.loads(Said.well("intermediates", job, "-o", "json").out)
    assert first == {
        **INTERMEDIATES[0].to_dict(), "count": 64, "zero_fraction": 0.25, "edges": INTERMEDIATES[0].edges,
    }  # fmt: skip
    assert (len(first["histogram"]), len(first["edges"])) == (64, 65)
    assert (second["min"], second["histogram"], second["edges"]) == (None, [], [])
    rows = list(csv.DictReader(io.StringIO(Said.well("intermediates", job, "-o", "csv").out)))
    assert [row["name"] for row in rows] == [FIRST, SECOND]
    assert json.loads(rows[0]["histogram"]) == INTERMEDIATES[0].histogram


def test_arrays_of_all_files_go_to_one(store, tmp_path):
    job = record(store, values=True)
    path = tmp_path / "o.safetensors"

    assert f"in full in {path}" in Said.well("intermediates", job, "--to", path).err
    assert {name: array.shape for name, array in read_arrays(path).items()} == {FIRST: (2, 32), SECOND: (0, 4)}
    assert [name for name, _ in client.job(job).values()] == [FIRST, SECOND]


def test_arrays_that_were_not_kept_cannot_be_written(store, tmp_path):
    job = record(store)

    for words in ([job], ["demo:mlp"]):
        error = Said("intermediates", *words, "--to", tmp_path / "o.safetensors").error
        assert isinstance(error, UsageError)
        assert "--values" in str(error)
    assert list(tmp_path.glob("o*")) == []


@pytest.mark.parametrize("words", [["-k", "a"], ["--values"], ["--budget", "1GiB"], ["-p", "batch=3"]])
def test_options_that_make_a_job_do_not_apply_to_one_that_is_stored(store, words):
    job = record(store)

    assert f"Job {job} is stored" in str(Said("intermediates", job, *words).error)


@pytest.mark.parametrize(
    ("words", "says"),
    [(["--budget", "1GiB"], "ask for their values"), (["--values", "--budget", "much"], "budget: 'much' is no size")],
)
def test_a_budget_that_makes_no_sense_is_refused(store, words, says):
    error = Said("intermediates", "demo:mlp", *words).error

    assert isinstance(error, UsageError)
    assert says in str(error)


def test_a_job_of_another_method_has_none(store):
    job = store.submit(JobSpec(model="demo:mlp", method="run_inference"))

    assert f"Job {job} called run_inference" in str(Said("intermediates", job).error)


def test_show_says_what_there_is_and_what_was_asked_for(store):
    said = Said.well("show", record(store, values=True, budget_bytes=2**20)).out

    assert "values       kept in full, up to 1.00 MiB" in said
    assert "outputs      2 intermediates of 256 bytes" in said
