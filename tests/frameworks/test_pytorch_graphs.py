import os
from collections import Counter

import pytest

if "CI" not in os.environ:
    pytest.importorskip("torch")

import torch
from torch import nn

from dnnamo.frameworks.pytorch import TorchModel, graph_file, graph_of
from dnnamo.frameworks.pytorch.layers import uncompiled
from dnnamo.graphs.summary import depth_of, kinds, layers, summarise
from dnnamo.loaders.demos import pytorch as demos
from dnnamo.profiles.build import profile_of
from dnnamo.profiles.readers import read

DEMOS = {"mlp": demos.mlp, "cnn": demos.cnn, "transformer": demos.transformer}


def wrapped(network: nn.Module, *shape: int) -> TorchModel:
    return TorchModel(network, lambda: (torch.ones(*shape), torch.arange(shape[0]) % 2))


class Branches(nn.Module):
    """Does one of two things, as its input says."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.first = nn.Linear(2, 2)

    def forward(self, inputs):
        inputs = self.norm(inputs)
        if inputs.sum() > 0:
            return self.first(inputs)
        return self.first(inputs).sin()


class Wrong(nn.Module):
    def forward(self, inputs):
        raise ArithmeticError("no such input")


class Conditional(nn.Module):
    """A branch that `torch.export` knows, with operands in an order of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, inputs):
        return torch.cond(inputs.sum() > 0, lambda x: self.linear(x), lambda x: x.sin(), (inputs,))


class Shared(nn.Module):
    """One layer under two names, called twice; its own operations; a split of which one part is left."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.again = self.first
        self.register_buffer("scale", torch.ones(2))

    def forward(self, inputs):
        left, _ = self.again(self.first(inputs)).split(1, dim=1)
        return left * self.scale, {"left": left, "inputs": inputs}


@pytest.mark.parametrize("name", DEMOS)
def test_an_exported_program_loses_no_operation(name):
    native = DEMOS[name]().get_inference_graph()
    graph = graph_of(native)

    called = [str(node.target) for node in native.graph.nodes if node.op == "call_function"]
    assert kinds(graph) == {name: count for name, count in Counter(called).items() if "getitem" not in name}
    assert graph.source == "torch_export"
    assert summarise(graph).weights == len(native.state_dict)
    assert {it.name for it in graph.tensors if it.role == "weight"} == set(native.state_dict)
    assert [graph.tensors[number].role for number in (*graph.inputs, *graph.outputs)] == ["input", "output"]
    assert summarise(graph).weight_bytes == sum(value.nbytes for value in native.state_dict.values())
    assert depth_of(graph) is not None


@pytest.mark.parametrize("name", DEMOS)
def test_a_recorded_step_loses_no_operation(name):
    model = DEMOS[name]()
    native = model.get_training_graph()
    graph = graph_of(native)

    called = [str(node.target) for node in native.graph.nodes if node.op == "call_function"]
    assert kinds(graph) == {name: count for name, count in Counter(called).items() if "getitem" not in name}
    assert graph.source == "torch_fx"
    assert graph.notes == []
    assert {it.name for it in graph.tensors if it.role == "weight"} == set(model.get_weights())
    assert len(graph.inputs) == 2
    assert len(graph.outputs) == 1 + len(list(model._module.parameters()))
    shapes = [graph.tensors[number].shape for number in graph.outputs]
    assert shapes == [[], *(list(it.shape) for it in model._module.parameters())]


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("name", DEMOS)
def test_layers_are_those_of_a_profile(name, mode):
    model = DEMOS[name]()
    profile, _ = profile_of(read(getattr(model, f"profile_{mode}")()))
    graph = graph_of(getattr(model, f"get_{mode}_graph")())

    profiled = {row.name for row in profile.operations["layer"] if row.calls and row.name}
    # A transformer's layers run as one operation each in evaluation, which an export takes apart.
    assert profiled <= {it.layer for it in layers(graph)}
    assert profiled == {it.layer for it in layers(graph)} - {""} or (name, mode) == ("transformer", "inference")


def test_backward_operations_are_in_the_layers_of_the_forward_ones():
    graph = graph_of(wrapped(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)), 4, 2).get_training_graph())

    placed = {(it.kind.split(".")[1], it.layer) for it in graph.operations}
    assert {("threshold_backward", "1"), ("addmm", "0"), ("addmm", "2"), ("nll_loss_backward", None)} <= placed
    products = [it.layer for it in graph.operations if it.kind == "aten.mm.default"]
    assert products == ["2", "2", "0"]


@pytest.mark.parametrize("method", ["get_inference_graph", "get_training_graph"])
def test_a_layer_with_two_names_goes_by_the_first_and_the_network_by_its_class(method):
    model = wrapped(Shared(), 4, 2)
    model._loss = lambda outputs, _: outputs[0].sum()
    graph = graph_of(getattr(model, method)())

    assert {it.layer for it in graph.operations} - {None} == {"first", "Shared"}


def test_what_an_operation_returns_in_parts_is_several_tensors():
    graph = graph_of(wrapped(Shared(), 4, 2).get_inference_graph())

    (split,) = (it for it in graph.operations if "split" in it.kind)
    assert [graph.tensors[number].shape for number in split.outputs] == [[4, 1], [4, 1]]
    assert "getitem" not in str(kinds(graph))
    left, kept, given = (graph.tensors[number] for number in graph.outputs)
    assert (left.shape, kept.number, given.role) == ([4, 2], split.outputs[0], "input")
    assert [it.name for it in graph.tensors if it.role == "weight"] == ["first.weight", "first.bias", "scale"]


def test_a_size_that_may_change_is_a_symbol():
    batch = torch.export.Dim("batch", min=2)
    native = torch.export.export(nn.Linear(2, 3), (torch.ones(4, 2),), dynamic_shapes={"input": {0: batch}})
    graph = graph_of(native)

    (given,) = graph.inputs
    symbol, width = graph.tensors[given].shape
    assert isinstance(symbol, str)
    assert (width, graph.tensors[given].elements) == (2, None)


def test_a_branch_that_export_knows_shows_the_operations_of_both_sides():
    graph = graph_of(wrapped(Conditional(), 4, 2).get_inference_graph())

    by_name = {it.name: it for it in graph.operations}
    linear, sine, cond = (
        next(it for name, it in by_name.items() if name.endswith(last)) for last in ("/linear", "/sin", "cond")
    )
    assert graph.source == "torch_export"
    assert {graph.tensors[it].name for it in linear.inputs} == {"linear.weight", "linear.bias", "inputs"}
    assert len(sine.inputs) == 1
    assert cond.inputs[-2:] == [*linear.outputs, *sine.outputs]
    assert {it.layer for it in (linear, sine, cond)} == {"Conditional"}


@pytest.mark.parametrize("method", ["get_inference_graph", "get_training_graph"])
def test_what_depends_on_values_is_recorded_and_said(method):
    model = wrapped(Branches(), 4, 2)
    before = {name: value.clone() for name, value in model._module.state_dict().items()}
    native = getattr(model, method)()
    graph = graph_of(native)

    assert graph.source == "torch_fx"
    (note,) = graph.notes
    assert "one recorded" in note
    assert "data-dependent" in note
    assert "\n" not in note
    assert ("aten.sin.default" in kinds(graph)) == ("aten.gt.Scalar" in kinds(graph) and "inference" not in method)
    assert {it.layer for it in graph.operations} - {None} == {"norm", "first", "Branches"}
    assert {it.name for it in graph.tensors if it.role == "weight"} == set(model.get_weights())
    assert graph_file(native)[0] == "graph.py"
    assert all(torch.equal(value, before[name]) for name, value in model._module.state_dict().items())


@pytest.mark.parametrize("method", ["get_inference_graph", "get_training_graph"])
def test_what_the_network_raises_itself_is_not_taken_for_control_flow(method):
    with pytest.raises(ArithmeticError, match="no such input"):
        getattr(wrapped(Wrong(), 4, 2), method)()


def test_a_graph_that_fx_traced_itself_has_modules_as_operations():
    graph = graph_of(torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 3), nn.ReLU())))

    linear, relu = graph.operations
    assert (linear.kind, linear.layer) == ("torch.nn.modules.linear.Linear", "0")
    assert [graph.tensors[number].name for number in linear.inputs] == ["input_1", "0.weight", "0.bias"]
    assert (relu.inputs, graph.outputs) == (linear.outputs, relu.outputs)
    assert graph.tensors[relu.outputs[0]].shape is None


def test_methods_functions_and_constants_of_an_fx_graph_are_told():
    class Calls(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

        def forward(self, inputs):
            return torch.relu(inputs.transpose(0, 1) @ self.weight) + torch.ones(2)

    graph = graph_of(torch.fx.symbolic_trace(Calls()))

    assert list(kinds(graph)) == ["Tensor.transpose", "operator.add", "operator.matmul", "torch.relu"]
    assert [(it.name, it.shape) for it in graph.tensors if it.role == "weight"] == [("weight", [2])]
    assert [(it.name, it.dtype) for it in graph.tensors if it.role == "constant"] == [("_tensor_constant0", "float32")]


def test_a_compiled_network_has_the_graph_of_what_was_written():
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    network.compile(backend="eager")
    compiled = network._compiled_call_impl
    for method in ("get_inference_graph", "get_training_graph"):
        graph = graph_of(getattr(wrapped(network, 4, 2), method)())
        assert {"0", "1"} <= {it.layer for it in graph.operations}
    assert network._compiled_call_impl is compiled is not None
    outer = torch.compile(network, backend="eager")
    with uncompiled(outer) as written:
        assert written is network
        assert network._compiled_call_impl is None


def test_what_is_no_graph_is_left_to_others():
    assert graph_of(nn.Linear(1, 1)) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", DEMOS)
def test_on_a_gpu_backward_operations_have_layers_too(name):
    graph = graph_of(DEMOS[name]().get_training_graph())

    backward = [it.layer for it in graph.operations if "backward" in it.kind and "loss" not in it.kind]
    assert backward
    assert [layer for layer in backward if layer is None] == [None]  # of the loss function's log_softmax
