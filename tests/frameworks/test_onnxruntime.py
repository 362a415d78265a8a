import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from dnnamo.errors import LoaderError, ModelError, Unsupported, WeightsError
from dnnamo.model import StepClock, capabilities
from dnnamo.profiles.build import profile_of
from dnnamo.profiles.readers import read

if "CI" not in os.environ:
    pytest.importorskip("onnxruntime")

import onnx
from onnx import TensorProto, helper

from dnnamo.frameworks import onnxruntime as framework
from dnnamo.frameworks.onnxruntime import OnnxModel, intermediates, sessions, sources
from tests.frameworks.onnx_models import convolution, embedding, model_of, perceptron, values

QUIET = """
import os
os.environ.pop("CI", None)  # in which it is silent by itself
import dnnamo.frameworks.onnxruntime
print(len(os.listdir("/proc/self/task")))
"""

POOL = """
import os, sys
from dnnamo.frameworks import onnxruntime
from tests.frameworks.onnx_models import perceptron
model = onnxruntime.OnnxModel(perceptron())
onnxruntime.set_threads(int(sys.argv[1]))
before = len(os.listdir("/proc/self/task"))
model.run_inference()
print(len(os.listdir("/proc/self/task")) - before)
"""


def run(program: str, *args: str) -> subprocess.CompletedProcess[str]:
    single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *args],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | single,
        cwd=Path(__file__).parents[2],
    )


@pytest.fixture
def model() -> OnnxModel:
    return OnnxModel(perceptron(), batch=4)


@pytest.fixture
def path(tmp_path) -> Path:
    """A file whose weights lie beside it."""
    path = tmp_path / "model.onnx"
    onnx.save_model(perceptron(), path, save_as_external_data=True, location="model.data", size_threshold=64)
    return path


def reference(x: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    hidden = np.maximum(x @ weights["first.weight"] + weights["first.bias"], 0)
    return hidden @ weights["last.weight"]


def test_it_implements_what_an_inference_runtime_can(model):
    able = capabilities(model)

    assert {"get_inference_graph", "get_weights", "set_weights", "run_inference", "profile_inference"} <= set(able)
    assert not any("training" in method for method in able)
    with pytest.raises(Unsupported, match="OnnxModel does not implement run_training"):
        model.run_training()


def test_it_computes_what_the_graph_says_and_marks_each_step(model):
    with StepClock() as clock:
        outputs = model.run_inference(3)

    expected = reference(model._batch()["x"], model.get_weights())
    assert [output.shape for output in outputs] == [(4, 3)] * 3
    assert all(np.allclose(output, expected, atol=1e-5) for output in outputs)
    assert len(clock.duration_ns) == 3


def test_a_model_is_the_same_from_a_path_bytes_or_memory(path):
    made = perceptron()
    wanted = OnnxModel(made, batch=2).run_inference()[0]

    for given in (path, str(path), made.SerializeToString()):
        assert np.array_equal(OnnxModel(given, batch=2).run_inference()[0], wanted)


def test_several_outputs_are_a_tuple_and_other_dimensions_have_names():
    features, mean = OnnxModel(convolution(), batch=2, dims={"height": 8, "width": 6}).run_inference()[0]

    assert (features.shape, mean.shape) == ((2, 4, 6, 4), (2, 4, 1, 1))


def test_whole_numbers_that_choose_rows_of_a_weight_are_drawn_from_all_of_them():
    model = OnnxModel(embedding(words=50), batch=8, dims={"length": 32})
    batch = model._batch()

    assert batch["ids"].dtype == np.int64
    assert 40 < batch["ids"].max() < 50
    assert batch["mask"].dtype == np.bool_
    assert set(batch["mask"].ravel().tolist()) == {False, True}
    assert model.run_inference()[0].shape == (8, 32, 2)


@pytest.mark.parametrize(
    "batch",
    [
        {"x": values(2, 6)},
        (values(2, 6),),
        [values(2, 6)],
        values(2, 6),
        (values(2, 6), np.zeros(2)),
        ({"x": values(2, 6)}, None),
    ],
    ids=["dict", "tuple", "list", "one", "one with targets", "dict with targets"],
)
def test_a_batch_may_be_given_in_several_ways(batch):
    calls = []
    model = OnnxModel(perceptron(), lambda: calls.append(1) or batch)

    assert model.run_inference(2)[1].shape == (2, 3)
    assert len(calls) == 2, "one batch a step"


def test_a_tuple_of_two_is_two_inputs_where_the_model_takes_two():
    ids, mask = np.array([[1, 2]]), np.ones((1, 2), np.bool_)

    for batch in ((ids, mask), [ids, mask], ((ids, mask), None), ({"mask": mask, "ids": ids}, None)):
        assert OnnxModel(embedding(), lambda batch=batch: batch).run_inference()[0].shape == (1, 2, 2)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ((1, 2, 3), "returned 3 values, and the model takes 1: x float32 ['batch', 6]"),
        (values(2, 7), "Got invalid dimensions for input: x"),
        (values(2, 6).astype(np.float64), "Unexpected input data type"),
        ({"z": values(2, 6)}, "Required inputs (['x']) are missing"),
    ],
)
def test_a_batch_that_does_not_fit_says_what_would(batch, words):
    with pytest.raises(ModelError) as caught:
        OnnxModel(perceptron(), lambda: batch).run_inference()

    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "x" in str(caught.value).split("takes")[-1]


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (perceptron, {"dims": {"btch": 2}}, "no dimension open that is called btch. It leaves open: batch"),
        (perceptron, {"batch": 0}, "batch is 0; it must be a whole number of at least 1"),
        (convolution, {"dims": {"height": "8"}}, "height is '8'; it must be a whole number"),
    ],
)
def test_wrong_sizes_are_refused_at_once(make, options, words):
    with pytest.raises(LoaderError, match=words):
        OnnxModel(make(), **options)


def test_a_batch_size_that_the_file_fixes_is_not_another_one():
    node = helper.make_node("Relu", ["x"], ["y"])
    fixed = model_of([node], [("x", TensorProto.FLOAT, [2, 3])], [("y", TensorProto.FLOAT, [2, 3])], {})

    assert OnnxModel(fixed, batch=2).run_inference()[0].shape == (2, 3)
    with pytest.raises(LoaderError, match=r"batch is 8, and the file fixes the first dimension .* float32 \[2, 3\]"):
        OnnxModel(fixed, batch=8)


def test_a_dimension_called_batch_need_not_be_the_first():
    node = helper.make_node("Relu", ["x"], ["y"])
    shape = ["time", "batch"]
    late = model_of([node], [("x", TensorProto.FLOAT, shape)], [("y", TensorProto.FLOAT, shape)], {})

    assert OnnxModel(late, batch=3, dims={"time": 5}).run_inference()[0].shape == (5, 3)


def test_a_size_that_nothing_says_is_asked_for_by_its_name():
    with pytest.raises(LoaderError, match=r"image float32 \['N', 1, 'height', 'width'\] open.*-p height=… -p width=…"):
        OnnxModel(convolution()).run_inference()


def test_an_input_of_texts_needs_data():
    node = helper.make_node("Identity", ["x"], ["y"])
    texts = model_of([node], [("x", TensorProto.STRING, [1])], [("y", TensorProto.STRING, [1])], {})

    with pytest.raises(LoaderError, match="input x is no array of numbers"):
        OnnxModel(texts).run_inference()


def test_weights_go_round_exactly_and_reach_the_session(model):
    before, weights = model.run_inference()[0], model.get_weights()
    changed = weights | {"last.weight": weights["last.weight"] * 2}

    model.set_weights({"last.weight": changed["last.weight"]})

    assert np.allclose(model.run_inference()[0], reference(model._batch()["x"], changed), atol=1e-5)
    assert not np.array_equal(model.run_inference()[0], before)
    again = model.get_weights()
    assert again.keys() == weights.keys()
    assert all(
        np.array_equal(again[name], changed[name]) and again[name].dtype == changed[name].dtype for name in again
    )


def test_only_the_asked_weights_come(path):
    assert list(OnnxModel(path).get_weights(["first.bias"])) == ["first.bias"]
    with pytest.raises(WeightsError, match=r"no weights named 'first.bia' \(the nearest is 'first.bias'\)"):
        OnnxModel(path).get_weights(["first.bia"])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"last.weight": np.zeros((3, 3))}, r"last.weight has shape \[3, 3\], the model's is \[8, 3\]"),
        ({"nothing": np.zeros(3)}, "no weights named 'nothing'"),
        ({"last.weight": np.full((8, 3), "a")}, "last.weight is of type <U1, which cannot become float32"),
        ({"shape": np.array([-5, 3])}, "With these weights the model does not run"),
    ],
)
def test_a_failed_set_changes_nothing(model, wrong, words):
    before, outputs = model.get_weights(), model.run_inference()[0]

    with pytest.raises(WeightsError, match=words):
        model.set_weights({"first.bias": np.ones(8, np.float32), **wrong})

    assert all(np.array_equal(array, before[name]) for name, array in model.get_weights().items())
    assert np.array_equal(model.run_inference()[0], outputs)


@pytest.mark.parametrize(("kind", "name"), [("BFLOAT16", "bfloat16"), ("FLOAT8E5M2", "float8_e5m2"), ("INT4", "int8")])
def test_types_that_numpy_does_not_have_go_round_exactly(kind, name):
    node = helper.make_node("Cast", ["w"], ["y"], to=TensorProto.FLOAT)
    brief = model_of([node], [], [("y", TensorProto.FLOAT, [3])], {"w": values(3)})
    brief.opset_import[0].version = 21
    brief.graph.initializer[0].CopyFrom(helper.make_tensor("w", getattr(TensorProto, kind), [3], [3, 1, -2]))
    model = OnnxModel(brief)

    arrays = model.get_weights()
    model.set_weights({"w": np.flip(arrays["w"])})

    assert arrays["w"].dtype.name == name
    assert arrays["w"].astype(np.float32).tolist() == [3.0, 1.0, -2.0]
    assert model.get_inference_graph().graph.initializer[0].data_type == getattr(TensorProto, kind)
    assert model.run_inference()[0].tolist() == [-2.0, 1.0, 3.0]


def test_a_model_of_a_path_is_a_graph_with_its_weights(path):
    model = OnnxModel(path)
    name, content = framework.graph_file(model.get_inference_graph())

    assert name == "graph.onnx"
    assert np.array_equal(OnnxModel(content).get_weights()["last.weight"], model.get_weights()["last.weight"]), (
        "on its own"
    )


def test_the_neutral_graph_has_operations_weights_and_inferred_shapes():
    graph = framework.graph_of(perceptron())

    assert [(op.name, op.kind, op.layer) for op in graph.operations] == [
        ("/first/Gemm", "Gemm", "first"),
        ("/Relu", "Relu", None),
        ("/last/MatMul", "MatMul", "last"),
        ("/last/Reshape", "Reshape", "last"),
    ]
    tensors = {tensor.name: tensor for tensor in graph.tensors}
    assert tensors["first.weight"].role == "weight"
    assert tensors["shape"].role == "constant"
    assert (tensors["b"].dtype, tensors["b"].shape) == ("float32", ["batch", 8])
    assert [graph.tensors[number].name for number in (*graph.inputs, *graph.outputs)] == ["x", "y"]
    assert (graph.source, graph.notes) == ("onnx", [])


def test_what_a_branch_takes_from_around_it_is_an_input_of_the_branch():
    branches = {}
    for name, op in (("then_branch", "Relu"), ("else_branch", "Neg")):
        out = helper.make_tensor_value_info(op, TensorProto.FLOAT, [2])
        branches[name] = helper.make_graph([helper.make_node(op, ["x"], [op])], name, [], [out])
    node = helper.make_node("If", ["which"], ["y"], name="if", **branches)
    inputs = [("which", TensorProto.BOOL, []), ("x", TensorProto.FLOAT, [2])]

    graph = framework.graph_of(model_of([node], inputs, [("y", TensorProto.FLOAT, [2])], {}))

    (operation,) = graph.operations
    assert [graph.tensors[number].name for number in operation.inputs] == ["which", "x"]
    assert "not drawn" in graph.notes[0]


def test_the_arrays_within_are_those_of_the_graph_in_its_order(model):
    before, weights = model.run_inference()[0], model.get_weights()

    found = model.get_intermediates()

    assert list(found) == ["a", "b", "c", "y"]
    x = model._batch()["x"]
    assert np.allclose(found["a"], x @ weights["first.weight"] + weights["first.bias"], atol=1e-5)
    assert np.allclose(found["y"], before, atol=1e-5)
    assert np.array_equal(model.run_inference()[0], before)


@pytest.mark.parametrize(
    ("keys", "names"), [(["b"], ["b"]), (["[bc]"], ["b", "c"]), (["y", "a"], ["y", "a"]), (["?"], ["a", "b", "c", "y"])]
)
def test_arrays_within_are_chosen_by_name_or_pattern(keys, names, model):
    assert list(model.get_intermediates(keys)) == names


def test_a_key_that_stands_for_no_array_is_an_error(model):
    with pytest.raises(LookupError, match="No operation of the model makes a tensor 'z'"):
        model.get_intermediates(["a", "z"])


@pytest.mark.parametrize("room", [1, 300, 2**27])
def test_arrays_within_are_received_one_by_one_in_bounded_memory(room, path, monkeypatch):
    monkeypatch.setattr(intermediates, "AT_ONCE_BYTES", room)
    made = []
    monkeypatch.setattr(intermediates, "make_session", lambda *given, **more: made.append(1) or make(*given, **more))
    make = sessions.make_session
    model, received = OnnxModel(path, batch=4), []

    assert model.get_intermediates(receive=lambda name, array: received.append((name, array.shape))) == {}

    assert received == [("a", (4, 8)), ("b", (4, 8)), ("c", (4, 3)), ("y", (4, 3))]
    assert len(made) == {1: 4, 300: 2, 2**27: 1}[room]  # of 128, 128, 48 and 48 bytes


def test_arrays_within_are_there_when_shapes_are_known_only_as_it_runs():
    nodes = [
        helper.make_node("NonZero", ["x"], ["where"], name="where"),
        helper.make_node("Transpose", ["where"], ["y"], name="turn"),
    ]
    made = model_of(nodes, [("x", TensorProto.FLOAT, ["n"])], [("y", TensorProto.INT64, ["found", 1])], {})

    found = OnnxModel(made, lambda: np.array([0, 1, 2], np.float32)).get_intermediates()

    assert found["where"].tolist() == [[1, 2]]
    assert found["y"].tolist() == [[1], [2]]


def test_a_profile_is_cut_into_the_marked_steps():
    model = OnnxModel(perceptron(features=512, hidden=1024), batch=32)
    with StepClock() as clock:
        profile, events = profile_of(read(model.profile_inference(3)))

    assert len(clock.duration_ns) == 3
    assert (profile.source, profile.verdict) == ("onnxruntime", "ok"), profile.reasons
    assert [step.number for step in profile.steps] == [0, 1, 2]
    calls = {row.name: row.calls for row in profile.operations["name"]}
    assert sum(calls.values()) > 0
    assert all(count % 3 == 0 for count in calls.values()), calls
    layers = {row.name for row in profile.operations["layer"]}
    assert {"first", "last"} <= layers
    assert not events.category.equal("Session").all()


def test_a_profile_leaves_no_file_behind(model, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    model.profile_inference()

    assert list(tmp_path.iterdir()) == []


def test_layers_are_those_that_the_exporter_noted():
    made = perceptron()
    for node in made.graph.node:
        node.name = node.name.replace("/", "_")
        entry = node.metadata_props.add()
        entry.key, entry.value = "pkg.torch.onnx.name_scopes", "['', 'net', 'net.first', 'linear']"

    profile, _ = profile_of(read(OnnxModel(made, batch=4).profile_inference(2)))

    rows = {row.name: row for row in profile.operations["layer"]}
    assert rows["net"].total_ns == rows["net.first"].total_ns
    assert {op.layer for op in framework.graph_of(made).operations} == {"net.first"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """demo:cnn as PyTorch's exporter writes it."""
    if "CI" not in os.environ:
        pytest.importorskip("onnxscript")
    import torch

    from dnnamo.loaders.demos.pytorch import cnn

    path = tmp_path_factory.mktemp("exported") / "cnn.onnx"
    network, images = cnn(batch=2)._module.eval(), (torch.ones(2, 1, 28, 28),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the exporter has to say of PyTorch's own parts
        torch.onnx.export(network, images, path, dynamo=True, verbose=False, dynamic_shapes=({0: "batch"},))
    return path


def test_what_pytorch_exported_computes_the_same(exported):
    import torch

    from dnnamo.loaders.demos.pytorch import cnn

    images = values(3, 1, 28, 28)
    with torch.no_grad():
        wanted = cnn(batch=2)._module.eval()(torch.from_numpy(images)).numpy()

    assert np.allclose(OnnxModel(exported, lambda: images).run_inference()[0], wanted, atol=1e-4)


def test_what_pytorch_exported_has_its_modules_as_layers(exported):
    model = OnnxModel(exported, batch=2)
    profile, _ = profile_of(read(model.profile_inference(2)))

    modules = {row.name.partition("/")[0] for row in profile.operations["layer"]}
    assert {"2", "3", "5", "6", "8"} <= modules, "activations with what is fused into them, pools and the last layer"
    assert {"2", "3", "5", "6", "8"} <= {
        operation.layer for operation in framework.graph_of(model.get_inference_graph()).operations
    }
    assert {"0.weight", "4.weight", "8.weight"} <= set(model.get_weights())


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 64], ids=["empty", "text", "zeros"])
def test_what_is_no_onnx_file_says_so(content, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)

    with pytest.raises(LoaderError, match=f"The file {path} is no ONNX model"):
        OnnxModel(path)


def test_a_file_cut_short_says_so(path):
    path.write_bytes(path.read_bytes()[:-20])

    with pytest.raises(LoaderError, match="is no ONNX model: it is something else, or was cut short"):
        OnnxModel(path)


def test_weights_that_are_missing_or_cut_short_are_named(path):
    data = path.parent / "model.data"
    content = data.read_bytes()
    data.write_bytes(content[:-1])
    with pytest.raises(LoaderError, match=rf"The weight \S+ of the ONNX model {path} .* which has [\d,]+ of the"):
        OnnxModel(path)
    data.unlink()
    with pytest.raises(LoaderError, match="model.data, which is not there"):
        OnnxModel(path)
    with pytest.raises(LoaderError, match="the model was given without its folder"):
        OnnxModel(path.read_bytes())


@pytest.mark.parametrize("how", ["path", "link"])
def test_weights_outside_of_the_folder_are_not_read(how, path, tmp_path):
    outside = tmp_path / "model.data"
    folder = tmp_path / "inner"
    folder.mkdir()
    model = onnx.load_model(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "../model.data" if how == "path" and entry.key == "location" else entry.value
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    if how == "link":
        (folder / "model.data").symlink_to(outside)

    with pytest.raises(LoaderError, match="which leads out of the model's folder"):
        OnnxModel(folder / "model.onnx")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda made: setattr(made.opset_import[0], "version", 999), "Opset 999"),
        (lambda made: setattr(made, "ir_version", 999), "IR version: 999"),
        (lambda made: setattr(made.graph.node[1], "op_type", "Rellu"), "Rellu"),
    ],
    ids=["opset", "ir", "operation"],
)
def test_what_onnx_runtime_does_not_know_is_one_clear_paragraph(change, words):
    made = perceptron()
    change(made)

    with pytest.raises(LoaderError, match=f"ONNX Runtime .* cannot run the ONNX model: .*{words}") as caught:
        OnnxModel(made).run_inference()

    assert "\n" not in str(caught.value)


def test_memory_that_runs_out_is_told_apart():
    node = helper.make_node("Expand", ["x", "size"], ["y"])
    inputs = [("x", TensorProto.FLOAT, [1]), ("size", TensorProto.INT64, [1])]
    model = OnnxModel(
        model_of([node], inputs, [("y", TensorProto.FLOAT, ["n"])], {}),
        lambda: {"x": np.ones(1, np.float32), "size": np.array([10**13])},
    )

    with pytest.raises(MemoryError, match="Failed to allocate memory"):
        model.run_inference()


def test_a_model_too_large_for_one_file_is_run_from_a_folder(monkeypatch):
    monkeypatch.setattr(sources, "LARGEST_BYTES", 100)
    model = OnnxModel(perceptron(), batch=2)

    model.set_weights({"first.bias": np.zeros(8)})

    assert model.run_inference()[0].shape == (2, 3)
    assert model.get_weights()["first.bias"].tolist() == [0] * 8


def test_anything_else_is_refused():
    with pytest.raises(LoaderError, match="takes the path of an ONNX file, its bytes or an onnx.ModelProto; .* a int"):
        OnnxModel(3)


@pytest.mark.parametrize("count", [1, 3])
def test_a_session_computes_with_the_threads_that_were_set_before(count):
    done = run(POOL, str(count))

    assert (done.stdout.strip(), done.stderr) == (str(count - 1), "")  # the calling thread is one of them


def test_onnx_runtime_tells_nobody_of_what_it_runs():
    done = run(QUIET)

    assert (done.stdout.strip(), done.stderr) == ("1", ""), "no thread that could"


def test_a_gpu_is_used_where_there_is_one(monkeypatch):
    monkeypatch.setattr(sessions.onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(Unsupported, match="onnxruntime-gpu"):
        framework.check_device("gpu")

    monkeypatch.setattr(sessions, "_sees_a_gpu", lambda: True)
    framework.check_device("gpu")
    model = OnnxModel(perceptron())
    with (
        pytest.warns(UserWarning, match="CUDA"),
        pytest.raises(Unsupported, match="CUDAExecutionProvider does not start"),
    ):
        model.run_inference()
