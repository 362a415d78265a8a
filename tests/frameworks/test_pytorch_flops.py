import os
from collections import Counter

import pytest

if "CI" not in os.environ:
    pytest.importorskip("torch")

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from dnnamo.frameworks.pytorch import TorchModel
from dnnamo.frameworks.pytorch.flops import FlopCounter
from dnnamo.loaders.demos import pytorch as demos
from dnnamo.model import Capturing
from dnnamo.profiles.build import profile_of
from dnnamo.profiles.flops import flop_count
from dnnamo.profiles.readers import kineto

DEMOS = {
    "mlp": lambda: demos.mlp(batch=4, hidden=16),
    "cnn": lambda: demos.cnn(batch=2),
    "transformer": lambda: demos.transformer(batch=2, length=8, width=16, layers=1),
}
PRODUCTS = {
    "aten::mm",
    "aten::addmm",
    "aten::bmm",
    "aten::convolution",
    "aten::convolution_backward",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_transformer_encoder_layer_fwd",
}


def count(network, *inputs):
    """What one call of a network comes to."""
    counter = FlopCounter(network)
    with counter.counting():
        network(*inputs)
    return counter.operations()


def products(operations):
    return [row for row in operations if row.name in PRODUCTS]


def by_name(operations):
    found = Counter()
    for row in operations:
        found[row.name] += row.flops or 0
    return found


@pytest.mark.parametrize("name", DEMOS)
def test_products_of_training_are_those_that_pytorch_counts(name):
    model = DEMOS[name]()
    model.run_training(1)
    with FlopCounterMode(display=False) as theirs:
        model.run_training(1)

    ours = model.count_flops("training")

    assert sum(row.flops for row in products(ours)) == theirs.get_total_flops()


@pytest.mark.parametrize("name", DEMOS)
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_every_operation_of_the_demos_is_counted(name, mode):
    assert flop_count(DEMOS[name]().count_flops(mode)).uncounted == {}


@pytest.mark.parametrize("name", DEMOS)
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_products_have_the_names_shapes_and_layers_of_the_profile(name, mode):
    model = DEMOS[name]()
    model.run_training(1)
    with Capturing(["shapes"]):
        _, events = profile_of(kineto.read(getattr(model, f"profile_{mode}")(2)))
    events = events.take(events.step == 0)
    profiled = set(zip(events.name.to_list(), events.shapes.to_list(), events.layer.to_list(), strict=True))

    counted = {(row.name, row.shapes, row.layer) for row in products(model.count_flops(mode))}

    assert counted
    assert counted <= profiled


def test_a_fused_encoder_layer_takes_what_its_parts_take():
    layer = nn.TransformerEncoderLayer(8, 2, 32, batch_first=True).eval()
    inputs = torch.ones(3, 5, 8)

    parts = count(layer, inputs)  # with gradients it is not fused
    with torch.inference_mode():
        fused = count(layer, inputs)

    assert len(products(parts)) > 3
    assert by_name(fused) == {
        "aten::_transformer_encoder_layer_fwd": sum(row.flops for row in products(parts)),
    }


def test_attention_on_a_cpu_is_counted_as_on_a_gpu():
    class Attention(nn.Module):
        def forward(self, query, key):
            return nn.functional.scaled_dot_product_attention(query, key, key)

    query, key = torch.ones(2, 4, 5, 8), torch.ones(2, 4, 7, 8)
    operations = count(Attention(), query, key)

    assert by_name(operations)["aten::_scaled_dot_product_flash_attention_for_cpu"] == 2 * 2 * (2 * 4) * 5 * 7 * 8


@pytest.mark.parametrize(
    ("function", "flops"),
    [
        (lambda x: x + 1, 12),
        (torch.exp, 12),
        (lambda x: x.mul_(2), 12),
        (torch.sum, 12),
        (lambda x: x.mean(0), 12),
        (lambda x: x.softmax(-1), 5 * 12),
        (lambda x: nn.functional.layer_norm(x, [4]), 7 * 12),
        (lambda x: nn.functional.max_pool2d(x.view(1, 1, 3, 4), (3, 2)), 2 * 3 * 2),
        (lambda x: torch._foreach_add([x, x], 1), 24),
        (lambda x: torch._foreach_mul_([x, x], 2), 24),
        (lambda x: x > 0, 12),
        (lambda x: x.clone(), 0),
        (lambda x: x.t().reshape(-1), 0),
        (lambda x: torch.cat([x, x]), 0),
        (lambda x: x.to(torch.int64) + 1, 0),
        (lambda x: torch.where(x > 0, x, 0), 12),
        (lambda x: torch.zeros(3), 0),
    ],
)
def test_other_operations_count_by_their_elements(function, flops):
    class Calls(nn.Module):
        def forward(self, inputs):
            return function(inputs)

    count_of = flop_count(count(Calls(), torch.ones(3, 4)))

    assert (count_of.flops, count_of.uncounted) == (flops, {})


def test_what_has_no_formula_is_unknown_and_not_nothing():
    class Fft(nn.Module):
        def forward(self, inputs):
            return torch.fft.rfft(inputs) * 2

    found = flop_count(count(Fft(), torch.ones(8)))

    assert found.uncounted == {"aten::_fft_r2c": 1}
    assert found.flops == 5
    assert found.coverage < 1


def test_the_backward_pass_counts_for_the_layers_of_the_forward_one():
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    model = TorchModel(network, lambda: (torch.ones(4, 6), torch.arange(4) % 3))

    found = Counter()
    for row in products(model.count_flops("training")):
        found[row.layer] += row.flops

    # The first layer's input has no gradient.
    assert found == {"0": 2 * 2 * 4 * 6 * 5, "2": 3 * 2 * 4 * 5 * 3}


def test_layers_that_run_again_in_the_backward_pass_count_again():
    class Again(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))

        def forward(self, inputs):
            return checkpoint(self.inner, inputs, use_reentrant=False)

    model = TorchModel(Again(), lambda: (torch.ones(4, 6), torch.arange(4) % 3))

    found = Counter()
    for row in products(model.count_flops("training")):
        found[row.layer] += row.flops

    # What the last layer gives is not needed again.
    assert found == {"inner.0": (2 + 1) * 2 * 4 * 6 * 5, "inner.2": (1 + 2) * 2 * 4 * 5 * 3}


def test_only_the_step_is_counted():
    def score(outputs, targets):
        return float((outputs @ outputs.T).sum())

    def make_batch():
        torch.ones(50, 50) @ torch.ones(50, 50)
        return torch.ones(4, 6), torch.arange(4) % 3

    model = TorchModel(nn.Linear(6, 3), make_batch, score=score)

    assert by_name(model.count_flops("training"))["aten::mm"] == 2 * 4 * 6 * 3


def test_a_compiled_network_is_counted_as_it_was_written():
    network = torch.compile(nn.Linear(6, 3), backend="eager")
    model = TorchModel(network, lambda: (torch.ones(4, 6), torch.arange(4) % 3))
    model.run_inference(1)

    assert by_name(model.count_flops("inference"))["aten::addmm"] == 2 * 4 * 6 * 3


def test_calls_of_the_same_kind_are_one_row():
    class Twice(nn.Module):
        def forward(self, inputs):
            return inputs @ inputs + inputs @ inputs

    (product,) = (row for row in count(Twice(), torch.ones(3, 3)) if row.name == "aten::mm")

    assert (product.calls, product.flops, product.layer) == (2, 2 * 2 * 27, "Twice")
    assert product.shapes == "[[3,3],[3,3]]"
