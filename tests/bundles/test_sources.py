import os
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from dnnamo.bundles import sources
from dnnamo.bundles.archive import unpack
from dnnamo.bundles.sources import bundle
from dnnamo.errors import UsageError
from dnnamo.loaders import locate
from tests.modes import obeying_modes

LIMIT = 2**20


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """A working folder with a model in one below it."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.py").write_text("x = 1\n")
    (tmp_path / "model" / "helper.py").write_text("y = 2\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*references: str, limit_bytes: int = LIMIT, **options) -> set[str]:
    packed = bundle([locate(reference) for reference in references], limit_bytes=limit_bytes, **options)
    folder = Path("unpacked")
    folder.mkdir()
    unpack(packed.content, packed.bundle.digest, folder)
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("reference", ["model/model.py", "model/model.py:make", "./model/../model/model.py"])
def test_a_file_brings_its_own_folder(here, reference):
    packed = bundle([locate(reference)], limit_bytes=LIMIT)

    assert packed.bundle.digest == sha256(packed.content).hexdigest()
    assert (packed.bundle.files, packed.bundle.size) == (2, 12)
    assert packed.bundle.folders == [str(here / "model")]
    assert names(reference) == {"model.py", "helper.py"}


def test_a_file_in_a_package_brings_its_own_folder_too(here):
    (here / "model" / "__init__.py").touch()
    (here / "__init__.py").touch()

    assert names("model/model.py") == {"model.py", "helper.py", "__init__.py"}


def test_a_folder_behind_a_link_is_named_as_it_was_given(here):
    (here / "link").symlink_to("model")

    assert bundle([locate("link/model.py")], limit_bytes=LIMIT).bundle.folders == [str(here / "link")]


def test_equal_folders_have_one_digest(here):
    digests = []
    for name in ("one", "other"):
        (here / name).mkdir()
        (here / name / "b.py").write_text("b")
        (here / name / "a.py").write_text("a")
        os.utime(here / name / "a.py", (1, len(digests)))
        digests.append(bundle([locate(f"{name}/a.py")], limit_bytes=LIMIT).bundle.digest)

    assert digests[0] == digests[1]


@pytest.mark.parametrize("reference", ["demo:mlp", "json", "json.decoder:JSONDecoder", "numpy", "sys", "dnnamo.model"])
def test_what_is_installed_stays(reference):
    assert bundle([locate(reference)], limit_bytes=LIMIT) is None


@pytest.mark.parametrize("reference", ["given_nowhere", "given_nowhere.inner", "__main__", "a-b"])
def test_what_is_not_here_is_left_to_the_worker(reference):
    assert bundle([locate(reference)], limit_bytes=LIMIT) is None


def test_a_module_brings_its_top_package_and_what_it_requires(here):
    for name in ("given/__init__.py", "given/deep/net.py", "beside.py", "requirements.txt", "given/data.npz"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).touch()

    assert names("given.deep.net:make") == {
        *("given/__init__.py", "given/deep/net.py", "given/data.npz", "requirements.txt")
    }
    assert "given" not in sys.modules  # nothing was imported


def test_a_module_may_be_a_file_or_a_package_without_init(here):
    (here / "given_single.py").touch()
    (here / "given_bare").mkdir()
    (here / "given_bare" / "net.py").touch()

    assert names("given_single") == {"given_single.py"}
    assert bundle(["given_bare.net"], limit_bytes=LIMIT).bundle.files == 1


def test_a_module_on_the_path_is_found_wherever_it_lies(here, monkeypatch):
    (here / "lib").mkdir()
    (here / "lib" / "given_elsewhere.py").touch()
    monkeypatch.syspath_prepend(str(here / "lib"))

    assert bundle(["given_elsewhere"], limit_bytes=LIMIT).bundle.folders == [str(here / "lib")]


def test_data_is_one_file_whatever_git_ignores(here):
    for name in ("net.onnx", "net.onnx2", "net.py", ".gitignore"):
        (here / name).write_text("*.onnx" if name == ".gitignore" else "")

    assert names("onnx:net.onnx") == {"net.onnx"}


def test_data_may_be_a_folder(here):
    (here / "saved" / "variables").mkdir(parents=True)
    (here / "saved" / "saved_model.pb").touch()
    (here / "saved" / "variables" / "v.index").touch()

    assert names("saved_model:saved") == {"saved/saved_model.pb", "saved/variables/v.index"}


def test_a_model_and_its_data_function_go_together(here):
    (here / "net.onnx").touch()

    assert names("onnx:net.onnx", "model/helper.py:batch") == {"net.onnx", "model.py", "helper.py"}


def test_two_files_in_one_place_are_named(here):
    (here / "model" / "net.onnx").write_text("another one")
    (here / "net.onnx").touch()

    with pytest.raises(UsageError, match=r"net.onnx and .*model/net.onnx would be one file"):
        names("onnx:net.onnx", "model/helper.py:batch")


@pytest.mark.parametrize(
    ("name", "why"),
    [(".hidden.py", "it is hidden"), ("credentials.py", "secrets"), ("ignored.py", "dnnamoignore says")],
)
def test_a_model_that_would_stay_itself_is_named(here, name, why):
    (here / "model" / name).touch()
    (here / "model" / ".dnnamoignore").write_text("ignored*")

    with pytest.raises(UsageError, match=f"{name} does not go with the job: .*{why}"):
        names(f"model/{name}")


@pytest.mark.parametrize("home", [True, False])
def test_a_whole_home_folder_is_refused_at_once(here, monkeypatch, home):
    monkeypatch.setenv("HOME", str(here / "model") if home else "/nowhere")
    if not home:
        monkeypatch.setattr(sources.os.path, "realpath", lambda path: "/")
    monkeypatch.setattr(sources, "find", None)  # nothing is looked through

    with pytest.raises(UsageError, match=r"all of its folder would go .* --no-bundle"):
        names("model/model.py")


def test_a_limit_is_kept(here):
    with pytest.raises(UsageError, match=r"model has 12 bytes in 2 files.*may have 11 bytes"):
        names("model/model.py", limit_bytes=11)
    assert names("model/model.py", limit_bytes=12)


def test_the_limit_is_for_all_folders_together(here):
    (here / "net.onnx").write_text("12345")

    with pytest.raises(UsageError, match="has 17 bytes; it may have 16 bytes"):
        names("onnx:net.onnx", "model/helper.py:batch", limit_bytes=16)


def test_dnnamos_own_data_stays(here):
    (here / "model" / "config.toml").write_text("database_url = 'with a password'")

    assert names("model/model.py", private=[here / "model" / "config.toml"]) == {"model.py", "helper.py"}


def test_a_file_that_cannot_be_read_is_named(here):
    (here / "model" / "data").touch(0)

    with (
        obeying_modes(),
        pytest.raises(UsageError, match=r"model/data cannot be read.*Permission denied.*dnnamoignore"),
    ):
        names("model/model.py")


def test_a_file_that_has_gone_is_named(here, monkeypatch):
    find = sources.find

    def find_and_remove(*args, **options):
        found = find(*args, **options)
        (here / "model" / "helper.py").unlink()
        return found

    monkeypatch.setattr(sources, "find", find_and_remove)
    with pytest.raises(UsageError, match=r"helper.py cannot be read, .*: No such file"):
        names("model/model.py")


@pytest.mark.parametrize("times", [2, 3])
def test_a_file_that_changes_while_it_is_read_is_read_again(here, monkeypatch, times):
    """What is sent was in the file at one moment; one that never comes to rest is named."""
    left = {"changes": times}
    fstat, path = os.fstat, here / "model" / "helper.py"

    def look_and_change(fd):
        status = fstat(fd)
        if left["changes"] and status.st_ino == path.stat().st_ino:
            left["changes"] -= 1
            path.write_text("z" * (3 + left["changes"]))
        return status

    monkeypatch.setattr(os, "fstat", look_and_change)
    if times == 3:
        with pytest.raises(UsageError, match=r"helper.py changes while it is read"):
            names("model/model.py")
        return
    names("model/model.py")
    assert Path("unpacked/helper.py").read_text() == "zzz"
