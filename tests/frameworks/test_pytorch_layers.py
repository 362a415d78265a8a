import os
from collections import Counter
from contextlib import contextmanager
from threading import Thread

import pytest

if "CI" not in os.environ:
    pytest.importorskip("torch")

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from dnnamo.frameworks.pytorch.layers import LAYER_MARK, entered_layers, is_compiled, marked_layers


class Shared(nn.Module):
    """One layer under two names, and one that holds others."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.again = self.first
        self.block = nn.Sequential(nn.ReLU(), nn.Linear(2, 2))

    def forward(self, inputs):
        return self.block(self.again(self.first(inputs)))


class Fails(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, inputs):
        self.inner(inputs)
        raise ArithmeticError("no")


@pytest.fixture
def followed():
    """What goes on while layers are entered: a path as a layer starts, and its end."""
    log = []

    @contextmanager
    def within(path):
        log.append(path)
        yield
        log.append(f"/{path}")

    return log, within


def test_each_call_of_a_layer_is_entered_and_left_by_its_path(followed):
    log, within = followed
    network = Shared()

    with entered_layers(network, within):
        network(torch.ones(1, 2))

    assert " ".join(log) == ("Shared first /first first /first block block.0 /block.0 block.1 /block.1 /block /Shared")


def test_nothing_is_entered_before_and_after(followed):
    log, within = followed
    network = Shared()
    with entered_layers(network, within):
        pass

    network(torch.ones(1, 2))

    assert log == []


def test_modules_of_others_are_left_alone(followed):
    log, within = followed

    with entered_layers(nn.Linear(2, 2), within):
        Shared()(torch.ones(1, 2))
        nn.CrossEntropyLoss()(torch.ones(1, 2), torch.zeros(1, dtype=torch.int64))

    assert log == []


def test_a_layer_that_raises_is_left_and_so_are_those_around_it(followed):
    log, within = followed
    network = nn.Sequential(Fails())

    with entered_layers(network, within):
        with pytest.raises(ArithmeticError, match="no"):
            network(torch.ones(1))
        with pytest.raises(ArithmeticError, match="no"):
            network(torch.ones(1))

    assert log == ["Sequential", "0", "0.inner", "/0.inner", "/0", "/Sequential"] * 2


def test_a_hook_that_raises_before_a_layer_is_entered_leaves_the_others_right(followed):
    log, within = followed
    network = nn.Sequential(nn.Identity(), nn.Identity())
    handle = nn.modules.module.register_module_forward_pre_hook(lambda module, _: 1 / int(module is not network[1]))
    try:
        with entered_layers(network, within), pytest.raises(ZeroDivisionError):
            network(torch.ones(1))
    finally:
        handle.remove()

    assert log == ["Sequential", "0", "/0", "/Sequential"]


def test_threads_do_not_leave_each_others_layers(followed):
    log, within = followed
    network = nn.Sequential(nn.Identity())

    def run_in_another_thread(*_):
        thread = Thread(target=network[0], args=[torch.ones(1)])
        thread.start()
        thread.join()

    outer = nn.Sequential(network[0])
    handle = outer.register_forward_pre_hook(run_in_another_thread)
    with entered_layers(outer, within):
        outer(torch.ones(1))
    handle.remove()

    assert log == ["Sequential", "0", "/0", "0", "/0", "/Sequential"]


def test_a_layer_within_itself_is_entered_twice(followed):
    log, within = followed

    class Recursive(nn.Module):
        def forward(self, depth):
            return depth if depth.item() == 0 else self(depth - 1)

    network = Recursive()
    with entered_layers(network, within):
        network(torch.tensor(1))

    assert log == ["Recursive", "Recursive", "/Recursive", "/Recursive"]


def test_the_profiler_records_the_marks():
    network = Shared()

    with marked_layers(network), profile(activities=[ProfilerActivity.CPU]) as recorded:
        network(torch.ones(1, 2))

    names = Counter(event.name() for event in recorded.profiler.kineto_results.events())
    assert {name: count for name, count in names.items() if name.startswith(LAYER_MARK)} == {
        f"{LAYER_MARK}Shared": 1,
        f"{LAYER_MARK}first": 2,
        f"{LAYER_MARK}block": 1,
        f"{LAYER_MARK}block.0": 1,
        f"{LAYER_MARK}block.1": 1,
    }


def test_the_fast_path_of_an_encoder_layer_is_still_taken():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()

    with torch.inference_mode(), marked_layers(layer), profile(activities=[ProfilerActivity.CPU]) as recorded:
        layer(torch.ones(1, 3, 8))

    names = {event.name() for event in recorded.profiler.kineto_results.events()}
    assert "aten::_transformer_encoder_layer_fwd" in names


@pytest.mark.parametrize("convert", [torch.jit.script, lambda network: torch.jit.trace(network, torch.ones(1, 2))])
@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated:DeprecationWarning")
def test_what_torchscript_took_runs_as_one_layer(convert, followed):
    log, within = followed
    network = nn.Sequential(convert(Shared()))

    assert not is_compiled(network)
    with entered_layers(network, within):
        network(torch.ones(1, 2))

    assert log == ["Sequential", "0", "/0", "/Sequential"]


def test_compiled_networks_are_known():
    in_place = Shared()
    in_place.compile(backend="eager")

    assert not is_compiled(Shared())
    assert is_compiled(torch.compile(Shared(), backend="eager"))
    assert is_compiled(nn.Sequential(nn.ReLU(), torch.compile(Shared(), backend="eager")))
    assert is_compiled(nn.Sequential(in_place))


def test_a_function_that_is_compiled_sees_no_layers(followed):
    log, within = followed
    network = Shared()

    @torch.compile(backend="eager", fullgraph=True)
    def run(inputs):
        return network(inputs)

    with entered_layers(network, within):
        run(torch.ones(1, 2))

    assert log == []
