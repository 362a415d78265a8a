"""The files beside an ONNX file are found without ONNX, as ONNX finds them."""

import os
from pathlib import Path

import numpy as np
import pytest

from dnnamo.loaders import place_of
from dnnamo.loaders.zoo.onnx import companions
from dnnamo.loaders.zoo.onnx_weights import other_files

if "CI" not in os.environ:
    pytest.importorskip("onnx")

import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.frameworks.onnx_models import perceptron, values


def outside(name: str, location: str) -> onnx.TensorProto:
    tensor = numpy_helper.from_array(values(2, 2), name)
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    return tensor


@pytest.fixture
def branched(tmp_path) -> Path:
    """Weights in the graph, in a constant, and in a constant of a branch, each in a file of its own."""
    branches = {}
    for name in ("then_branch", "else_branch"):
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2])
        constant = helper.make_node("Constant", [], [name], value=outside("c", f"{name}.bin"))
        branches[name] = helper.make_graph([constant], name, [], [out])
    nodes = [
        helper.make_node("Constant", [], ["k"], value=outside("k", "deep/constant.bin")),
        helper.make_node("If", ["which"], ["branch"], **branches),
        helper.make_node("Sum", ["branch", "k", "w"], ["y"]),
    ]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 2])
    which = helper.make_tensor_value_info("which", TensorProto.BOOL, [])
    made = helper.make_model(helper.make_graph(nodes, "given", [which], [out], [outside("w", "weights.bin")]))
    path = tmp_path / "branched.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def test_every_file_is_found_wherever_the_weight_stands(branched):
    assert set(other_files(branched)) == {"weights.bin", "deep/constant.bin", "then_branch.bin", "else_branch.bin"}
    assert companions(str(branched)) == ["deep", "else_branch.bin", "then_branch.bin", "weights.bin"]


def test_a_file_with_all_its_weights_has_no_others(tmp_path):
    made = perceptron()
    made.graph.initializer.append(numpy_helper.from_array(np.array(["location", "x"], object), "texts"))
    (tmp_path / "whole.onnx").write_bytes(made.SerializeToString())

    assert other_files(tmp_path / "whole.onnx") == []


def test_what_a_job_needs_of_a_folder_is_the_file_and_what_it_names(branched):
    place = place_of(f"onnx:{branched}")

    assert (place.folder, place.entry, place.is_code) == (branched.parent, "branched.onnx", False)
    assert place.only == ("branched.onnx", "deep", "else_branch.bin", "then_branch.bin", "weights.bin")


@pytest.mark.parametrize("location", ["/etc/passwd", "../above.bin", "in/../../above.bin", ""])
def test_what_is_not_below_the_folder_is_never_taken_along(location, tmp_path):
    made = perceptron()
    made.graph.initializer[0].CopyFrom(outside("first.weight", location))
    (tmp_path / "odd.onnx").write_bytes(made.SerializeToString())

    assert companions(str(tmp_path / "odd.onnx")) == []


@pytest.mark.parametrize("content", [b"", b"hello, world", b"\xff" * 40, b"\x3a\xff\xff\xff\xff\x7f", b"\0" * 9])
def test_what_is_no_onnx_file_names_none(content, tmp_path):
    (tmp_path / "odd.onnx").write_bytes(content)

    assert other_files(tmp_path / "odd.onnx") == []


def test_a_file_cut_short_anywhere_raises_nothing(branched, tmp_path):
    content = branched.read_bytes()
    for length in range(0, len(content), 7):
        (tmp_path / "cut.onnx").write_bytes(content[:length])
        assert set(other_files(tmp_path / "cut.onnx")) <= set(other_files(branched))
