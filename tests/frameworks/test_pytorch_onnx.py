import os
import subprocess
import sys
from io import BytesIO

import pytest

if "CI" not in os.environ:
    for needed in ("torch", "onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(needed)

import numpy as np
import onnxruntime
import torch

from dnnamo.errors import DnnamoError, MissingExtra, UsageError
from dnnamo.frameworks.pytorch import graph_file
from dnnamo.frameworks.pytorch import onnx as module
from dnnamo.frameworks.pytorch.onnx import write
from dnnamo.loaders.demos import pytorch as demos

OUTPUTS = """
import torch
from torch.utils import _pytree

class Outputs:
    def __init__(self, scores):
        self.scores = scores

_pytree.register_pytree_node(
    Outputs,
    lambda it: ([it.scores], None),
    lambda scores, _: Outputs(*scores),
    serialized_type_name="given_outputs.Outputs",
    to_dumpable_context=lambda _: None,
    from_dumpable_context=lambda _: None,
)
"""
EXPORTED = """
import sys, torch
from given_outputs import Outputs

class Net(torch.nn.Module):
    def forward(self, inputs):
        return Outputs(inputs + 1)

torch.export.save(torch.export.export(Net(), (torch.ones(2),)), sys.argv[1])
"""
CONVERTED = """
import sys
from io import BytesIO
from pathlib import Path
from dnnamo.errors import UsageError
from tests.frameworks.test_pytorch_onnx import Kept
from dnnamo.frameworks.pytorch.onnx import write

program = Kept(Path(sys.argv[1]).read_bytes())
try:
    write(program, BytesIO())
except UsageError as error:
    print(error, file=sys.stderr)
sys.path.append(sys.argv[2])
write(program, sys.stdout.buffer)
"""


class Kept:
    """A graph that was kept as a program."""

    record = None
    forms = ("pt2", "json")

    def __init__(self, program: bytes) -> None:
        self.program = program

    def native(self, suffix: str) -> bytes | None:
        return self.program if suffix == "pt2" else None


@pytest.mark.parametrize("name", ["mlp", "cnn", "transformer"])
def test_onnx_runtime_computes_what_the_network_does(name, capfd):
    model = getattr(demos, name)(batch=2)
    file = BytesIO()
    write(Kept(graph_file(model.get_inference_graph())[1]), file)

    assert capfd.readouterr() == ("", "")
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    inputs = model._batch()[0].numpy()
    session = onnxruntime.InferenceSession(file.getvalue())
    (outputs,) = session.run(None, {session.get_inputs()[0].name: inputs})
    with torch.no_grad():
        expected = model._module.eval()(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(outputs, expected, atol=1e-4)


def test_a_program_that_is_none_is_an_error_of_one_line():
    with pytest.raises(DnnamoError, match="cannot turn this program into ONNX") as caught:
        write(Kept(b"PK no program"), BytesIO())
    assert "\n" not in str(caught.value)


def test_without_the_exporter_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtra, match=r"dnnamo\[onnx\]"):
        write(Kept(b""), BytesIO())


def test_the_class_of_what_a_program_returns_is_imported_first(tmp_path):
    (tmp_path / "given_outputs.py").write_text(OUTPUTS)
    program = str(tmp_path / "net.pt2")
    ignorant = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    knowing = ignorant | {"PYTHONPATH": os.pathsep.join([str(tmp_path), ignorant["PYTHONPATH"]])}
    subprocess.run([sys.executable, "-c", EXPORTED, program], check=True, env=knowing)

    done = subprocess.run(
        [sys.executable, "-c", CONVERTED, program, str(tmp_path)], env=ignorant, capture_output=True, check=True
    )

    assert b"The program returns a given_outputs.Outputs" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    (outputs,) = onnxruntime.InferenceSession(done.stdout).run(None, {"inputs": np.ones(2, np.float32)})
    assert outputs.tolist() == [2, 2]


def test_what_was_kept_otherwise_names_the_forms_that_there_are():
    other = Kept(b"")
    other.native = lambda _: None
    with pytest.raises(UsageError, match="It can be exported to pt2, json."):
        write(other, BytesIO())
    assert module.__all__ == ["write"]
