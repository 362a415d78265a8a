import io
import os
import subprocess
import sys
from collections import Counter

import ml_dtypes
import numpy as np
import pytest

from dnnamo.errors import LoaderError, MissingExtra, ModelError, Unsupported, UsageError, WeightsError
from dnnamo.model import Capturing, StepClock, capabilities
from dnnamo.records import METHODS

if "CI" not in os.environ:
    pytest.importorskip("torch")

import torch
from torch import nn

from dnnamo.frameworks import pytorch as framework
from dnnamo.frameworks.pytorch import TorchModel, accuracy
from dnnamo.loaders.demos import pytorch as demos

METHODS_OF_STEPS = ["run_inference", "run_training", "profile_inference", "profile_training"]

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import dnnamo.frameworks.pytorch
"""

DEMOS = {
    "mlp": lambda: demos.mlp(batch=8, hidden=32),
    "cnn": lambda: demos.cnn(batch=4),
    "transformer": lambda: demos.transformer(batch=2, length=8, width=16, layers=1),
}

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def small(*layers, inputs=None, **options) -> TorchModel:
    """A model of a few features and classes on one fixed batch."""
    network = nn.Sequential(*(layers or (nn.Linear(6, 3),)))
    batch = torch.ones(4, 6) if inputs is None else inputs
    return TorchModel(network, lambda: (batch, torch.arange(4) % 3), **options)


class Mixed(nn.Module):
    """Every kind of state: parameters and buffers of several types, one without dimensions, one shared."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.norm = nn.BatchNorm1d(3)
        self.brief = nn.Parameter(torch.randn(5).to(torch.bfloat16))
        self.register_buffer("table", torch.arange(-3, 3))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("tiny", torch.tensor([1.5, -0.5]).to(torch.float8_e4m3fn))
        self.register_buffer("fine", torch.randn(2, 2, dtype=torch.float64))
        self.shared = self.linear.weight

    def forward(self, inputs):
        return self.norm(self.linear(inputs))


@pytest.fixture
def mixed() -> TorchModel:
    torch.manual_seed(1)
    return TorchModel(Mixed(), lambda: (torch.randn(4, 6), torch.arange(4) % 3))


def bits(model):
    """The state of a module, exactly."""
    return {name: (value.dtype, value.clone()) for name, value in model._module.state_dict().items()}


def same_bits(one, other):
    return one.keys() == other.keys() and all(
        one[name][0] == other[name][0] and torch.equal(one[name][1], other[name][1]) for name in one
    )


@pytest.mark.parametrize("name", DEMOS)
def test_demos_learn_their_batch(name):
    steps = DEMOS[name]().run_training(20)

    (first, _), (last, score) = steps[0], steps[-1]
    assert len(steps) == 20
    assert last < first
    assert 0 <= score <= 1


@pytest.mark.parametrize("name", DEMOS)
def test_demos_are_reproducible(name):
    assert DEMOS[name]().run_training(2) == DEMOS[name]().run_training(2)


@pytest.mark.parametrize(
    ("make", "options", "says"),
    [
        (demos.mlp, {"hidden": 0}, "hidden is 0"),
        (demos.cnn, {"batch": "many"}, "batch is 'many'"),
        (demos.transformer, {"layers": True}, "layers is True"),
        (demos.transformer, {"width": 30}, "width is 30; it must be a multiple of 4"),
    ],
)
def test_demos_refuse_sizes_that_they_cannot_have(make, options, says):
    with pytest.raises(LoaderError, match=says):
        make(**options)


def test_implements_the_whole_interface():
    assert capabilities(small()) == list(METHODS)


def test_wraps_nothing_but_a_module():
    with pytest.raises(LoaderError, match="TorchModel wraps a torch.nn.Module; it was given a function"):
        TorchModel(lambda inputs: inputs, lambda: (1, 2))


@pytest.mark.parametrize("method", METHODS_OF_STEPS)
def test_marks_every_step(method):
    with StepClock() as clock:
        getattr(small(), method)(n_steps=3)

    assert len(clock.duration_ns) == 3


@pytest.mark.parametrize("method", METHODS_OF_STEPS)
def test_times_the_network_and_not_the_making_of_the_batch(method, monkeypatch):
    now = 0

    def passes(time):
        nonlocal now
        now += time

    def make_batch():
        passes(1000)
        return torch.ones(4, 6), torch.arange(4) % 3

    def score(outputs, targets):
        passes(500)
        return 0.0

    network = nn.Linear(6, 3)
    network.register_forward_hook(lambda *_: passes(7))
    model = TorchModel(network, make_batch, score=score)
    monkeypatch.setattr("dnnamo.model.perf_counter_ns", lambda: now)

    with StepClock() as clock:
        getattr(model, method)(n_steps=2)

    assert clock.duration_ns == [7, 7]


def test_makes_a_new_batch_for_each_step():
    made = iter(range(5))

    def make_batch():
        return torch.full((1, 2), float(next(made))), torch.zeros(1, dtype=torch.int64)

    outputs = TorchModel(nn.Identity(), make_batch).run_inference(3)

    assert [float(output[0, 0]) for output in outputs] == [0, 1, 2]


class Raises(nn.Module):
    def forward(self, inputs):
        raise ArithmeticError("no")


def test_the_batch_is_not_made_under_a_step_that_raises_later():
    with StepClock() as clock, pytest.raises(ArithmeticError, match="no"):
        TorchModel(Raises(), lambda: (torch.ones(1), torch.ones(1))).run_inference(2)

    assert clock.duration_ns == []


class Adds(nn.Module):
    def forward(self, left, right):
        return left + right


@pytest.mark.parametrize("inputs", [(torch.ones(2), torch.ones(2)), [torch.ones(2), torch.ones(2)]])
def test_a_tuple_or_list_of_inputs_is_passed_as_positional_arguments(inputs):
    (output,) = TorchModel(Adds(), lambda: (inputs, None)).run_inference()

    assert output.tolist() == [2, 2]


def test_a_dict_of_inputs_is_passed_as_keyword_arguments():
    inputs = {"right": torch.ones(2), "left": torch.zeros(2)}
    model = TorchModel(Adds(), lambda: (inputs, None))

    (output,) = model.run_inference()

    assert output.tolist() == [1, 1]
    assert "graph.pt2" in framework.graph_file(model.get_inference_graph())


def test_outputs_of_any_structure_come_as_numpy_arrays():
    class Two(nn.Module):
        def forward(self, inputs):
            return {"one": inputs, "rest": (inputs.to(torch.bfloat16), 3)}

    (output,) = TorchModel(Two(), lambda: (torch.ones(2), None)).run_inference()

    assert isinstance(output["one"], np.ndarray)
    assert output["rest"][0].dtype == ml_dtypes.bfloat16
    assert output["rest"][1] == 3


@pytest.mark.parametrize(
    ("batch", "kind"), [(torch.ones(2), "Tensor"), ((1, 2, 3), "tuple"), ([1, 2], "list"), (None, "NoneType")]
)
@pytest.mark.parametrize("method", ["run_inference", "run_training", "get_inference_graph"])
def test_a_batch_that_is_no_pair_says_what_it_was(batch, kind, method):
    model = TorchModel(nn.Linear(2, 2), lambda: batch)

    with pytest.raises(ModelError, match=rf"make_batch must return a tuple \(inputs, targets\); it returned a {kind}"):
        getattr(model, method)()


def test_the_score_is_accuracy_with_the_default_loss():
    model = TorchModel(nn.Identity(), lambda: (torch.eye(4)[:, :3].requires_grad_(), torch.tensor([0, 1, 2, 2])))
    model._make_optimizer = lambda parameters: torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)

    ((_, score),) = model.run_training()

    assert score == 0.75


def test_accuracy_is_the_share_of_targets_ranked_first():
    outputs = torch.tensor([[[1.0, 2.0], [3.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])

    assert accuracy(outputs, torch.tensor([[1, 0], [0, 1]])) == 0.75


def test_another_loss_comes_without_a_score():
    model = small(loss=lambda outputs, targets: outputs.sum())

    ((loss, score),) = model.run_training()

    assert isinstance(loss, float)
    assert score is None


def test_a_score_of_the_users_own_is_a_number():
    model = small(score=lambda outputs, targets: outputs.sum())

    ((_, score),) = model.run_training()

    assert isinstance(score, float)


def test_the_optimizer_keeps_its_state_from_call_to_call():
    made = []

    def optimizer(parameters):
        made.append(torch.optim.SGD(parameters, lr=0.1, momentum=0.9))
        return made[-1]

    torch.manual_seed(0)
    apart = small(optimizer=optimizer)
    losses = [loss for _ in range(4) for loss, _ in apart.run_training()]
    torch.manual_seed(0)
    together = small(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9))

    assert len(made) == 1
    assert losses == [loss for loss, _ in together.run_training(4)]


def test_gradients_do_not_add_up_over_steps():
    model = small(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    model.run_training()
    once = model._module[0].weight.grad.clone()

    model.run_training(3)

    assert torch.equal(model._module[0].weight.grad, once)


def test_dropout_is_on_in_training_and_off_in_inference():
    seen = []
    model = small(nn.Linear(6, 3), nn.Dropout(0.5))
    model._module.register_forward_pre_hook(lambda module, _: seen.append(module.training))

    model.run_training()
    first, second = model.run_inference(2)
    model.run_training()

    assert seen == [True, False, False, True]
    assert np.array_equal(first, second)


def test_inference_changes_no_weights_and_keeps_no_gradients(mixed):
    before = bits(mixed)

    mixed.run_inference(2)
    mixed.profile_inference(1)

    assert same_bits(before, bits(mixed))
    assert all(parameter.grad is None for parameter in mixed._module.parameters())


def test_the_module_is_placed_once_as_it_is_wrapped():
    placed = []

    class Placed(nn.Linear):
        def to(self, *arguments, **options):
            placed.append(arguments)
            return super().to(*arguments, **options)

    model = TorchModel(Placed(6, 3), lambda: (torch.ones(4, 6), torch.arange(4) % 3))
    for method in METHODS_OF_STEPS:
        getattr(model, method)()

    assert len(placed) == 1


def test_weights_are_parameters_and_buffers_by_their_state_dict_names(mixed):
    weights = mixed.get_weights()

    assert set(weights) == set(mixed._module.state_dict())
    assert weights["brief"].dtype == ml_dtypes.bfloat16
    assert weights["table"].dtype == np.int64
    assert weights["norm.num_batches_tracked"].shape == ()
    assert weights["fine"].dtype == np.float64


def test_only_the_weights_asked_for_come_back(mixed):
    assert set(mixed.get_weights(["table", "linear.bias"])) == {"table", "linear.bias"}
    assert mixed.get_weights([]) == {}
    assert set(mixed.get_weights(name for name in ["mask"])) == {"mask"}


def test_weights_set_again_are_the_same_to_the_bit(mixed):
    mixed.run_training()
    before, weights = bits(mixed), mixed.get_weights()
    mixed.set_weights({name: np.zeros_like(value) for name, value in weights.items()})
    assert not same_bits(before, bits(mixed))

    mixed.set_weights(weights)

    assert same_bits(before, bits(mixed))


def test_weights_are_copies(mixed):
    before = bits(mixed)

    for value in mixed.get_weights().values():
        value[...] = 0

    assert same_bits(before, bits(mixed))


def test_weights_not_named_stay_as_they_are(mixed):
    before = bits(mixed)

    mixed.set_weights({"linear.bias": [1, 2, 3]})

    after = bits(mixed)
    assert after.pop("linear.bias")[1].tolist() == [1, 2, 3]
    before.pop("linear.bias")
    assert same_bits(before, after)


def test_training_goes_on_with_the_weights_that_were_set():
    torch.manual_seed(0)
    one, other = small(), small()

    other.set_weights(one.get_weights())

    assert other.run_training(2) == one.run_training(2)


def test_a_wrong_shape_is_named_and_nothing_is_changed(mixed):
    before = bits(mixed)

    with pytest.raises(WeightsError) as caught:
        mixed.set_weights({"linear.bias": np.ones(3), "table": np.ones(5), "brief": np.ones((5, 1))})

    assert "table has shape [5], the model's is [6]" in str(caught.value)
    assert "brief has shape [5, 1], the model's is [5]" in str(caught.value)
    assert "linear.bias" not in str(caught.value)
    assert same_bits(before, bits(mixed))


def test_a_shape_that_would_broadcast_is_wrong_too(mixed):
    with pytest.raises(WeightsError, match=r"linear.bias has shape \[1\], the model's is \[3\]"):
        mixed.set_weights({"linear.bias": np.ones(1)})


def test_an_unknown_key_is_named_with_the_nearest_and_nothing_is_changed(mixed):
    before = bits(mixed)

    with pytest.raises(
        WeightsError, match="no weights named 'linear.bais' .the nearest is 'linear.bias'.; nothing was changed"
    ):
        mixed.set_weights({"linear.weight": np.ones((3, 6)), "linear.bais": np.ones(3)})
    with pytest.raises(WeightsError, match="no weights named 'linear.bais'"):
        mixed.get_weights(["linear.bais"])

    assert same_bits(before, bits(mixed))


@pytest.mark.parametrize("value", ["many", None, object()])
def test_a_value_that_is_no_array_is_an_error_and_nothing_is_changed(mixed, value):
    before = bits(mixed)

    with pytest.raises((WeightsError, TypeError, RuntimeError)):
        mixed.set_weights({"table": np.zeros(6), "linear.bias": value})

    assert same_bits(before, bits(mixed))


def operations(graph):
    return {str(node.target) for node in graph.graph.nodes if node.op == "call_function"}


@pytest.mark.parametrize("name", DEMOS)
def test_the_inference_graph_has_the_networks_operations(name):
    graph = DEMOS[name]().get_inference_graph()

    assert {"aten.linear.default", "aten.addmm.default"} & operations(graph)


def test_the_inference_graph_is_of_evaluation_mode():
    graph = small(nn.Linear(6, 3), nn.BatchNorm1d(3)).get_inference_graph()

    assert not any("add_" in name for name in operations(graph))
    loaded = torch.export.load(io.BytesIO(framework.graph_file(graph)[1]))
    assert loaded.module()(torch.ones(4, 6)).shape == (4, 3)


@pytest.mark.parametrize("name", DEMOS)
def test_the_training_graph_goes_forward_and_back(name):
    model = DEMOS[name]()

    graph = model.get_training_graph()

    assert {"aten.addmm.default", "aten.nll_loss_backward.default"} <= {
        target.replace("nll_loss2d", "nll_loss") for target in operations(graph)
    }
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    assert len(output.args[0]) == 1 + len(list(model._module.parameters()))


def test_the_training_graph_computes_loss_and_gradients():
    model = small()
    inputs, targets = model._batch()
    parameters = {name: value.detach() for name, value in model._module.named_parameters()}

    loss, *gradients = model.get_training_graph()(parameters, inputs, targets)

    expected = nn.functional.cross_entropy(model._module(inputs), targets)
    expected.backward()
    assert torch.allclose(loss, expected)
    for gradient, parameter in zip(gradients, model._module.parameters(), strict=True):
        assert torch.allclose(gradient, parameter.grad)


@pytest.mark.parametrize("method", ["get_inference_graph", "get_training_graph"])
def test_making_a_graph_changes_no_weights_and_no_statistics(mixed, method):
    before = bits(mixed)

    getattr(mixed, method)()

    assert [name for name, value in bits(mixed).items() if not torch.equal(value[1], before[name][1])] == []
    assert all(parameter.grad is None for parameter in mixed._module.parameters())


def test_frozen_parameters_take_no_part_in_the_training_graph():
    network = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
    network[0].requires_grad_(requires_grad=False)
    model = TorchModel(network, lambda: (torch.ones(4, 6), torch.arange(4) % 3))

    (output,) = (node for node in model.get_training_graph().graph.nodes if node.op == "output")

    assert len(output.args[0]) == 1 + 2


def test_graphs_are_kept_as_files():
    model = small()

    name, content = framework.graph_file(model.get_training_graph())

    assert name == "graph.py"
    assert b"torch.ops.aten.addmm" in content
    compile(content, name, "exec")
    assert framework.graph_file(model.get_inference_graph())[0] == "graph.pt2"
    assert framework.graph_file(model) is None


def raw(finished):
    return finished.profiler.kineto_results.events()


def names(finished):
    return Counter(event.name() for event in raw(finished))


@pytest.mark.parametrize("method", ["profile_inference", "profile_training"])
def test_a_profile_marks_steps_and_layers_and_by_default_records_nothing_else(method):
    finished = getattr(small(), method)(n_steps=2)

    found = names(finished)
    assert {name for name in found if name.startswith("ProfilerStep#")} == {"ProfilerStep#0", "ProfilerStep#1"}
    assert {name: count for name, count in found.items() if name.startswith("dnnamo.layer:")} == {
        "dnnamo.layer:Sequential": 2,
        "dnnamo.layer:0": 2,
    }
    assert "aten::addmm" in found
    assert "[memory]" not in found
    assert all(event.shapes() == [] and event.stack() == [] for event in raw(finished))
    assert {event.activity_type() for event in raw(finished)} == {"cpu_op", "user_annotation"}


def test_a_profile_records_what_the_job_asks_for():
    with Capturing(["shapes", "memory", "stacks"]) as capturing:
        finished = small().profile_training()

    (addmm,) = (event for event in raw(finished) if event.name() == "aten::addmm")
    assert addmm.shapes()[:3] == [[3], [4, 6], [6, 3]]
    assert names(finished)["[memory]"] > 0
    assert any(event.is_python_function() for event in raw(finished))
    assert capturing.limits == []


def test_no_hooks_stay_behind_after_a_profile():
    module = torch.nn.modules.module
    small().profile_training()

    with pytest.raises(ArithmeticError, match="no"):
        TorchModel(Raises(), lambda: (torch.ones(1), torch.ones(1))).profile_inference()

    assert not module._has_any_global_hook()


def test_a_compiled_network_is_profiled_without_layers_and_not_compiled_again():
    network = torch.compile(nn.Linear(6, 3), backend="eager")
    model = TorchModel(network, lambda: (torch.ones(4, 6), torch.arange(4) % 3))
    model.run_training(2)

    with Capturing() as capturing, torch.compiler.set_stance("fail_on_recompile"):
        found = names(model.profile_training(2))

    assert [name for name in found if name.startswith("dnnamo.layer:")] == []
    assert found["ProfilerStep#1"] == 1
    assert capturing.limits == [
        "The network is compiled by torch.compile, at least in part, so its layers are not told apart."
    ]


def test_says_what_it_is_and_how_many_threads_it_uses():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert framework.threads()["torch.intraop"] == 1
    finally:
        torch.set_num_threads(before)
    assert framework.libraries()["torch"] == torch.__version__
    assert framework.libraries()["numpy"] == np.__version__


def test_a_gpu_that_is_not_there_is_unsupported(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    framework.check_device("cpu")

    with pytest.raises(Unsupported, match="wants a GPU, and PyTorch .* sees none.*--device cpu") as caught:
        framework.check_device("gpu")
    assert str(torch.__version__) in str(caught.value)


def test_without_pytorch_the_error_names_what_installs_it():
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True)

    assert done.returncode == 1
    assert "PyTorch is not installed here. Install it with: pip install 'dnnamo[torch]'" in done.stderr
    assert issubclass(MissingExtra, UsageError)


@pytest.mark.gpu
@needs_cuda
def test_on_a_gpu_everything_is_placed_there_and_comes_back_as_numpy():
    where = []
    model = small(nn.Linear(6, 3), nn.BatchNorm1d(3))
    model._module.register_forward_pre_hook(lambda _, inputs: where.append(inputs[0].device.type))

    (output,) = model.run_inference()
    ((loss, score),) = model.run_training()

    assert where == ["cuda", "cuda"]
    assert isinstance(output, np.ndarray)
    assert isinstance(loss, float)
    assert isinstance(score, float)
    assert all(isinstance(value, np.ndarray) for value in model.get_weights().values())
    framework.check_device("gpu")


@pytest.mark.gpu
@needs_cuda
def test_on_a_gpu_a_step_ends_when_the_device_has_ended():
    model = TorchModel(nn.Linear(8192, 8192), lambda: (torch.ones(8192, 8192), torch.zeros(8192, dtype=torch.int64)))
    model.run_inference()

    with StepClock() as clock:
        model.run_inference(3)

    # 1.1e12 operations: no device does them in the microseconds that the launch takes.
    assert min(clock.duration_ns) > 1_000_000


@pytest.mark.gpu
@needs_cuda
def test_on_a_gpu_weights_round_trip_to_the_bit(mixed):
    before, weights = bits(mixed), mixed.get_weights()
    mixed.set_weights({name: np.zeros_like(value) for name, value in weights.items()})

    mixed.set_weights(weights)

    assert same_bits(before, bits(mixed))


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("method", ["get_inference_graph", "get_training_graph"])
def test_on_a_gpu_graphs_can_be_made_and_kept(method):
    assert framework.graph_file(getattr(small(), method)())[1]
