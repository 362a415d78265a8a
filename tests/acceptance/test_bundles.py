"""A model's code goes with the job: a worker runs what it has never seen."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.acceptance.place import BRIEF, Place
from tests.acceptance.test_bad_input import one_paragraph
from tests.servers import fresh_database, start_redis

MODEL = """
import os
from pathlib import Path

import helper

class M:
    def run_inference(self, n_steps=1):
        here = Path(__file__).parent
        print("data", (here / "data" / "start.txt").read_text(), Path("data/start.txt").exists())
        print("modes", *sorted({oct(path.stat().st_mode) for path in [here, *here.rglob("*")]}))
        print("names", *sorted(str(path.relative_to(here)) for path in here.rglob("*") if path.is_file()))
        return [helper.step()] * n_steps

def __dnnamo_loader__():
    return M()
"""

HELPER = """
def step():
    return 2.0
"""


@pytest.fixture
def own(tmp_path: Path, postgres_server: str) -> Iterator[Place]:
    """A place with a PostgreSQL and a Redis of its own, and no worker yet."""
    with fresh_database(postgres_server) as database_url, start_redis(tmp_path / "redis") as broker_url:
        place = Place(tmp_path, database_url=database_url, broker_url=broker_url)
        place.dnnamo("db", "upgrade")
        yield place


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A model's folder, with a module and data beside the model and with what must stay at home."""
    folder = tmp_path / "laptop" / "a project"
    write(folder, {"model.py": MODEL, "helper.py": HELPER, "data/start.txt": "3"})
    write(folder, {".env": "PASSWORD=x", "tls.key": "secret", "runs/1.log": "much", ".gitignore": "runs/\n"})
    return folder


def write(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def test_a_worker_runs_a_model_whose_folder_is_gone(own: Place, project: Path) -> None:
    model = project / "model.py"
    job_id = own.submit("run_inference", model, *BRIEF)
    without = own.submit("run_inference", model, *BRIEF, "--no-bundle")
    module = own.json("show", job_id)["bundle"]
    shutil.rmtree(project)

    with own.worker():
        assert own.ended(job_id)["state"] == "succeeded", own.json("show", job_id)["message"]
        failed = own.ended(without)

    assert "data 3 True" in own.dnnamo("logs", job_id).stdout
    assert "modes 0o100400 0o40500" in own.dnnamo("logs", job_id).stdout
    assert "names data/start.txt helper.py model.py\n" in own.dnnamo("logs", job_id).stdout
    assert (module["files"], module["folders"]) == (3, [str(project)])
    shown = own.dnnamo("show", job_id).stdout
    assert f"3 files of {project}" in shown
    assert module["digest"] in shown
    assert (failed["state"], failed["cause"], failed["bundle"]) == ("failed", "user_error", None)
    assert f"There is no model file {model} on this machine" in failed["message"]
    assert "--no-bundle" in failed["message"]


def test_a_module_brings_its_package_alone(own: Place) -> None:
    write(
        own.home, {"nets/__init__.py": "", "nets/small.py": MODEL.replace("import helper", "from nets import helper")}
    )
    write(own.home, {"nets/helper.py": HELPER, "nets/data/start.txt": "3", "elsewhere.txt": "no"})
    job_id = own.submit("run_inference", "nets.small", *BRIEF)
    shown = own.json("show", job_id)
    assert (shown["model"], shown["bundle"]["files"]) == ("nets.small", 4)
    (own.home / "nets").rename(own.home / "gone")

    with own.worker():
        assert own.ended(job_id)["state"] == "succeeded", own.json("show", job_id)["message"]

    log = own.dnnamo("logs", job_id).stdout
    assert "names __init__.py data/start.txt helper.py small.py\n" in log
    assert "data 3 False" in log  # the working folder is the one around the package


BROKEN: dict[str, tuple[dict[str, str], str, list[str]]] = {
    "missing requirement": (
        {"requirements.txt": "numpy\n-r other.txt\nno-such-thing>=2  # for plots\nnumpy<1; python_version < '3'\n"},
        "unsupported",
        ["no-such-thing>=2 (not installed)", "requirements.txt", "--python", ".dnnamoignore"],
    ),
    "other version": ({"requirements.txt": "numpy<1"}, "unsupported", ["numpy<1 (it has "]),
    "missing module": (
        {"helper.py": "import no_such_module.deep\n"},
        "unsupported",
        ["'no_such_module'", "neither among the files", "--python"],
    ),
    "error in a helper": (
        {"helper.py": "\n\ndef step():\n    raise KeyError('x')\n"},
        "user_error",
        ["KeyError", "at helper.py:4"],
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_a_worker_lacks_is_said(cluster: Place, project: Path, case: str) -> None:
    files, cause, said = BROKEN[case]
    write(project, files)

    shown = cluster.json("run", project / "model.py", *BRIEF, code=1)

    assert shown["cause"] == cause, shown
    assert [word for word in said if word not in shown["message"]] == [], shown["message"]
    assert "dnnamo-scratch" not in shown["message"]
    write(project, {"helper.py": HELPER, "requirements.txt": "numpy>1\n"})
    cluster.dnnamo("run", project / "model.py", *BRIEF)


def test_code_that_was_tampered_with_is_not_run(own: Place, project: Path) -> None:
    job_id = own.submit("run_inference", project / "model.py", *BRIEF)
    with own.store() as store, store.engine.begin() as connection:
        connection.execute(text("UPDATE artifacts SET data = replace(data::text, '32', '33')::bytea"))

    with own.worker():
        failed = own.ended(job_id)
        fine = own.ended(own.submit("run_inference", project / "model.py", *BRIEF, "--no-bundle"))

    assert failed["cause"] == "bad_bundle"
    assert "not what was submitted" in failed["message"]
    assert own.dnnamo("logs", job_id).stdout == ""
    assert fine["state"] == "succeeded"


def test_a_worker_with_folders_of_its_own_takes_no_code(own: Place, project: Path) -> None:
    with own.worker(DNNAMO_MODEL_ROOTS=str(project)):
        refused = own.ended(own.submit("run_inference", project / "model.py", *BRIEF))
        taken = own.ended(own.submit("run_inference", project / "model.py", *BRIEF, "--no-bundle"))

    assert refused["cause"] == "unsupported"
    assert "DNNAMO_MODEL_ROOTS" in refused["message"]
    assert "--no-bundle" in refused["message"]
    assert taken["state"] == "succeeded"


def _large(folder: Path) -> list[str]:
    write(folder, {"weights.bin": "x" * 2**20})
    return ["1.00 MiB", "weights.bin (1.00 MiB)", ".dnnamoignore", "--no-bundle", "DNNAMO_BUNDLE_LIMIT"]


def _led_out(folder: Path) -> list[str]:
    (folder / "out").symlink_to(folder.parent)
    return [f"{folder}/out leads out of its folder"]


def _ignored(folder: Path) -> list[str]:
    write(folder, {".dnnamoignore": "*.py"})
    return [f"{folder / 'model.py'} does not go with the job", ".dnnamoignore says so", "!model.py"]


@pytest.mark.parametrize("spoil", [_large, _led_out, _ignored])
def test_what_cannot_go_along_is_refused_before_anything_is_stored(
    own: Place, project: Path, spoil: Callable[[Path], list[str]]
) -> None:
    said = spoil(project)

    done = own.dnnamo("submit", "run_inference", project / "model.py", code=2, DNNAMO_BUNDLE_LIMIT="1MiB")

    assert one_paragraph(done.stderr, *said)
    assert own.json("ls") == []


def test_without_a_broker_a_model_runs_where_it_lies(embedded: Place, project: Path) -> None:
    shown = embedded.json("run", project / "model.py", *BRIEF)

    assert shown["bundle"] is None
    assert "tls.key" in embedded.dnnamo("logs", shown["id"]).stdout
