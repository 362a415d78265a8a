"""Graphs from end to end: taken, stored, asked for, exported."""

import json
from pathlib import Path

import pytest

from dnnamo.graphs import Graph
from tests.acceptance.place import Place
from tests.acceptance.test_bad_input import one_paragraph

BRANCHES = """
import torch
from dnnamo.frameworks.pytorch import TorchModel

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, inputs):
        outputs = self.linear(inputs)
        return outputs * 2 if outputs.sum() > 0 else outputs

def __dnnamo_loader__():
    return TorchModel(Net(), lambda: (torch.randn(8, 4), torch.randint(4, (8,))))
"""


@pytest.mark.parametrize("model", ["demo:mlp", "demo:keras_mlp"])
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_a_graph_is_stored_and_its_rows_can_be_asked_for(cluster: Place, model: str, mode: str) -> None:
    taken = cluster.json("graph", model, "--mode", mode, "-p", "batch=3")
    job_id = taken["id"]
    assert sum(taken["kinds"].values()) == taken["operations"]
    assert taken["weights"] == 6
    assert [it["shape"][0] for it in taken["inputs"]] == [3] * (1 if mode == "inference" else 2)

    (row,) = cluster.json(
        "sql",
        "SELECT count(*) AS edges, sum(CASE WHEN role = 'weight' THEN 1 ELSE 0 END) AS taken "
        f"FROM graph_edges JOIN graph_tensors ON graph_tensors.job_id = {job_id} AND number = tensor "
        f"WHERE graph_edges.job_id = {job_id}",
    )
    assert row["edges"] == taken["edges"]
    assert row["taken"] >= 6
    exported = Graph.from_json(cluster.dnnamo("graph", job_id, "--to", "json").stdout)
    assert len(exported.operations) == taken["operations"]
    assert cluster.json("show", job_id)["graph"]["depth"] == taken["depth"]
    assert cluster.dnnamo("graph", job_id, "--to", "dot").stdout.startswith("digraph")


def test_the_layers_of_a_graph_are_those_of_a_profile(embedded: Place) -> None:
    graph = embedded.json("graph", "demo:cnn", "--mode", "training", "-p", "batch=2")
    words = ("--mode", "training", "--steps", 1, "--warmup", 0, "-p", "batch=2")
    profile = embedded.json("profile", "demo:cnn", *words)
    (row,) = embedded.json(
        "sql",
        "SELECT count(DISTINCT layer) AS layers, count(DISTINCT operations.name) AS joined FROM graph_operations "
        f"LEFT JOIN operations ON operations.job_id = {profile['id']} AND grain = 'layer' AND operations.name = layer "
        f"WHERE graph_operations.job_id = {graph['id']} AND layer IS NOT NULL",
    )
    assert row["layers"] == row["joined"] == graph["layers"] == 9


def test_a_program_becomes_onnx_that_computes_the_same(embedded: Place) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    torch = pytest.importorskip("torch")
    taken = embedded.json("graph", "demo:mlp", "-p", "batch=3")
    for suffix in ("onnx", "pt2"):
        embedded.dnnamo("graph", taken["id"], "--to", suffix, "-f", f"mlp.{suffix}")

    inputs = torch.randn(3, 64)
    session = runtime.InferenceSession(embedded.home / "mlp.onnx")
    (outputs,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    expected = torch.export.load(embedded.home / "mlp.pt2").module()(inputs)
    assert torch.allclose(torch.from_numpy(outputs), expected, atol=1e-5)


def test_what_depends_on_values_is_recorded_and_cannot_be_a_program(embedded: Place) -> None:
    path = embedded.file("model.py", BRANCHES)
    taken = embedded.json("graph", path)
    (note,) = taken["notes"]
    assert note.startswith("torch.export refused this model (")
    assert taken["source"] == "torch_fx"
    assert "refused this model" in embedded.dnnamo("show", taken["id"]).stdout
    refused = embedded.dnnamo("graph", taken["id"], "--to", "pt2", code=2)
    assert "keeps its graph in graph.py, and none in graph.pt2" in refused.stderr
    refused = embedded.dnnamo("graph", taken["id"], "--to", "onnx", "-f", "out.onnx", code=2)
    assert one_paragraph(refused.stderr, "It can be exported to py, json, dot.")
    assert not Path(embedded.home / "out.onnx").exists()


def test_a_graph_that_cannot_be_taken_fails_its_job(embedded: Place) -> None:
    path = embedded.file("model.py", BRANCHES.replace("self.linear(inputs)", "self.linear(inputs) @ torch.ones(9)"))
    failed = embedded.dnnamo("graph", path, code=1)
    assert "user_error" in failed.stderr
    text = "class Given:\n    def get_inference_graph(self): return 3\ndef __dnnamo_loader__(): return Given()\n"
    failed = embedded.dnnamo("graph", embedded.file("other.py", text), code=1)
    assert "graph of type builtins.int" in failed.stderr
    failed = embedded.dnnamo("graph", embedded.file("other.py", text), "--mode", "training", code=1)
    assert "does not implement get_training_graph. It implements get_inference_graph." in failed.stderr
    assert json.loads(embedded.dnnamo("ls", "-o", "json").stdout)
