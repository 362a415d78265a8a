import os
from functools import partial

import numpy as np
import pytest

from dnnamo.errors import Unsupported
from dnnamo.model import Capturing
from dnnamo.records import Setup

if "CI" not in os.environ:
    pytest.importorskip("torch")

import torch
from torch import nn

from dnnamo.frameworks.pytorch import TorchModel

PRECISIONS = [
    ("float32", torch.float32, torch.float32),
    ("bfloat16", torch.bfloat16, torch.bfloat16),
    ("float16", torch.float16, torch.float16),
    ("mixed_bfloat16", torch.float32, torch.bfloat16),
    ("mixed_float16", torch.float32, torch.float16),
]


def small(*layers, batches=None, **options) -> TorchModel:
    """A network of 6 features and 3 classes, always with the same weights, on given batches or a fixed one."""
    torch.manual_seed(0)
    network = nn.Sequential(*(layers or (nn.Linear(6, 3),)))
    given = iter(batches or [])
    fixed = torch.randn(4, 6), torch.arange(4) % 3
    return TorchModel(network, lambda: next(given, fixed), **options)


def set_up(model: TorchModel, **options) -> TorchModel:
    model.configure(Setup(**options))
    return model


class Seen(nn.Linear):
    """Knows of its last call what it was given and what it gave."""

    def forward(self, value):
        self.given = value
        self.gave = super().forward(value)
        return self.gave


@pytest.mark.parametrize(("precision", "weights", "computed"), PRECISIONS)
@pytest.mark.parametrize("method", ["run_inference", "run_training"])
def test_a_network_computes_in_the_type_that_was_asked_for(precision, weights, computed, method):
    layer = Seen(6, 3)
    model = set_up(small(layer), precision=precision)

    getattr(model, method)(2)

    assert (layer.weight.dtype, layer.gave.dtype) == (weights, computed)


def test_inputs_and_targets_are_cast_and_whole_numbers_are_not():
    inputs, targets = set_up(small(), precision="bfloat16")._batch()

    assert (inputs.dtype, targets.dtype) == (torch.bfloat16, torch.int64)


def test_a_loss_of_numbers_has_targets_of_its_outputs_type():
    batch = torch.ones(4, 6), torch.ones(4, 3)
    model = set_up(small(batches=[batch] * 2, loss=nn.functional.mse_loss), precision="bfloat16")

    assert model.run_training(2)[0][0] > 0


def test_weights_and_predictions_have_the_type_that_they_were_cast_to():
    half = set_up(small(), precision="float16")
    assert {value.dtype for value in half.get_weights().values()} == {np.dtype(np.float16)}
    assert half.run_inference()[0].dtype == np.float16

    brain, plain = set_up(small(), precision="bfloat16"), small()
    for values, whole in (
        (brain.get_weights()["0.weight"], plain.get_weights()["0.weight"]),
        (brain.run_inference()[0], plain.run_inference()[0]),
    ):
        assert np.array_equal(values.astype(np.float32), torch.tensor(values.astype(np.float32)).bfloat16().float())
        assert not np.array_equal(values.astype(np.float32), whole)
        assert np.allclose(values.astype(np.float32), whole, atol=0.02)


def test_gradients_that_float16_has_no_number_for_are_scaled():
    def tiny(outputs, targets):
        return outputs.float().sum() * 1e-9

    model = set_up(small(loss=tiny, optimizer=partial(torch.optim.SGD, lr=1e7)), precision="mixed_float16")
    before = model.get_weights()["0.bias"]
    model.run_training()

    assert np.allclose(before - model.get_weights()["0.bias"], 4e-9 * 1e7, rtol=0.01)


def test_accumulated_minibatches_make_one_update_by_the_gradient_of_the_joined_batch():
    batches = [(torch.randn(4, 6), torch.randint(3, (4,))) for _ in range(6)]
    joined = [tuple(torch.cat(parts) for parts in zip(*batches[i : i + 3], strict=True)) for i in (0, 3)]
    parts, whole = set_up(small(batches=batches), accumulate=3), small(batches=joined)

    losses, expected = parts.run_training(2), whole.run_training(2)

    assert np.allclose(losses, expected, rtol=1e-5)
    for name, value in whole.get_weights().items():
        assert np.allclose(parts.get_weights()[name], value, rtol=1e-5, atol=1e-7)


def test_channels_last_is_for_images_and_their_kernels():
    seen = []

    class Looks(nn.Conv2d):
        def forward(self, images):
            seen.append(images.is_contiguous(memory_format=torch.channels_last))
            return super().forward(images)

    batch = torch.randn(2, 4, 8, 8), torch.tensor([0, 1])
    layer = Looks(4, 4, 3)
    model = set_up(small(layer, nn.Flatten(), nn.Linear(144, 3), batches=[batch] * 2), channels_last=True)
    model.run_training(2)

    assert seen == [True, True]
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    assert set_up(small(), channels_last=True).run_inference()[0].shape == (4, 3)


@pytest.fixture
def compiled(monkeypatch):
    """What `torch.compile` was given: modes and graphs. Its backend here needs no compiler."""
    given, compile_network = [], torch.compile

    def backend(graph, inputs):
        given.append(graph)
        return graph.forward

    def compile_(network, *, mode):
        given.append(mode)
        return compile_network(network, backend=backend)

    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr("dnnamo.frameworks.pytorch.setup._check_compiler", lambda device: None)
    return given


def test_a_network_of_pytorchs_own_modules_is_compiled_in_the_mode_that_was_asked_for(compiled):
    model, plain = set_up(small(), compile="max-autotune"), small()

    assert np.allclose(model.run_training(2), plain.run_training(2))
    assert compiled[0] == "max-autotune"
    assert isinstance(compiled[1], torch.fx.GraphModule)
    assert set(model.get_weights()) == {"0.weight", "0.bias"}


def test_a_profile_of_a_compiled_network_says_that_layers_are_not_told_apart(compiled):
    model = set_up(small(), compile="default")
    model.run_inference()

    with Capturing() as capturing, torch.compiler.set_stance("fail_on_recompile"):
        model.profile_inference()

    assert ["layers are not told apart" in limit for limit in capturing.limits] == [True]


def test_graphs_of_a_compiled_network_are_those_of_the_network(compiled):
    model = set_up(small(), compile="default")

    assert model.get_inference_graph().graph_signature.parameters == ("0.weight", "0.bias")
    assert isinstance(model.get_training_graph(), torch.fx.GraphModule)


def test_a_machine_without_a_compiler_is_told_of_before_the_first_step(monkeypatch):
    builder = pytest.importorskip("torch._inductor.cpp_builder")
    from torch._inductor.exc import InvalidCxxCompiler

    def missing():
        raise InvalidCxxCompiler

    monkeypatch.setattr(builder, "get_cpp_compiler", missing)
    model = small()
    before = model.get_weights()
    with pytest.raises(Unsupported, match="no compiler for it. Install g"):
        set_up(model, compile="default", precision="float16")

    assert {name: value.dtype for name, value in model.get_weights().items()} == {
        name: value.dtype for name, value in before.items()
    }


def test_the_compiler_of_tensorflow_is_not_pytorchs():
    with pytest.raises(Unsupported, match="jit_compile is TensorFlow's XLA"):
        set_up(small(), jit_compile=True)
