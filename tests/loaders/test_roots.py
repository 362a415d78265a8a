import sys
from pathlib import Path

import pytest

from dnnamo.errors import ModelNotFound, Unsupported
from dnnamo.loaders import load

MODEL = """
class Given:
    def run_inference(self, n_steps=1):
        return [__file__] * n_steps

def __dnnamo_loader__():
    return Given()
"""
RAN = "raise AssertionError('this must not run')"


@pytest.fixture(autouse=True)
def imports(monkeypatch, tmp_path):
    """Import path and imported modules as they were; the working folder is outside all roots."""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(Path.cwd()))])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(sys, "path_importer_cache", {})
    yield
    for name in [name for name in sys.modules if name.startswith(("given_", "_dnnamo_model_"))]:
        del sys.modules[name]


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def write(path: Path, text: str = MODEL) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def loaded(reference: object, *roots: object) -> str:
    """Load a model and return the file that its code came from."""
    (name,) = load(str(reference), {}, roots=[str(root) for root in roots]).run_inference()
    return str(name)


def refused(reference: object, *roots: object) -> str:
    with pytest.raises(Unsupported) as caught:
        load(str(reference), {}, roots=[str(root) for root in roots])
    return str(caught.value)


def test_a_file_under_a_root_is_loaded_however_deep(root):
    path = write(root / "a" / "b" / "given_model.py")

    assert loaded(path, root) == str(path)
    assert loaded(f"{path}:Given", "/absent", root) == str(path)


def test_without_roots_a_file_may_lie_anywhere(tmp_path):
    path = write(tmp_path / "given_model.py")

    assert loaded(path) == str(path)


def test_a_file_elsewhere_is_refused_with_its_path_the_roots_and_the_remedy(root, tmp_path):
    path = write(tmp_path / "given_model.py", RAN)

    message = refused(path, root, "/srv/models")
    assert f"The model file {path} lies under none" in message
    assert f"{root}, /srv/models" in message
    assert "DNNAMO_MODEL_ROOTS" in message


def test_a_root_is_a_folder_and_not_the_beginning_of_a_name(root, tmp_path):
    refused(write(tmp_path / "models-evil" / "given_model.py", RAN), root)
    refused(write(tmp_path / "models.py", RAN), root)


def test_two_dots_do_not_lead_out(root, tmp_path):
    write(tmp_path / "given_model.py", RAN)

    assert str(tmp_path / "given_model.py") in refused(f"{root}/../given_model.py", root)
    path = write(root / "given_model.py")
    assert loaded(f"{root}/../models/given_model.py", root) == str(path)


def test_a_link_to_a_file_elsewhere_is_refused_and_where_it_leads_is_named(root, tmp_path):
    outside = write(tmp_path / "outside.py", RAN)
    link = root / "given_model.py"
    link.symlink_to(outside)

    message = refused(link, root)
    assert f"{link}, which leads to {outside}," in message


def test_a_link_to_a_folder_elsewhere_is_refused(root, tmp_path):
    write(tmp_path / "outside" / "given_model.py", RAN)
    (root / "folder").symlink_to(tmp_path / "outside")

    refused(root / "folder" / "given_model.py", root)
    refused(root / "folder" / ".." / "outside" / "given_model.py", root)


def test_a_link_within_a_root_loads_the_file_that_was_checked(root):
    path = write(root / "versions" / "given_2.py")
    (root / "given_model.py").symlink_to(path)

    assert loaded(root / "given_model.py", root) == str(path)


def test_a_root_may_be_a_link_itself(root, tmp_path):
    path = write(root / "given_model.py")
    (tmp_path / "link").symlink_to(root)

    assert loaded(path, tmp_path / "link") == str(path)
    assert loaded(tmp_path / "link" / "given_model.py", tmp_path / "link") == str(path)


def test_links_in_a_circle_are_not_found(root):
    (root / "given_a.py").symlink_to(root / "given_b.py")
    (root / "given_b.py").symlink_to(root / "given_a.py")

    with pytest.raises(ModelNotFound):
        load(str(root / "given_a.py"), {}, roots=[str(root)])


def test_a_module_under_a_root_is_imported(root, monkeypatch):
    path = write(root / "given_package" / "inner.py")
    monkeypatch.chdir(root)

    assert loaded("given_package.inner", root) == str(path)


@pytest.mark.parametrize("on_path", ["working folder", "PYTHONPATH"])
@pytest.mark.parametrize("name", ["given_module", "given_package.inner", "given_spaces.inner"])
def test_a_module_elsewhere_is_refused_before_it_runs(root, monkeypatch, on_path, name):
    here = Path.cwd()
    write(here / "given_module.py", RAN)
    write(here / "given_package" / "__init__.py", RAN)
    write(here / "given_package" / "inner.py", RAN)
    write(here / "given_spaces" / "inner.py", RAN)  # a namespace package
    if on_path == "PYTHONPATH":
        monkeypatch.syspath_prepend(str(here))
        assert str(here) in refused(name, root)
    else:
        with pytest.raises(ModelNotFound):
            load(name, {}, roots=[str(root)])


def test_a_namespace_package_must_lie_under_a_root_with_all_its_folders(root, tmp_path, monkeypatch):
    write(root / "given_spaces" / "inner.py")
    monkeypatch.syspath_prepend(str(root))
    assert loaded("given_spaces.inner", root) == str(root / "given_spaces" / "inner.py")

    for name in [name for name in sys.modules if name.startswith("given_")]:
        del sys.modules[name]
    write(tmp_path / "more" / "given_spaces" / "other.py", RAN)
    sys.path.append(str(tmp_path / "more"))
    assert str(tmp_path / "more" / "given_spaces") in refused("given_spaces.other", root)


def test_a_link_within_a_package_does_not_lead_out(root, tmp_path, monkeypatch):
    write(root / "given_package" / "__init__.py", RAN)
    outside = write(tmp_path / "outside" / "inner.py", RAN)
    (root / "given_package" / "inner.py").symlink_to(outside)
    (root / "given_package" / "folder").symlink_to(outside.parent)
    monkeypatch.syspath_prepend(str(root))

    assert str(outside) in refused("given_package.inner", root)
    assert str(outside.parent) in refused("given_package.folder.inner", root)


@pytest.mark.parametrize("reference", ["json.decoder", "sys", "os", "pydantic.fields"])
def test_what_is_installed_may_be_named(root, reference):
    with pytest.raises(Exception, match="has no function absent") as caught:
        load(f"{reference}:absent", {}, roots=[str(root)])
    assert not isinstance(caught.value, Unsupported)


def test_a_package_that_is_installed_by_a_link_may_be_named(root, tmp_path, monkeypatch):
    installed = tmp_path / "site-packages"
    installed.mkdir()
    path = write(tmp_path / "cache" / "given_linked.py")
    (installed / "given_linked.py").symlink_to(path)
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.setattr("site.getsitepackages", lambda: [str(installed)])

    assert loaded("given_linked", root) == str(installed / "given_linked.py")


def test_a_module_that_there_is_not_is_not_found(root):
    for name in ("given_absent", "json.absent", "json..decoder", "given_absent.inner"):
        with pytest.raises(ModelNotFound):
            load(name, {}, roots=[str(root)])


def test_the_networks_that_come_with_dnnamo_are_no_files(root):
    with pytest.raises(ModelNotFound, match="The names are"):
        load("demo:absent", {}, roots=[str(root)])
