import csv
import io
import json

import pytest

from dnnamo.errors import JobFailed, JobNotFound, UsageError
from dnnamo.graphs import Graph
from dnnamo.records import Artifact, JobSpec, Outcome
from tests.cli.conftest import Said
from tests.graphs.drawn import GRAPH


@pytest.fixture
def job(store) -> int:
    return stored(store, Outcome(state="succeeded", graph=GRAPH), {"graph.pb": b"native"})


def stored(store, outcome, files, method="get_training_graph") -> int:
    job_id = store.submit(JobSpec(model="demo:mlp", method=method))
    claim = store.claim(["cpu"], worker="w", lease_s=30, job_id=job_id)
    artifacts = [Artifact(name=name, media_type="a/b") for name in files]
    outcome = Outcome(**{name: getattr(outcome, name) for name in ("state", "graph")}, artifacts=artifacts)
    assert store.record(claim, outcome, files=files)
    return job_id


def test_a_stored_graph_is_summed_up_by_kind(job):
    said = Said.well("graph", job).out

    assert "torch_export · 5 operations · 7 tensors · 13 edges · 3 layers · depth 4" in said
    assert "64 values in 1 tensor, 128 bytes" in said
    assert "x float32[s0, 8]" in said
    assert "add string[2] · add string[2]" in said
    assert "It is drawn by hand." in said
    assert said.splitlines()[-4].split() == ["aten.mul.Tensor", "2"]


def test_or_by_layer(job):
    rows = list(csv.DictReader(io.StringIO(Said.well("graph", job, "--by", "layer", "-o", "csv").out)))

    assert [(row["layer"], row["operations"], row["weight_bytes"]) for row in rows] == [
        ("first", "1", "128"),
        ("Net", "1", "0"),
        ("second", "1", "128"),
        ("", "2", "0"),
    ]
    assert "(none)" in Said.well("graph", job, "--by", "layer").out


def test_json_has_all_of_the_figures(job):
    said = json.loads(Said.well("graph", job, "-o", "json").out)

    assert (said["id"], said["operations"], said["kinds"]["aten.mul.Tensor"]) == (job, 5, 2)
    assert [it["name"] for it in said["inputs"]] == ["x"]
    assert said["forms"] == ["pb", "json", "dot"]
    assert said["by_layer"][0]["layer"] == "first"


def test_show_has_a_line_of_it(job, store):
    assert "torch_export · 5 operations" in Said.well("show", job).out
    assert json.loads(Said.well("show", job, "-o", "json").out)["graph"]["depth"] == 4
    other = store.submit(JobSpec(model="demo:mlp", method="run_inference"))
    assert json.loads(Said.well("show", other, "-o", "json").out)["graph"] is None


def test_it_is_written_in_a_form(job, tmp_path):
    assert Graph.from_json(Said.well("graph", job, "--to", "json").out) == GRAPH
    said = Said.well("graph", job, "--to", "dot", "-f", tmp_path / "graph.dot")
    assert (tmp_path / "graph.dot").read_text().startswith("digraph")
    assert "Graphviz" in said.err
    assert "Note: It is drawn by hand." in said.err
    assert said.out == ""
    Said.well("graph", job, "-f", tmp_path / "native.pb")
    assert (tmp_path / "native.pb").read_bytes() == b"native"
    Said.well("graph", job, "-f", tmp_path / "graph.json.gz")
    assert (tmp_path / "graph.json.gz").read_bytes()[:2] == b"\x1f\x8b"


@pytest.mark.parametrize("to", ["pt2", "onnx", "py"])
def test_a_form_that_cannot_be_had_names_those_that_can(job, tmp_path, to):
    said = Said("graph", job, "--to", to, "-f", tmp_path / "out")

    assert isinstance(said.error, UsageError)
    assert "exported to pb, json, dot." in str(said.error)
    assert list(tmp_path.glob("*out*")) == []


def test_an_unknown_form_is_refused_before_anything_runs(store):
    said = Said("graph", "demo:mlp", "--to", "svg")
    assert "cannot be exported to 'svg'" in str(said.error)
    said = Said("graph", "demo:mlp", "-f", "graph.png")
    assert "cannot be exported to 'png'" in str(said.error)
    assert store.jobs() == []


def test_a_job_without_a_graph_says_where_graphs_come_from(store):
    other = stored(store, Outcome(state="succeeded"), {}, method="get_weights")
    assert "its method is get_weights. Graphs come from" in str(Said("graph", other).error)
    assert isinstance(Said("graph", 999).error, JobNotFound)


def test_options_that_make_a_job_are_refused_for_a_stored_one(job):
    assert "is stored, so options that make a job do not apply" in str(Said("graph", job, "-p", "batch=3").error)


def test_a_job_of_an_older_version_says_what_it_has(store):
    old = stored(store, Outcome(state="succeeded"), {"graph.py": b"class GraphModule: ..."})

    error = str(Said("graph", old).error)
    assert "only the framework's own graph was kept (graph.py;" in error
    assert "graph.py" in Said.well("show", old).out


def test_a_graph_job_that_failed_says_why(store):
    failed = stored(store, Outcome(state="failed"), {})
    assert isinstance(Said("graph", failed).error, JobFailed)
