"""Whatever is wrong: one clear paragraph, the documented exit code, the job ended with its cause, the worker alive."""

import sqlite3
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.acceptance.place import BRIEF, DNNAMO, QUICK, Place
from tests.servers import free_port

METHODS = [
    "get_inference_graph",
    "get_training_graph",
    "get_weights",
    "run_inference",
    "run_training",
    "profile_inference",
    "profile_training",
    "get_intermediates",
]

RAISING = """
def fail(self, *args, **kwargs):
    raise ValueError("the tensor is upside down")

class M:
    {methods}

def __dnnamo_loader__():
    return M()
""".format(methods="\n    ".join(f"{method} = fail" for method in [*METHODS, "set_weights"]))

BARE = """
class M:
    def run_inference(self, n_steps=1):
        {body}
def __dnnamo_loader__():
    return M()
"""


def one_paragraph(error: str, *words: str) -> bool:
    """Whether the last line of what was said is Dnnamo's error and has all the words, and no traceback came before."""
    last = error.strip().splitlines()[-1]
    assert "Traceback" not in error, error
    assert last.startswith("dnnamo: "), error
    missing = [word for word in words if word not in last]
    assert not missing, f"{missing} not in: {last}"
    return True


USAGE = {
    "missing file": (["run", "nowhere.py"], ["nowhere.py", "There is no model file"]),
    "missing path": (["run", "./nowhere/model"], ["nowhere/model"]),
    "empty reference": (["run", ""], ["no model reference"]),
    "negative steps": (["run", "demo:mlp", "--steps", "-3"], ["-3", "at least 1"]),
    "no steps": (["profile", "demo:mlp", "--steps", "0"], ["0", "at least 1"]),
    "negative warm-up": (["run", "demo:mlp", "--warmup", "-1"], ["-1", "at least 0"]),
    "no threads": (["run", "demo:mlp", "--threads", "0"], ["threads", "at least 1"]),
    "no time": (["run", "demo:mlp", "--timeout", "0"], ["timeout", "0"]),
    "malformed option": (["run", "demo:mlp", "-p", "batch"], ["'batch'", "KEY=VALUE"]),
    "unknown job": (["show", "4711"], ["4711", "dnnamo ls"]),
    "unknown job's table": (["ops", "4711"], ["4711"]),
    "unknown job's log": (["logs", "4711"], ["4711"]),
    "unknown job to wait for": (["wait", "4711"], ["4711"]),
    "unknown job to cancel": (["cancel", "4711"], ["4711"]),
    "nothing to set": (["submit", "set_weights", "demo:mlp"], ["set_weights", "weights"]),
    "missing weights": (["run", "demo:mlp", "--weights", "nowhere.safetensors"], ["nowhere.safetensors"]),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_ends_with_2_and_stores_nothing(embedded: Place, case: str) -> None:
    words, said = USAGE[case]
    assert one_paragraph(embedded.dnnamo(*words, code=2).stderr, *said)
    assert embedded.json("ls") == []


@pytest.mark.parametrize(
    "words",
    [
        ["run", "demo:mlp", "--device", "tpu"],
        ["run", "demo:mlp", "--mode", "sideways"],
        ["submit", "run_sideways", "demo:mlp"],
        ["run", "demo:mlp", "--steps", "many"],
        ["run"],
        ["frobnicate"],
    ],
)
def test_a_word_that_the_command_line_does_not_know_ends_with_2(embedded: Place, words: list[str]) -> None:
    done = embedded.dnnamo(*words, code=2)
    assert "Traceback" not in done.stderr
    assert "Error" in done.stderr


FAILING = {
    "no loader": ("x = 1\n", "user_error", ["__dnnamo_loader__", "model.py"]),
    "loader is no function": ("__dnnamo_loader__ = 3\n", "user_error", ["__dnnamo_loader__", "int"]),
    "loader returns nothing": ("def __dnnamo_loader__(): pass\n", "user_error", ["NoneType", "dnnamo.Model"]),
    "loader raises": (
        "def __dnnamo_loader__(): raise OSError('no such disk')\n",
        "user_error",
        ["OSError", "no such disk"],
    ),
    "loader wants more": ("def __dnnamo_loader__(size): pass\n", "user_error", ["size", "missing"]),
    "own import fails": ("import not_there_at_all\n", "unsupported", ["neither", "not_there_at_all"]),
    "syntax error": ("def f(:\n", "user_error", ["SyntaxError"]),
    "lacks the method": (
        "class M:\n  def get_weights(self): pass\ndef __dnnamo_loader__(): return M()\n",
        "unsupported",
        ["run_inference", "get_weights"],
    ),
    "calls sys.exit": (BARE.format(body="raise SystemExit(0)"), "user_error", ["SystemExit"]),
    "returns no list": (BARE.format(body="return 3"), "user_error", ["run_inference", "list", "int"]),
    "memory": (BARE.format(body="raise MemoryError"), "oom_host", ["MemoryError"]),
    "crash": (BARE.format(body="import ctypes; ctypes.string_at(0)"), "signal", ["SIGSEGV"]),
    "abort": (BARE.format(body="import os; os.abort()"), "signal", ["SIGABRT"]),
    "os._exit": (BARE.format(body="import os; os._exit(7)"), "user_error", ["7", "os._exit"]),
    "too slow": (BARE.format(body="import time; time.sleep(100)"), "timeout", ["2 s"]),
}


@pytest.mark.parametrize("case", FAILING)
def test_failing_model_ends_its_job_with_the_cause_and_the_exit_code_1(cluster: Place, case: str) -> None:
    text, cause, said = FAILING[case]
    done = cluster.dnnamo("run", cluster.file("model.py", text), "--timeout", 2 if case == "too slow" else 100, code=1)
    assert one_paragraph(done.stderr, cause, *said)
    newest = cluster.json("ls", "--limit", 1)[0]
    shown = cluster.json("show", newest["id"])
    assert (shown["state"], shown["cause"]) == ("failed", cause)
    tries = 2 if cause in ("signal", "oom_host") else 1
    assert [attempt["cause"] for attempt in shown["attempts"]] == [cause] * tries
    assert cluster.json("run", QUICK, *BRIEF)["state"] == "succeeded"


@pytest.mark.parametrize("method", METHODS)
def test_model_that_raises_in_a_method_fails_the_job_with_the_traceback_in_its_log(cluster: Place, method: str) -> None:
    job_id = cluster.submit(method, cluster.file("raising.py", RAISING))
    shown = cluster.ended(job_id)
    assert (shown["state"], shown["cause"]) == ("failed", "user_error")
    assert "ValueError: the tensor is upside down" in shown["message"]
    assert "raising.py:3" in shown["message"]
    log = cluster.dnnamo("logs", job_id).stdout
    assert "Traceback (most recent call last)" in log
    assert "ValueError: the tensor is upside down" in log


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"0.weight": np.zeros((2, 2), np.float32)}, ["0.weight", "[2, 2]", "[256, 64]"]),
        ({"0.wieght": np.zeros((256, 64), np.float32)}, ["0.wieght", "'0.weight'"]),
    ],
)
def test_wrong_weights_fail_the_job_and_name_what_is_wrong(
    cluster: Place, weights: dict[str, np.ndarray], said: list[str]
) -> None:
    path = cluster.home / "wrong.safetensors"
    save_file(weights, path)
    assert one_paragraph(cluster.dnnamo("run", "demo:mlp", "--weights", path, code=1).stderr, "user_error", *said)


def test_file_that_holds_no_weights_is_refused_at_submit(embedded: Place) -> None:
    path = embedded.file("weights.pt", "these are not weights")
    done = embedded.dnnamo("run", "demo:mlp", "--weights", path, code=2)
    assert one_paragraph(done.stderr, "weights.pt", "safetensors")


@pytest.mark.parametrize("loss", ["float('nan')", "float('inf')"])
@pytest.mark.parametrize("warmup", [0, 5])
def test_loss_that_is_not_finite_fails_the_job(cluster: Place, loss: str, warmup: int) -> None:
    model = cluster.file(
        "diverging.py",
        "class M:\n"
        "    def run_training(self, n_steps=1):\n"
        f"        return [({loss}, None)]\n"
        "def __dnnamo_loader__():\n"
        "    return M()\n",
    )
    done = cluster.dnnamo("run", model, "--mode", "training", "--warmup", warmup, code=1)
    assert one_paragraph(done.stderr, "loss", "step 0", "warm-up" if warmup else "training")


def test_unknown_demo_names_the_nearest(cluster: Place) -> None:
    assert one_paragraph(cluster.dnnamo("run", "demo:mpl", code=1).stderr, "demo:mpl", "demo:mlp")


def test_option_that_a_model_does_not_take_names_those_that_it_does(cluster: Place) -> None:
    done = cluster.dnnamo("run", "demo:mlp", "-p", "size=3", code=1)
    assert one_paragraph(done.stderr, "'size'", "batch", "hidden")


def test_module_that_is_not_there_is_named(cluster: Place) -> None:
    assert one_paragraph(cluster.dnnamo("run", "no_such.module", code=1).stderr, "no_such")


def test_gpu_job_without_any_gpu_fails_as_unsupported(embedded: Place) -> None:
    pytest.importorskip("torch")
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = embedded.dnnamo("run", "demo:mlp", "--device", "gpu", code=1)
    assert one_paragraph(done.stderr, "unsupported", "GPU", "--device cpu")


def test_table_of_a_job_without_a_profile_says_where_profiles_come_from(embedded: Place) -> None:
    job_id = embedded.json("run", QUICK, *BRIEF)["id"]
    assert one_paragraph(embedded.dnnamo("ops", job_id, code=2).stderr, "no profile", "dnnamo profile")


def test_failed_job_in_json_is_still_an_object(embedded: Place) -> None:
    shown = embedded.json("run", embedded.file("model.py", "x = 1\n"), code=1)
    assert (shown["state"], shown["cause"]) == ("failed", "user_error")


def test_broker_that_is_not_there_ends_with_3_and_stores_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path, broker_url=f"redis://user:sesame@127.0.0.1:{free_port()}/0")
    for words in (["submit", "run_inference", "demo:mlp"], ["run", "demo:mlp"], ["worker"]):
        done = place.dnnamo(*words, code=3)
        assert one_paragraph(done.stderr, "broker", "DNNAMO_BROKER_URL")
        assert "sesame" not in done.stderr + done.stdout
    assert place.json("ls") == []
    assert "sesame" not in place.dnnamo("config").stdout


@pytest.mark.parametrize(
    "url",
    [
        "redis://:sesame/x@127.0.0.1:1/0",
        "redis://h:notaport/0",
        "redis://h/0?password=sesame",
        "sentinel://h",
        "sesame",
    ],
)
def test_broker_url_that_cannot_be_read_is_refused_without_its_password(tmp_path: Path, url: str) -> None:
    place = Place(tmp_path, broker_url=url)
    done = place.dnnamo("submit", "run_inference", QUICK, code=2)
    assert one_paragraph(done.stderr, "redis://")
    assert "sesame" not in done.stderr + place.dnnamo("doctor", code=3).stdout + place.dnnamo("config").stdout


def test_output_that_cannot_be_written_is_no_traceback(embedded: Place) -> None:
    codes = {">/dev/full": 1, ">&-": 0, "| head -c 1": 0}
    embedded.dnnamo("ls")  # makes the database, for which the others would wait for each other
    shells = {
        redirection: subprocess.Popen(
            f"{DNNAMO} ls {redirection}",
            shell=True,
            env=embedded.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for redirection in codes
    }
    said = {redirection: shell.communicate(timeout=60)[1] for redirection, shell in shells.items()}
    assert {redirection: shell.returncode for redirection, shell in shells.items()} == codes
    assert not any("Traceback" in words for words in said.values())


def test_broker_of_another_kind_is_refused(tmp_path: Path) -> None:
    place = Place(tmp_path, broker_url="amqp://guest:sesame@127.0.0.1//")
    done = place.dnnamo("run", "demo:mlp", code=2)
    assert one_paragraph(done.stderr, "redis://")
    assert "sesame" not in done.stderr


def test_database_that_is_not_there_ends_with_3(tmp_path: Path) -> None:
    place = Place(tmp_path, database_url=f"postgresql://user:sesame@127.0.0.1:{free_port()}/none")
    for words in (["run", "demo:mlp"], ["ls"], ["show", "1"], ["db", "upgrade"]):
        done = place.dnnamo(*words, code=3)
        assert one_paragraph(done.stderr, "database")
        assert "sesame" not in done.stderr + done.stdout
    assert "bad" in place.dnnamo("doctor", code=3).stdout


def test_database_of_somebody_else_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    with sqlite3.connect(path) as theirs:
        theirs.execute("CREATE TABLE invoices (id INTEGER)")
    place = Place(tmp_path, database_url=f"sqlite:///{path}")
    assert one_paragraph(place.dnnamo("run", "demo:mlp", code=3).stderr, "theirs.db")
    with sqlite3.connect(path) as theirs:
        assert theirs.execute("SELECT name FROM sqlite_master").fetchall() == [("invoices",)]


def test_database_of_a_newer_dnnamo_is_refused(embedded: Place) -> None:
    embedded.dnnamo("ls")
    with sqlite3.connect(embedded.home / "dnnamo.db") as database:
        database.execute("UPDATE dnnamo_schema_version SET version_num = '9999'")
    assert one_paragraph(embedded.dnnamo("ls", code=3).stderr, "9999")


def test_settings_that_cannot_be_read_are_named(embedded: Place) -> None:
    assert one_paragraph(embedded.dnnamo("ls", code=2, DNNAMO_DRAIN_S="soon").stderr, "DNNAMO_DRAIN_S")
    (embedded.home / "config.toml").write_text("drain_s = = 3")
    assert one_paragraph(embedded.dnnamo("ls", code=2).stderr, "config.toml")


def test_worker_without_a_broker_says_what_to_set(embedded: Place) -> None:
    assert one_paragraph(embedded.dnnamo("worker", code=2).stderr, "DNNAMO_BROKER_URL", "dnnamo up")
    assert one_paragraph(
        embedded.dnnamo("worker", "--queue", "tpu", code=2, DNNAMO_BROKER_URL="redis://x").stderr, "tpu"
    )
