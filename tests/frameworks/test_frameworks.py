"""The plug-in point, and the contract that holds for every framework's module."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import ModuleType

import pytest

import dnnamo.frameworks as frameworks
from dnnamo.errors import ModelError
from dnnamo.frameworks import in_use, known, plugin_module, read_graph, render_graph
from dnnamo.runner.environment import THREAD_VARIABLES
from tests.graphs.drawn import GRAPH


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


def test_a_graph_is_read_by_the_framework_that_knows_it(used):
    used.graph_of = lambda graph: GRAPH if graph == "graph" else None

    assert (read_graph("graph"), read_graph("another")) == (GRAPH, None)


def test_a_graph_that_a_model_made_itself_is_taken_as_it_is(used):
    assert read_graph(GRAPH) is GRAPH
    assert render_graph(GRAPH) == ("graph.json", GRAPH.to_json())


def test_a_graph_that_nobody_knows_names_its_type(used):
    with pytest.raises(ModelError, match=r"a graph of type builtins\.int, which no framework in use can write"):
        render_graph(3)


@pytest.fixture(params=list(known()))
def package(request) -> str:
    """The package of each framework, of those that Dnnamo brings and of those that are installed beside it."""
    if "CI" not in os.environ:
        pytest.importorskip(request.param)
    return request.param


@pytest.fixture
def framework(package) -> ModuleType:
    """Its module, once the package is in use."""
    plugin = import_module(plugin_module(package))
    import_module(package)
    return plugin


def _torch_graph() -> object:
    from dnnamo.loaders.demos.pytorch import mlp

    return mlp(batch=2, hidden=4).get_inference_graph()


def _tensorflow_graph() -> object:
    from dnnamo.loaders.demos.tensorflow import keras_mlp

    return keras_mlp(batch=2, hidden=4).get_inference_graph()


def _onnx_graph() -> object:
    from tests.frameworks.onnx_models import perceptron

    return perceptron()


GRAPHS = {"torch": _torch_graph, "tensorflow": _tensorflow_graph, "onnxruntime": _onnx_graph}
"""What makes a native graph of each framework that Dnnamo brings."""

AS_IN_A_JOB = """
import json, os, sys
from importlib import import_module
from dnnamo.errors import Unsupported
package, plugin, count, variables = sys.argv[1:]
from dnnamo.runner.seeds import seeding
with seeding(3):  # which seeds what is imported meanwhile
    framework = import_module(plugin)
    import_module(package)
os.environ.update(dict.fromkeys(variables.split(), count))
framework.set_threads(int(count))
try:
    framework.check_device("gpu")
except Unsupported as refusal:
    print(json.dumps([framework.threads(), str(refusal)]))
"""


@pytest.fixture(scope="module")
def in_a_job() -> Callable[[str], tuple[dict[str, int], str]]:
    """Returns thread counts, and the refusal of a GPU, of a process that sees none and is to use 3 threads."""

    @cache
    def asked(package: str) -> tuple[dict[str, int], str]:
        program = [sys.executable, "-W", "error", "-c", AS_IN_A_JOB, package, plugin_module(package), "3"]
        done = subprocess.run(
            [*program, " ".join(THREAD_VARIABLES)],
            capture_output=True,
            text=True,
            timeout=120,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": ""} | dict.fromkeys(THREAD_VARIABLES, "1"),
        )
        assert done.returncode == 0, done.stderr
        threads, refusal = json.loads(done.stdout)
        return threads, refusal

    return asked


def test_every_built_in_framework_is_tested_here():
    assert set(GRAPHS) == set(frameworks._BUILT_IN)


def test_contract_a_framework_is_found_once_it_was_imported(framework):
    assert framework in list(in_use())


def test_contract_data_of_others_is_left_to_them(framework):
    foreign = (None, {}, "", b"", object())
    assert [framework.graph_file(value) for value in foreign] == [None] * len(foreign)
    assert [framework.graph_of(value) for value in foreign] == [None] * len(foreign)


def test_contract_a_native_graph_is_a_file_of_its_framework_and_of_no_other(package, framework):
    if package not in GRAPHS:
        pytest.skip("its graphs are its own affair")
    graph = GRAPHS[package]()

    name, content = framework.graph_file(graph)

    assert name.startswith("graph.")
    assert isinstance(content, bytes)
    assert render_graph(graph)[0] == name
    others = [import_module(plugin_module(other)) for other in known() if other != package and other in sys.modules]
    assert [other.graph_file(graph) for other in others] == [None] * len(others)
    assert [other.graph_of(graph) for other in others] == [None] * len(others)


def test_contract_a_native_graph_is_read_into_the_shared_form(package, framework):
    if package not in GRAPHS:
        pytest.skip("its graphs are its own affair")

    drawn = framework.graph_of(GRAPHS[package]())

    assert drawn is not None
    assert len(drawn.operations) >= 3
    assert {"input", "weight", "output"} <= {tensor.role for tensor in drawn.tensors}
    assert [drawn.tensors[number].role for number in drawn.inputs] == ["input"] * len(drawn.inputs)
    assert drawn.inputs
    assert all(tensor.dtype and tensor.shape is not None for tensor in drawn.tensors if tensor.role == "weight")
    assert any(operation.layer for operation in drawn.operations)


def test_contract_facts_are_words_and_numbers(framework):
    assert all(isinstance(text, str) for pair in framework.libraries().items() for text in pair)
    assert all(isinstance(name, str) and count >= 0 for name, count in framework.threads().items())
    assert any(name.endswith(".intraop") for name in framework.threads())


def test_contract_the_package_is_among_the_libraries(package, framework):
    """As what a model imported is told by them, and imported ahead for the next job of it."""
    assert package in framework.libraries()


def test_contract_threads_are_as_many_as_the_job_says(package, in_a_job):
    threads, _ = in_a_job(package)

    assert [count for name, count in threads.items() if name.endswith(".intraop")] == [3]


def test_contract_a_gpu_that_is_not_there_is_refused_with_what_to_do(package, in_a_job):
    _, refusal = in_a_job(package)

    assert "GPU" in refusal
    assert "--device cpu" in refusal


def test_contract_a_seed_of_32_bits_is_taken(framework):
    framework.seed(2**32 - 1)
    framework.seed(0)


def test_contract_every_framework_computes_on_a_cpu(framework):
    framework.check_device("cpu")
