"""What a user does all day, on a cluster and embedded: run, profile, submit, look."""

import csv
import io
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from dnnamo.records import METHODS
from tests.acceptance.place import BRIEF, EXAMPLES, QUICK, Place, steps_add_up

# A worker has the framework of its last job at hand, so all of one demo comes before the next one.
each_demo = pytest.mark.parametrize("demo", ["mlp", "cnn", "transformer", "keras_mlp", "keras_cnn"], scope="module")


TIMES = {"self_ns", "total_ns", "device_ns", "device_total_ns"}
OPERATION = {"name", "calls", "shapes", "flops", "bytes", "peak_bytes"} | TIMES

SMALL = """
import torch
from dnnamo.frameworks.pytorch import TorchModel

def __dnnamo_loader__():
    torch.manual_seed(0)
    data = torch.randn(4, 3), torch.randint(2, (4,))
    return TorchModel(torch.nn.Linear(3, 2), lambda: data)
"""


@each_demo
def test_demo_trains_and_reports_every_step(cluster: Place, demo: str) -> None:
    ran = cluster.json("run", f"demo:{demo}", "--mode", "training", "--steps", 4, "--warmup", 3, "-p", "batch=8")
    assert (ran["state"], ran["method"], ran["model"]) == ("succeeded", "run_training", f"demo:{demo}")
    assert (ran["device"], ran["params"], ran["n_steps"]) == ("cpu", {"batch": 8}, 4)
    assert steps_add_up(ran, 4)
    assert ran["steps"]["warmup"]["count"] == len(ran["steps"]["warmup"]["duration_ns"]) == 3
    assert len(ran["loss"]) == len(ran["score"]) == 4
    assert ran["environment"]["cores"] >= 1
    assert ran["environment"]["libraries"]["tensorflow" if "keras" in demo else "torch"]


@each_demo
def test_demo_profile_is_a_table_of_operations(cluster: Place, demo: str) -> None:
    profiled = cluster.json("profile", f"demo:{demo}", "--mode", "training", "--steps", 5, "--threads", 1)
    assert steps_add_up(profiled, 5)
    rows = cluster.json("ops", profiled["id"])["rows"]
    assert rows == sorted(rows, key=lambda row: -row["self_ns"])
    assert all(set(row) == OPERATION for row in rows)
    products = [row for row in rows if row["name"] in ("aten::addmm", "aten::mm") or row["name"].endswith("MatMul")]
    assert products
    assert all(row["calls"] % 5 == 0 for row in products)


@pytest.mark.parametrize("name", ["keras_model.py", "pytorch_model.py"])
def test_example_of_each_framework_runs_and_profiles(cluster: Place, name: str) -> None:
    ran = cluster.json("run", EXAMPLES / name, "--mode", "training", "-p", "batch=4", "--steps", 3)
    assert steps_add_up(ran, 3)
    profiled = cluster.json("profile", EXAMPLES / name, "--steps", 3)
    assert cluster.json("ops", profiled["id"])["rows"]


def test_self_times_add_up_to_the_steps(cluster: Place) -> None:
    profiled = cluster.json("profile", "demo:transformer", "--mode", "training", "--steps", 10, "--threads", 1)
    self_ns = sum(row["self_ns"] for row in cluster.json("ops", profiled["id"])["rows"])
    steps = cluster.json("ops", profiled["id"], "--by", "step")["rows"]
    assert len(steps) == 10
    assert self_ns == pytest.approx(sum(step["wall_ns"] for step in steps), rel=0.1)


def test_run_by_default_is_ten_steps_of_inference(place: Place) -> None:
    ran = place.json("run", "demo:mlp")
    assert ran["method"] == "run_inference"
    assert steps_add_up(ran, 10)
    assert ran["loss"] == []
    assert ran["predictions"]["kept"] == 10


def test_profile_in_words_names_the_next_command(place: Place) -> None:
    said = place.dnnamo("profile", "demo:mlp", "--steps", 3).stdout
    assert "median" in said
    assert "aten::" in said
    assert "dnnamo ops" in said


@pytest.mark.timeout(600)  # ten jobs, each of which imports TensorFlow on a machine that may be busy
@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("pytorch_model.py", {"get_inference_graph": "graph.pt2", "get_training_graph": "graph.py"}),
        ("keras_model.py", {"get_inference_graph": "graph.pb", "get_training_graph": "graph.pb"}),
    ],
)
def test_every_method_of_the_interface_is_a_job(cluster: Place, name: str, files: dict[str, str]) -> None:
    model = EXAMPLES / name
    weights = cluster.home / f"{name}.safetensors"
    cluster.dnnamo("weights", model, "--to", weights)
    kept = {
        **files,
        "get_weights": "weights.safetensors",
        "set_weights": "log.txt",
        "get_intermediates": "log.txt",
        "run_inference": "predictions.safetensors",
        "run_training": "log.txt",
        "profile_inference": "events.parquet",
        "profile_training": "events.parquet",
    }
    assert set(kept) == set(METHODS)
    ids = {method: cluster.submit(method, model, *BRIEF, "--weights", weights) for method in kept}
    shown = {method: cluster.ended(job) for method, job in ids.items()}
    for method, artifact in kept.items():
        assert shown[method]["state"] == "succeeded", shown[method]["message"]
        assert artifact in [entry["name"] for entry in shown[method]["artifacts"]]

    assert len(cluster.json("weights", ids["get_weights"])) == 4
    assert shown["run_training"]["loss"][0] > 0
    assert all(cluster.json("ops", ids[method])["rows"] for method in ("profile_inference", "profile_training"))
    assert all(cluster.json("graph", ids[method])["operations"] for method in files)
    outputs = [row for row in cluster.json("intermediates", ids["get_intermediates"]) if row["shape"] == [32, 5]]
    assert outputs
    assert all(row["min"] < row["max"] for row in outputs)


def test_weights_come_back_as_they_were_set(cluster: Place) -> None:
    from safetensors.numpy import load, save

    model = cluster.file("whole.py", SMALL)
    with cluster.store() as store:

        def weights_of(job_id: int) -> bytes:
            cluster.dnnamo("wait", job_id)
            (artifact,) = (entry for entry in store.artifacts(job_id) if entry.name == "weights.safetensors")
            return store.read_artifact(artifact.digest)

        original = load(weights_of(cluster.submit("get_weights", model)))
        changed = {name: value * 2 + 1 for name, value in original.items()}
        (cluster.home / "changed.safetensors").write_bytes(save(changed))
        again = load(weights_of(cluster.submit("get_weights", model, "--weights", "changed.safetensors")))
    assert all((again[name] == changed[name]).all() for name in changed)
    assert (
        cluster.ended(cluster.submit("set_weights", model, "--weights", "changed.safetensors"))["state"] == "succeeded"
    )


def test_submit_prints_the_id_alone_and_the_job_can_be_waited_for(place: Place) -> None:
    job_id = place.submit("run_training", QUICK, "--steps", 3)
    place.dnnamo("wait", job_id)
    shown = place.json("show", job_id)
    assert shown["state"] == "succeeded"
    assert shown["cause"] is None
    (attempt,) = shown["attempts"]
    assert (attempt["number"], attempt["state"], attempt["cause"]) == (1, "succeeded", None)
    assert attempt["started"] <= attempt["ended"]
    assert attempt["worker"]


def test_a_key_makes_a_repeated_submit_the_same_job(cluster: Place) -> None:
    first = cluster.submit("run_inference", QUICK, "--key", "nightly-1")
    assert cluster.submit("run_inference", QUICK, "--key", "nightly-1") == first


def test_bare_model_is_called_once_a_step(place: Place) -> None:
    ran = place.json("run", QUICK, "--mode", "training", "--steps", 20, "-p", "features=3")
    assert steps_add_up(ran, 20)
    assert ran["loss"] == sorted(ran["loss"], reverse=True)
    assert ran["score"] == [None] * 20


def test_listing_filters_and_speaks_csv(embedded: Place) -> None:
    embedded.submit("run_inference", QUICK)
    embedded.submit("run_training", QUICK)
    rows = list(csv.DictReader(io.StringIO(embedded.dnnamo("ls", "-o", "csv").stdout)))
    assert [row["id"] for row in rows] == ["2", "1"]
    only = embedded.json("ls", "--method", "run_training", "--state", "succeeded")
    assert [row["id"] for row in only] == [2]
    assert embedded.json("ls", "--state", "failed") == []


def test_log_has_what_the_model_printed(place: Place) -> None:
    model = place.file(
        "talker.py",
        "import sys\n"
        "class M:\n"
        "    def run_inference(self, n_steps=1):\n"
        "        print('said on stdout'); print('said on stderr', file=sys.stderr)\n"
        "        return [0.0]\n"
        "def __dnnamo_loader__():\n"
        "    return M()\n",
    )
    job_id = place.submit("run_inference", model, "--steps", 1, "--warmup", 0)
    place.dnnamo("wait", job_id)
    log = place.dnnamo("logs", job_id).stdout
    assert "said on stdout" in log
    assert "said on stderr" in log


def test_params_keep_their_json_types(embedded: Place) -> None:
    model = embedded.file(
        "types.py".replace("types", "kinds"),
        "def __dnnamo_loader__(**options):\n"
        "    class M:\n"
        "        def run_inference(self, n_steps=1):\n"
        "            print(sorted((k, type(v).__name__) for k, v in options.items()))\n"
        "            return [0.0]\n"
        "    return M()\n",
    )
    words = [
        word for pair in ("a=1", "b=1.5", "c=true", "d=text", 'e="1"', "f=[1,2]", "g=null") for word in ("-p", pair)
    ]
    shown = embedded.json("run", model, *words)
    assert shown["params"] == {"a": 1, "b": 1.5, "c": True, "d": "text", "e": "1", "f": [1, 2], "g": None}
    expected = [
        ("a", "int"),
        ("b", "float"),
        ("c", "bool"),
        ("d", "str"),
        ("e", "str"),
        ("f", "list"),
        ("g", "NoneType"),
    ]
    assert str(expected) in embedded.dnnamo("logs", shown["id"]).stdout


def test_config_says_where_each_value_came_from(embedded: Place) -> None:
    (embedded.home / "config.toml").write_text("drain_s = 5\n")
    rows = {row["setting"]: row for row in embedded.json("config")}
    assert rows["drain_s"] == {"setting": "drain_s", "value": 5.0, "source": str(embedded.home / "config.toml")}
    assert rows["home"]["source"] == "DNNAMO_HOME"
    assert rows["broker_url"] == {"setting": "broker_url", "value": None, "source": "default"}


def test_verbs_of_each_module_start_in_an_interpreter_of_their_own(cluster: Place) -> None:
    # All other tests have them forked from a process in which the imports of all verbs are done.
    profiled = cluster.json("profile", "demo:mlp", *BRIEF)["id"]
    cluster.dnnamo("export", profiled, "--file", "trace.json")
    commands: list[list[object]] = [
        ["run", QUICK, *BRIEF],
        ["ls"],
        ["show", profiled],
        ["ops", profiled],
        ["timeline", profiled],
        ["export", profiled, "--to", "csv"],
        ["import", "trace.json"],
        ["sql", "SELECT 1"],
        ["workers"],
        ["doctor"],
        ["db", "upgrade"],
    ]
    with ThreadPoolExecutor(4) as beside:
        assert all(done.stdout for done in beside.map(lambda words: cluster.dnnamo(*words, fresh=True), commands))


def test_doctor_finds_a_working_place_well(cluster: Place) -> None:
    findings = {row["check"]: row["state"] for row in json.loads(cluster.dnnamo("doctor", "-o", "json").stdout)}
    assert findings["database"] == findings["broker"] == findings["workers"] == "ok"
