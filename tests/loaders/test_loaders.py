import os
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from dnnamo.errors import LoaderError, ModelNotFound, UsageError
from dnnamo.loaders import load, locate, schemes
from dnnamo.loaders.demos import check_sizes

MODEL = """
from dnnamo import Model

class Given(Model):
    def __init__(self, **given):
        self.given = given

    def run_inference(self, n_steps=1):
        return [None] * n_steps
"""


@pytest.fixture(autouse=True)
def imports(monkeypatch, tmp_path):
    """Import path and imported modules as they were, whatever a model file does to them."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.chdir(tmp_path)
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def file(tmp_path):
    """Writes a Python file and returns its path."""

    def write(text: str, name: str = "given_model.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(MODEL + dedent(text))
        return path

    return write


def test_a_file_is_loaded_with_its_params_as_keyword_arguments_of_their_json_types(file):
    path = file("def __dnnamo_loader__(**given): return Given(**given)")
    params = {"batch": 16, "rate": 0.5, "deep": True, "name": "x", "none": None, "sizes": [1, 2], "more": {"a": 1}}

    given = load(str(path), params).given

    assert given == params
    assert [type(value) for value in given.values()] == [int, float, bool, str, type(None), list, dict]


def test_a_loader_without_params_gets_its_defaults(file):
    path = file("def __dnnamo_loader__(batch=8): return Given(batch=batch)")

    assert load(str(path), {}).given == {"batch": 8}


def test_a_factory_is_taken_in_place_of_the_loader(file):
    path = file("def small(): return Given(size=1)\ndef __dnnamo_loader__(): raise AssertionError")

    assert load(f"{path}:small", {}).given == {"size": 1}


def test_a_class_is_as_good_a_factory_as_a_function(file):
    assert load(f"{file('')}:Given", {"size": 3}).given == {"size": 3}


def test_an_object_with_one_method_of_the_interface_is_a_model(file):
    path = file("class Bare:\n    def run_inference(self, n_steps=1): return []\n__dnnamo_loader__ = Bare")

    assert type(load(str(path), {})).__name__ == "Bare"


def test_a_file_can_import_its_neighbours(file):
    file("size = 5", name="given_neighbour.py")
    path = file("import given_neighbour\ndef __dnnamo_loader__(): return Given(size=given_neighbour.size)")

    assert load(str(path), {}).given == {"size": 5}


def test_dataclasses_work_in_a_file(file):
    path = file(
        """
        from dataclasses import dataclass
        @dataclass
        class Sizes:
            batch: int = 4
        def __dnnamo_loader__(): return Given(sizes=Sizes())
        """
    )

    assert load(str(path), {}).given["sizes"].batch == 4


def test_a_file_named_like_a_library_does_not_take_its_place(file):
    path = file("def __dnnamo_loader__(): return Given(size=1)", name="json.py")

    assert load(str(path), {}).given == {"size": 1}
    import json

    assert json.dumps(1) == "1"


def test_a_module_is_found_in_the_working_folder(file):
    file("def __dnnamo_loader__(batch=1): return Given(batch=batch)", name="given_package/inner.py")

    assert load("given_package.inner", {"batch": 2}).given == {"batch": 2}
    assert load("given_package.inner:Given", {"a": 1}).given == {"a": 1}


@pytest.mark.parametrize("name", ["absent.py", "absent/model.py", "./absent.py", "~/absent-given.py", "absent/model"])
def test_a_file_that_is_missing_is_named_before_anything_is_stored(name):
    with pytest.raises(ModelNotFound) as caught:
        locate(name)

    assert str(Path(name).expanduser().absolute()) in str(caught.value)
    assert "Check the path" in str(caught.value)


def test_a_file_that_is_missing_on_the_worker_is_named(tmp_path):
    with pytest.raises(ModelNotFound, match="There is no model file .*absent.py on this machine"):
        load(str(tmp_path / "absent.py"), {})


def test_a_folder_is_no_model_file(tmp_path):
    with pytest.raises(ModelNotFound, match=str(tmp_path)):
        locate(f"{tmp_path}/")


@pytest.mark.parametrize("name", ["", ":factory"])
def test_a_reference_without_a_name_is_none(name):
    with pytest.raises(ModelNotFound, match="is no model reference"):
        locate(name)


def test_references_to_nowhere_are_usage_errors_and_lookup_errors():
    with pytest.raises(UsageError) as caught:
        locate("absent.py")

    assert isinstance(caught.value, LookupError)
    assert caught.value.exit_code == 2


def test_a_files_path_is_made_absolute_and_keeps_its_factory(file):
    path = file("")

    assert locate(os.path.relpath(path)) == str(path)
    assert locate(f"./{path.name}:small") == f"{path}:small"


@pytest.mark.parametrize("reference", ["package.module", "package.module:make", "demo:mlp"])
def test_other_references_stay_as_they_are(reference):
    assert locate(reference) == reference


def test_a_module_that_is_missing_is_named_with_the_remedy():
    with pytest.raises(ModelNotFound, match=r"There is no module 'absent_given.inner'.*\.py ending"):
        load("absent_given.inner", {})


@pytest.mark.parametrize("reference", [".given", "..given.inner", "."])
def test_a_relative_module_is_not_found(reference):
    with pytest.raises(ModelNotFound, match="There is no module"):
        load(reference, {})


def test_a_scheme_that_is_unknown_is_not_found():
    with pytest.raises(ModelNotFound, match="absentscheme.*scheme"):
        load("absentscheme:name", {})


def test_a_file_whose_own_import_fails_shows_that_error(file):
    path = file("import absent_given_library")

    with pytest.raises(ModuleNotFoundError, match="No module named 'absent_given_library'") as caught:
        load(str(path), {})
    assert not isinstance(caught.value, ModelNotFound)


def test_a_module_whose_own_import_fails_shows_that_error(file):
    file("import absent_given_library", name="given_failing.py")

    with pytest.raises(ModuleNotFoundError, match="No module named 'absent_given_library'") as caught:
        load("given_failing", {})
    assert not isinstance(caught.value, ModelNotFound)


def test_a_module_that_lacks_a_neighbour_in_its_package_shows_that_error(file):
    file("import given_pack.absent", name="given_pack/inner.py")

    with pytest.raises(ModuleNotFoundError, match="given_pack.absent") as caught:
        load("given_pack.inner", {})
    assert not isinstance(caught.value, ModelNotFound)


@pytest.mark.parametrize(
    ("text", "error"),
    [("raise OSError('no disk')", OSError), ("def", SyntaxError), ("raise SystemExit(2)", SystemExit)],
)
def test_what_a_file_raises_as_it_runs_is_shown_as_it_is(text, error, file):
    with pytest.raises(error):
        load(str(file(text)), {})


def test_a_file_without_the_loader_function_says_what_to_add(file):
    path = file("")

    with pytest.raises(LoaderError, match=r"has no function __dnnamo_loader__\(\)\. Add one") as caught:
        load(str(path), {})
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["with:colon.py", "a b.py"])
def test_a_path_may_have_colons_and_spaces(name, file):
    path = file("class M:\n  def get_weights(self): pass\ndef make(): return M()\n__dnnamo_loader__ = make", name=name)

    assert type(load(locate(str(path)), {})).__name__ == "M"
    assert type(load(locate(f"{path}:make"), {})).__name__ == "M"


def test_a_name_that_is_too_long_for_a_file_is_not_found():
    with pytest.raises(ModelNotFound, match="There is no model file"):
        locate("x" * 5000 + ".py")


def test_a_factory_that_is_missing_is_named(file):
    with pytest.raises(LoaderError, match=r"given_model.py has no function absent\(\)"):
        load(f"{file('')}:absent", {})


def test_a_module_without_the_loader_function_is_named(file):
    file("", name="given_empty.py")

    with pytest.raises(LoaderError, match=r"given_empty \(.*given_empty.py\) has no function __dnnamo_loader__\(\)"):
        load("given_empty", {})


def test_a_loader_that_is_no_function_says_what_it_is(file):
    with pytest.raises(
        LoaderError, match=r"__dnnamo_loader__ in .*given_model.py is of type int; it must be a function"
    ):
        load(str(file("__dnnamo_loader__ = 3")), {})


@pytest.mark.parametrize(("value", "kind"), [("None", "NoneType"), ("3", "int"), ("object()", "object")])
def test_a_loader_that_returns_something_else_says_what_and_how_to_wrap_it(value, kind, file):
    path = file(f"def __dnnamo_loader__(): return {value}")

    with pytest.raises(LoaderError) as caught:
        load(str(path), {})
    assert f"loader of {path} returned a builtins.{kind}" in str(caught.value)
    assert "TorchModel" in str(caught.value)


def test_a_loader_that_returns_a_class_in_place_of_a_model_says_so(file):
    with pytest.raises(LoaderError, match="loader of .*given_model.py returned"):
        load(str(file("def __dnnamo_loader__(): return Given")), {})


@pytest.mark.parametrize(
    ("signature", "params", "says"),
    [
        ("batch=1", {"batsh": 2}, ["takes batch", "batsh"]),
        ("batch", {}, ["takes batch", "missing"]),
        ("", {"batch": 2}, ["takes no options", "batch"]),
    ],
)
def test_params_that_the_loader_does_not_take_are_named_with_those_that_it_takes(signature, params, says, file):
    path = file(f"def __dnnamo_loader__({signature}): raise AssertionError")

    with pytest.raises(LoaderError) as caught:
        load(str(path), params)
    assert [part for part in [str(path), *says] if part not in str(caught.value)] == []


def test_a_type_error_inside_the_loader_is_shown_as_it_is(file):
    path = file("def __dnnamo_loader__(batch): return len(batch)")

    with pytest.raises(TypeError, match="has no len") as caught:
        load(str(path), {"batch": 3})
    assert not isinstance(caught.value, LoaderError)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mpl", "Did you mean demo:mlp?"),
        ("keras_cn", "Did you mean demo:keras_cnn or"),
        ("resnet", "The names are mlp, cnn, transformer, keras_mlp, keras_cnn."),
        ("", "The names are mlp"),
    ],
)
def test_a_demo_that_is_unknown_lists_the_demos(name, says):
    with pytest.raises(ModelNotFound) as caught:
        load(f"demo:{name}", {})

    assert f"There is no demo:{name}." in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.parametrize("value", [0, -1, 1.5, "8", True, None])
def test_a_size_that_is_none_is_named(value):
    with pytest.raises(LoaderError, match="width is .*; it must be a whole number of at least 1") as caught:
        check_sizes(batch=1, width=value)
    assert repr(value) in str(caught.value)


def test_a_scheme_can_be_a_plug_in(file, monkeypatch):
    file("def loader(name): return lambda **given: Given(name=name, **given)", name="given_scheme.py")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    monkeypatch.setattr(schemes, "installed", {"dnnamo.loaders": {"given": "given_scheme"}}.get)

    assert load("given:a:b", {"size": 1}).given == {"name": "a:b", "size": 1}
