"""An ONNX model from a file, by every method that ONNX Runtime has for it, on a cluster and embedded."""

import os

import pytest

from tests.acceptance.place import Place, steps_add_up

if "CI" not in os.environ:
    pytest.importorskip("onnxruntime")

KEPT = {
    "get_inference_graph": "graph.onnx",
    "get_weights": "weights.safetensors",
    "get_intermediates": "log.txt",
    "run_inference": "predictions.safetensors",
    "profile_inference": "events.parquet",
}


def model(place: Place) -> str:
    """The reference of a file whose weights lie beside it, relative to the place."""
    import onnx

    from tests.frameworks.onnx_models import perceptron

    path = place.home / "perceptron.onnx"
    if not path.exists():
        made = perceptron(features=256, hidden=512)
        onnx.save_model(made, path, save_as_external_data=True, location="perceptron.data")
    return "onnx:perceptron.onnx"


def test_a_file_runs_with_the_threads_and_the_batch_of_the_job(place: Place) -> None:
    ran = place.json("run", model(place), "-p", "batch=4", "--steps", 3, "--warmup", 1, "--threads", 1)

    assert (ran["state"], ran["model"]) == ("succeeded", f"onnx:{place.home}/perceptron.onnx")
    assert steps_add_up(ran, 3)
    assert ran["environment"]["libraries"]["onnxruntime"]
    assert ran["environment"]["threads"]["onnxruntime.intraop"] == 1
    assert ran["predictions"]["kept"] == 3
    (log,) = (entry for entry in ran["artifacts"] if entry["name"] == "log.txt")
    assert log["size"] == 0, "nothing is printed"


def test_its_profile_is_a_table_of_operations(place: Place) -> None:
    profiled = place.json("profile", model(place), "-p", "batch=32", "--steps", 4)

    rows = place.json("ops", profiled["id"])["rows"]
    assert profiled["profile"]["source"] == "onnxruntime"
    assert {row["calls"] for row in rows} == {4}
    assert "MatMul" in {row["name"] for row in rows}
    assert {"first", "last"} <= {row["name"] for row in place.json("ops", profiled["id"], "--by", "layer")["rows"]}
    assert len(place.json("ops", profiled["id"], "--by", "step")["rows"]) == 4


def test_every_method_that_it_has_is_a_job(cluster: Place) -> None:
    ids = {method: cluster.submit(method, model(cluster), "--steps", 2) for method in KEPT}

    for method, artifact in KEPT.items():
        shown = cluster.ended(ids[method])
        assert shown["state"] == "succeeded", shown["message"]
        assert artifact in [entry["name"] for entry in shown["artifacts"]]
    assert cluster.json("intermediates", ids["get_intermediates"])


def test_a_file_of_its_profiler_is_imported(embedded: Place) -> None:
    from dnnamo.frameworks.onnxruntime import OnnxModel
    from tests.frameworks.onnx_models import perceptron

    (embedded.home / "run.json").write_bytes(OnnxModel(perceptron(), batch=2).profile_inference(3).trace)

    (imported,) = embedded.json("import", "run.json")

    assert (imported["source"], imported["steps"]) == ("onnxruntime", 5), "the runs before the counted ones too"
    assert embedded.json("ops", imported["id"])["rows"]


def test_a_file_that_is_cut_short_fails_the_job_and_not_the_worker(cluster: Place) -> None:
    model(cluster)
    content = (cluster.home / "perceptron.onnx").read_bytes()
    (cluster.home / "half.onnx").write_bytes(content[: len(content) // 2])

    failed = cluster.dnnamo("run", "onnx:half.onnx", code=1)

    assert "half.onnx is no ONNX model" in failed.stderr
    assert cluster.json("run", model(cluster), "--steps", 1)["state"] == "succeeded"
