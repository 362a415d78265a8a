import socket
import sys
from pathlib import Path

import pytest

from dnnamo.errors import Unsupported
from dnnamo.records import Bundle, JobSpec
from dnnamo.runner.code import entered, readable
from dnnamo.runner.wire import Request

THERE = "/home/somebody/a project"


@pytest.fixture
def code(tmp_path, monkeypatch) -> Path:
    """The folder of a job's code; working folder and import path come back as they were."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    folder = tmp_path / "code"
    folder.mkdir()
    return folder


def request(code: Path | None, model: str = f"{THERE}/model.py", folders=(THERE,), **params) -> Request:
    bundle = None if code is None else Bundle(digest="0", size=0, files=1, folders=list(folders))
    spec = JobSpec(model=model, method="run_inference", params=params, bundle=bundle)
    return Request(spec=spec, scratch="/", code=None if code is None else str(code))


def named(*args, **params):
    with entered(request(*args, **params)) as found:
        return found.reference


def test_a_job_without_code_is_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with entered(request(None, data=f"{THERE}/x")) as found:
        assert found == (f"{THERE}/model.py", {"data": f"{THERE}/x"})
    assert Path.cwd() == tmp_path


def test_the_folder_of_the_code_is_the_working_folder_and_gets_no_cache(code):
    named(code)

    assert Path.cwd() == code
    assert sys.dont_write_bytecode


@pytest.mark.parametrize(
    ("reference", "here"),
    [
        (f"{THERE}/model.py", "/model.py"),
        (f"{THERE}/model.py:make", "/model.py:make"),
        (f"onnx:{THERE}/net.onnx", "/net.onnx"),
    ],
)
def test_a_path_that_came_along_is_the_one_here(code, reference, here):
    scheme = "onnx:" if reference.startswith("onnx:") else ""

    assert named(code, reference) == f"{scheme}{code}{here}"


@pytest.mark.parametrize(
    "reference", ["pkg.module:make", "demo:mlp", f"{THERE}-2/model.py", f"/x{THERE}/model.py", "transformers:a/b"]
)
def test_other_references_stay(code, reference):
    assert named(code, reference) == reference


def test_a_folder_at_the_root_will_do(code):
    assert named(code, "onnx:/net.onnx", ["/"]) == f"onnx:{code}/net.onnx"


def test_options_that_name_what_came_along_are_moved_too(code):
    given = {"data": f"{THERE}/data.py:batch", "file": f"{THERE}/x.npz", "batch": 3, "name": "x", "deep": [THERE]}

    with entered(request(code, **given)) as found:
        assert found.params == given | {"data": f"{code}/data.py:batch", "file": f"{code}/x.npz"}


def test_a_requirement_that_is_not_met_is_told_before_the_model_is_loaded(code):
    (code / "requirements.txt").write_text("no-such-thing")

    with pytest.raises(Unsupported) as caught, entered(request(code)):
        raise AssertionError("it was loaded")

    for words in (
        socket.gethostname(),
        "no-such-thing (not installed)",
        "requirements.txt",
        sys.executable,
        "--python",
    ):
        assert words in str(caught.value)


def test_a_module_that_is_nowhere_is_told_with_the_remedies(code):
    with pytest.raises(Unsupported) as caught, entered(request(code)):
        import given_nowhere.deep  # noqa: F401

    for words in ("'given_nowhere'", socket.gethostname(), sys.executable, "--python", "ignore files"):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    "text", ["import json.given_nowhere", "raise ModuleNotFoundError('mine')", "raise ImportError"]
)
def test_other_errors_of_an_import_stay_what_they_are(code, text):
    with pytest.raises(ImportError) as caught, entered(request(code)):
        exec(text)

    assert not isinstance(caught.value, Unsupported)


def test_texts_name_files_as_they_are_in_the_code(code):
    text = f'File "{code}/a/model.py", line 3; neither installed nor in {code}.'

    assert readable(text, request(code)) == 'File "a/model.py", line 3; neither installed nor in the job\'s code.'
    assert readable(text, request(None)) == text
