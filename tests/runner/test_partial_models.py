"""A model that implements one method works with what needs that one, and says what it lacks for anything else."""

import os

import pytest

if "CI" not in os.environ:
    pytest.importorskip("torch")

from dnnamo.model_types import TOOLS
from dnnamo.records import METHODS, JobSpec, Setup
from dnnamo.runner.execute import execute
from dnnamo.runner.wire import Request

PARTIAL = """
import torch
from dnnamo import Model
from dnnamo.frameworks.pytorch import TorchModel

class Whole(TorchModel):
    def get_intermediates(self, keys=None, receive=None):
        return {"edge": torch.ones(3).numpy()}

def __dnnamo_loader__(**has):
    data = torch.randn(4, 6), torch.arange(4) % 3
    whole = Whole(torch.nn.Linear(6, 3), lambda: data)
    methods = {name: lambda self, *given, name=name, **more: getattr(whole, name)(*given, **more) for name in has}
    return type("Partial", (Model,), methods | {"marks_steps": True})()
"""


@pytest.fixture
def carry_out(tmp_path):
    path = tmp_path / "partial_model.py"
    path.write_text(PARTIAL)

    def carry_out(method, *has, **fields):
        given = {"weights": "digest"} if method == "set_weights" else {}
        given |= {"n_steps": 2, "warmup": 1, "params": dict.fromkeys(has, True)}
        spec = JobSpec(model=str(path), method=method, **given | fields)
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        weights = _weights(tmp_path) if spec.weights else None
        return execute(Request(spec=spec, scratch=str(scratch), weights=weights))

    return carry_out


def _weights(folder) -> str:
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"bias": np.ones(3, np.float32)}, folder / "w.safetensors")
    return str(folder / "w.safetensors")


@pytest.mark.parametrize("has", METHODS)
@pytest.mark.parametrize("method", METHODS)
def test_one_method_is_enough_for_what_needs_that_one(carry_out, method, has):
    outcome = carry_out(method, has)

    if method == has:
        assert (outcome.state, outcome.message) == ("succeeded", None)
        assert outcome.result.capabilities == [has]
    else:
        assert (outcome.state, outcome.cause) == ("failed", "unsupported")
        assert f"does not implement {method}. It implements {has}." in outcome.message


@pytest.mark.parametrize("has", METHODS)
def test_weights_given_with_a_job_need_a_model_that_takes_them(carry_out, has):
    outcome = carry_out(has, has, weights="digest")

    if has == "set_weights":
        assert outcome.state == "succeeded"
    else:
        assert outcome.cause == "unsupported"
        assert f"does not implement set_weights. It implements {has}." in outcome.message


@pytest.mark.parametrize("has", METHODS)
def test_options_of_the_computation_need_a_model_that_takes_them(carry_out, has):
    assert "has no method configure" in carry_out(has, has, setup=Setup(precision="bfloat16")).message
    assert carry_out(has, has, "configure", setup=Setup(precision="bfloat16")).state == "succeeded"


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if tool.needs[0] in METHODS], ids=lambda tool: tool.verb)
def test_a_tool_needs_what_the_table_says(carry_out, tool):
    method = tool.needs[0]

    assert carry_out(method, *tool.needs).state == "succeeded"
    assert carry_out(method, *(set(METHODS) - {method})).cause == "unsupported"
