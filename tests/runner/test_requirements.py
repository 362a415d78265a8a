import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from dnnamo.errors import LoaderError
from dnnamo.runner import requirements
from dnnamo.runner.requirements import Requirements


@pytest.fixture
def lacking(tmp_path):
    """Writes a file of requirements, and returns what is lacking."""

    def lacking(text: str | bytes, name: str = "requirements.txt") -> list[str]:
        data = text if isinstance(text, bytes) else text.encode()
        (tmp_path / name).write_bytes(data)
        return Requirements.of(tmp_path).lacking()

    return lacking


NUMPY = version("numpy")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "numpy",
        "NumPy >= 1.0, != 1.5",
        f"numpy=={NUMPY}",
        "numpy[extra]",
        "numpy  # a comment",
        "# no-such-thing",
        "no-such-thing ; python_version < '3'",
        "no-such-thing ; extra == 'dev'",
        "-r more.txt\n--index-url https://nowhere\n-e .\n./local\nhttps://nowhere/x.whl",
        f"numpy=={NUMPY} \\\n    --hash=sha256:00 \\\n    --hash=sha256:11",
        "numpy\r\nnumpy>=1\r\n",
        "\ufeffnumpy",
        "not a requirement at all !",
        "numpy @ https://nowhere/numpy.zip",
    ],
)
def test_what_is_met_or_says_nothing_is_not_lacking(lacking, text):
    assert lacking(text) == []


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        ("no-such-thing", ["no-such-thing (not installed)"]),
        ("numpy<1", [f"numpy<1 (it has {NUMPY})"]),
        ("no-such-thing>=2 ; python_version > '3'", ["no-such-thing>=2 (not installed)"]),
        ("no_such.thing @ https://nowhere/x.zip", ["no_such.thing (not installed)"]),
        (
            "b-no-such\nnumpy\na-no-such==1 --hash=sha256:0",
            ["b-no-such (not installed)", "a-no-such==1 (not installed)"],
        ),
    ],
)
def test_what_is_lacking_is_told_with_what_there_is(lacking, text, lacks):
    assert lacking(text) == lacks


def test_a_package_under_another_name_will_do(lacking, monkeypatch):
    monkeypatch.setattr(requirements, "_providers", lambda: {"given-thing": ["no-such-thing", "numpy"]})

    assert lacking("given_thing>=1") == []
    assert lacking("given_thing<1") == [f"given_thing<1 (it has {NUMPY})"]


def test_what_lies_in_the_folder_is_not_asked_for(lacking, tmp_path):
    (tmp_path / "given_package").mkdir()
    (tmp_path / "given_file.py").touch()

    assert lacking("given-package\ngiven_file>=3\n") == []


PROJECT = "[project]\nname = 'x'\n"


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        ("", []),
        ("[tool.x]\ndependencies = ['no-such-thing']", []),
        ("project = 3", []),
        (f"{PROJECT}dependencies = 3", []),
        (f"{PROJECT}dependencies = [3, 'numpy']", []),
        (f"{PROJECT}dependencies = ['no-such-thing', 'numpy<1']", 2),
        (f"{PROJECT}optional-dependencies = {{dev = ['no-such-thing']}}", []),
        (f"{PROJECT}requires-python = '>=3.8'", []),
        (f"{PROJECT}requires-python = '<3'", [f"Python <3 (it has {'.'.join(map(str, sys.version_info[:3]))})"]),
        (f"{PROJECT}requires-python = 'soon'", []),
    ],
)
def test_a_project_says_what_it_depends_on(lacking, text, lacks):
    found = lacking(text, "pyproject.toml")

    assert len(found) == lacks if isinstance(lacks, int) else found == lacks


def test_a_list_goes_before_a_project(lacking, tmp_path):
    (tmp_path / "requirements.txt").write_text("numpy")

    assert lacking(f"{PROJECT}dependencies = ['no-such-thing']", "pyproject.toml") == []


@pytest.mark.parametrize(("name", "data"), [("requirements.txt", b"\xff\xfe\x00"), ("pyproject.toml", b"= = 3")])
def test_a_file_that_cannot_be_read_is_named(lacking, name, data):
    with pytest.raises(LoaderError, match=f"{name}, which lies beside the model"):
        lacking(data, name)


def test_without_a_file_nothing_is_lacking(tmp_path):
    assert Requirements.of(Path(tmp_path)).lacking() == []
