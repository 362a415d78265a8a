"""The plug-in point, and the contract that holds for every framework's module."""

import os
import sys
from importlib import import_module
from types import ModuleType

import pytest

import dnnamo.frameworks as frameworks
from dnnamo.errors import ModelError
from dnnamo.frameworks import in_use, render_graph


@pytest.fixture
def plug_in(monkeypatch) -> ModuleType:
    """A framework of an entry point, and no other; `given_library` is the package that brings it into use."""
    module = ModuleType("given_framework")
    module.graph_file = lambda graph: ("graph.bin", b"g") if graph == "graph" else None
    monkeypatch.setattr(frameworks, "_BUILT_IN", {})
    monkeypatch.setattr(frameworks, "installed", {"dnnamo.frameworks": {"given_library": "given_framework"}}.get)
    monkeypatch.setitem(sys.modules, "given_framework", module)
    return module


def library() -> ModuleType:
    """A package, as every framework is one: no module that happens to have its name."""
    package = ModuleType("given_library")
    package.__path__ = []
    return package


@pytest.fixture
def used(plug_in, monkeypatch) -> ModuleType:
    monkeypatch.setitem(sys.modules, "given_library", library())
    return plug_in


def test_a_framework_is_in_use_once_its_package_was_imported(plug_in, monkeypatch):
    assert list(in_use()) == []
    monkeypatch.setitem(sys.modules, "given_library", library())
    assert list(in_use()) == [plug_in]


def test_looking_for_frameworks_imports_none(monkeypatch):
    monkeypatch.setattr(frameworks, "_BUILT_IN", {"given_absent": "given_absent_framework"})

    assert list(in_use()) == []


def test_a_graph_goes_to_the_framework_that_knows_it(used):
    assert render_graph("graph") == ("graph.bin", b"g")


def test_a_graph_that_nobody_knows_names_its_type(used):
    with pytest.raises(ModelError, match=r"a graph of type builtins\.int, which no framework in use can write"):
        render_graph(3)


@pytest.fixture(params=list(frameworks._BUILT_IN))
def framework(request) -> ModuleType:
    """The module of each framework that Dnnamo brings."""
    if "CI" not in os.environ:
        pytest.importorskip(request.param)
    import_module(request.param)
    return import_module(frameworks._BUILT_IN[request.param])


def test_contract_a_framework_is_found_once_it_was_imported(framework):
    assert framework in list(in_use())


def test_contract_data_of_others_is_left_to_them(framework):
    assert [framework.graph_file(value) for value in (None, {}, "", object())] == [None] * 4


def test_contract_facts_are_words_and_numbers(framework):
    assert all(isinstance(text, str) for pair in framework.libraries().items() for text in pair)
    assert all(isinstance(name, str) and count >= 0 for name, count in framework.threads().items())
    assert any(name.endswith(".intraop") for name in framework.threads())


def test_contract_a_seed_of_32_bits_is_taken(framework):
    framework.seed(2**32 - 1)
    framework.seed(0)


def test_contract_every_framework_computes_on_a_cpu(framework):
    framework.check_device("cpu")
