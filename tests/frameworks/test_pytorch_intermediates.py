import itertools
import os
import weakref

import ml_dtypes
import pytest

from dnnamo.errors import NoSuchIntermediate
from dnnamo.records import Setup

if "CI" not in os.environ:
    pytest.importorskip("torch")

import torch
from torch import nn

from dnnamo.frameworks.pytorch import TorchModel


class Block(nn.Module):
    """A layer called twice, outputs in containers, dropout, state that a pass changes, and numbers drawn in it."""

    def __init__(self):
        super().__init__()
        self.twice = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("passes", torch.zeros(()))
        self.register_buffer("last", torch.zeros(3, 4))

    def forward(self, inputs):
        self.passes += 1
        value = self.drop(self.norm(self.twice(self.twice(inputs)))) + torch.rand(1) * self.passes + self.last
        self.last = value.detach()
        return {"scores": value, "more": (value * 2, None, [value > 0])}


def wrapped(network, batch=None, **options) -> TorchModel:
    fixed = torch.randn(3, 4), torch.arange(3)
    return TorchModel(network, batch or (lambda: fixed), **options)


def block(batch=None) -> TorchModel:
    torch.manual_seed(0)
    return wrapped(Block(), batch, loss=lambda outputs, _: outputs["scores"].square().mean())


def test_outputs_come_by_path_call_and_part():
    found = block().get_intermediates()

    assert list(found) == [
        "twice", "twice#2", "norm", "drop", "Block.scores", "Block.more.0", "Block.more.2.0",
    ]  # fmt: skip
    assert found["Block.more.2.0"].dtype == bool


def test_they_are_what_the_layers_compute():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 2))
    inputs = torch.randn(3, 4)

    found = wrapped(network, lambda: (inputs, None)).get_intermediates()

    with torch.inference_mode():
        first = network[0](inputs)
        assert found["0"].tobytes() == first.numpy().tobytes()  # before it was changed in its place
        assert found["1"].tobytes() == first.relu().numpy().tobytes()
        assert found["Sequential"].tobytes() == found["2"].tobytes() == network(inputs).numpy().tobytes()


def test_keys_choose_and_unknown_ones_are_named():
    model = block()

    assert list(model.get_intermediates(["twice", "*.more.*"])) == ["twice", "Block.more.0", "Block.more.2.0"]
    with pytest.raises(NoSuchIntermediate, match="'nrom' \\(the nearest is 'norm'\\)"):
        model.get_intermediates(["nrom"])


@pytest.mark.parametrize("source", ["drawn", "counted"])
def test_results_are_the_same_to_the_bit_with_and_without(source):
    def results(look: bool):
        count = itertools.count()
        made = {
            "drawn": lambda: (torch.randn(3, 4), None),
            "counted": lambda: (torch.full((3, 4), float(next(count))), None),
        }
        model = block(made[source])
        for _ in range(3):
            if look:
                model.get_intermediates()
            yield model.run_inference(1)[0]["scores"].tobytes()
            yield model.run_training(2)
        yield [value.tobytes() for value in model.get_weights().values()]

    assert list(results(look=True)) == list(results(look=False))


def test_the_batch_is_not_changed_by_a_network_that_changes_its_inputs():
    inputs = torch.full((3, 4), -1.0)

    wrapped(nn.ReLU(inplace=True), lambda: (inputs, None)).get_intermediates()

    assert (inputs == -1).all()


def test_modes_are_as_before_also_after_a_failure():
    model = block()
    model._module.train()
    model._module.norm.eval()

    model.get_intermediates()
    with pytest.raises(NoSuchIntermediate):
        model.get_intermediates(["x"])

    assert [module.training for module in model._module.modules()] == [True, True, False, True]


def test_each_array_is_lent_as_a_view_and_let_go_of():
    model = wrapped(nn.Sequential(*(nn.Linear(4, 4) for _ in range(5))))
    lent = []

    def receive(name, array):
        assert all(earlier() is None for earlier in lent)
        assert not array.flags.owndata
        lent.append(weakref.ref(array))

    assert model.get_intermediates(receive=receive) == {}
    assert len(lent) == 6


def test_a_receiver_that_fails_ends_the_pass():
    names = []

    def receive(name, _):
        names.append(name)
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        block().get_intermediates(receive=receive)
    assert names == ["twice"]


def test_no_hook_stays_and_other_networks_are_not_seen():
    other = nn.Linear(4, 4)

    class Calls(nn.Module):
        def forward(self, inputs):
            return other(inputs)

    model = wrapped(Calls())
    assert list(model.get_intermediates()) == ["Calls"]
    assert not torch.nn.modules.module._global_forward_hooks


def test_types_stay_as_they_are():
    model = wrapped(nn.Sequential(nn.Linear(4, 4)))
    model.configure(Setup(precision="bfloat16"))
    assert model.get_intermediates()["0"].dtype == ml_dtypes.bfloat16

    mixed = wrapped(nn.Sequential(nn.Linear(4, 4)))
    mixed.configure(Setup(precision="mixed_bfloat16"))
    assert mixed.get_intermediates()["0"].dtype == ml_dtypes.bfloat16


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_a_compiled_network_is_computed_as_it_was_written():
    inner = nn.Linear(4, 4)
    network = torch.compile(nn.Sequential(inner, torch.compile(nn.ReLU())))

    found = wrapped(network).get_intermediates()

    assert list(found) == ["0", "1", "Sequential"]
    assert (found["Sequential"] >= 0).all()


def test_the_fast_path_of_transformer_layers_stays_on():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    network = nn.TransformerEncoder(layer, 2)

    found = wrapped(network, lambda: (torch.randn(2, 3, 8), None)).get_intermediates()

    assert list(found) == ["layers.0", "layers.1", "TransformerEncoder"]


def test_tensors_that_are_not_dense_are_made_so():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.sparse, self.nested = nn.Identity(), nn.Identity()

        def forward(self, inputs):
            self.nested(torch.nested.nested_tensor([inputs[0], inputs[:1, 0]], layout=torch.jagged))
            return self.sparse(inputs.to_sparse())

    found = wrapped(Odd()).get_intermediates()

    assert {name: array.shape for name, array in found.items()} == {
        "nested.0": (4,),
        "nested.1": (1,),
        "sparse": (3, 4),
        "Odd": (3, 4),
    }
