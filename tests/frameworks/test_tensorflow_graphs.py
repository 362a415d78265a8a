import os
from collections import Counter

import numpy as np
import pytest

if "CI" not in os.environ:
    pytest.importorskip("tensorflow")

import keras
import tensorflow as tf

from dnnamo.frameworks.tensorflow import KerasModel, graph_file, graph_of
from dnnamo.graphs.summary import depth_of, kinds, layers, summarise
from dnnamo.loaders.demos import tensorflow as demos
from dnnamo.profiles.build import profile_of
from dnnamo.profiles.readers import read

DEMOS = {"keras_mlp": demos.keras_mlp, "keras_cnn": demos.keras_cnn}


@tf.function
def product(inputs, weights):
    return tf.matmul(inputs, weights) + 1.0


@tf.function(input_signature=[tf.TensorSpec([None, 4])])
def branches_and_loops(inputs):
    weights = tf.ones([4, 4])
    for _ in tf.range(3):
        inputs = product(inputs, weights)
    if tf.reduce_sum(inputs) > 0:
        inputs = tf.sin(inputs)
    return product(inputs, weights)


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("name", DEMOS)
def test_the_graph_of_a_step_loses_no_operation(name, mode):
    model = DEMOS[name]()
    native = getattr(model, f"get_{mode}_graph")()
    graph = graph_of(native)

    types = Counter(it.type for it in native.get_operations())
    assert kinds(graph) == {kind: count for kind, count in types.items() if kind not in ("Placeholder", "Const")}
    roles = Counter(it.role for it in graph.tensors)
    assert roles["constant"] == types["Const"]
    assert roles["input"] + roles["weight"] + roles["state"] == types["Placeholder"]
    weights = {it.name: it for it in graph.tensors if it.role == "weight"}
    arrays = model.get_weights()
    assert {key: (it.shape, it.bytes) for key, it in weights.items()} == {
        key: (list(array.shape), array.nbytes) for key, array in arrays.items()
    }
    assert summarise(graph).weight_elements == sum(array.size for array in arrays.values())
    assert [graph.tensors[number].name for number in graph.inputs] == ["inputs", "targets"][: len(graph.inputs)]
    assert len(graph.inputs) == len(graph.outputs) == (1 if mode == "inference" else 2)
    assert (roles["state"] > 0) == (mode == "training")
    assert depth_of(graph) is not None
    assert (graph.source, graph.notes) == ("graphdef", [])


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("name", DEMOS)
def test_layers_are_those_of_a_profile(name, mode):
    # Each in a model of its own, as in jobs of their own: TensorFlow counts the names up that it gave before.
    profile, _ = profile_of(read(getattr(DEMOS[name](), f"profile_{mode}")()))
    model = DEMOS[name]()  # its graph does not keep its variables
    graph = graph_of(getattr(model, f"get_{mode}_graph")())

    profiled = {row.name for row in profile.operations["layer"] if row.calls and row.name}
    # What TensorFlow's optimiser makes of some of them stands in scopes of its own making.
    assert len(profiled & {it.layer for it in layers(graph)}) > len(profiled) / 2


def test_calls_are_replaced_and_the_bodies_of_branches_and_loops_are_shown():
    graph = graph_of(branches_and_loops.get_concrete_function())

    by_name = {it.name: it for it in graph.operations}
    assert "PartitionedCall" not in kinds(graph)
    assert kinds(graph)["MatMul"] == 2
    inner, outer = by_name["while/body/while/PartitionedCall/MatMul"], by_name["PartitionedCall/MatMul"]
    assert (inner.layer, outer.layer) == ("while/body/while/PartitionedCall", "PartitionedCall")
    assert [graph.tensors[number].name for number in inner.inputs] == ["inputs", "ones"]
    assert outer.inputs[0] in by_name["cond/Identity"].outputs
    assert by_name["cond/then_branch/cond/Sin"].inputs == by_name["while"].outputs[3:4]
    assert set(by_name["while/body/while/PartitionedCall/Identity"].outputs) <= {
        number for it in graph.operations if it.name.startswith("while/body") for number in it.inputs
    }
    assert [graph.tensors[number].shape for number in (*graph.inputs, *graph.outputs)] == [[None, 4]] * 2
    assert depth_of(graph) is not None


def test_a_function_a_graph_and_a_definition_are_the_same_graph():
    function = branches_and_loops.get_concrete_function()
    graph, of_graph = graph_of(function), graph_of(function.graph)
    definition = tf.compat.v1.GraphDef.FromString(graph_file(function)[1])
    of_definition = graph_of(definition)

    assert graph == of_graph
    assert of_definition.operations == graph.operations
    assert [it.name for it in of_definition.tensors] == [it.name for it in graph.tensors]
    assert of_definition.outputs == []
    assert "does not say what a step returns" in of_definition.notes[0]


def test_variables_and_loops_of_tensorflow_1_are_told():
    with tf.Graph().as_default() as native:
        given = tf.compat.v1.placeholder(tf.float32, [None, 2], name="given")
        handle = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[2, 3], shared_name="kernel", name="variable")
        read_back = tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32)
        tf.compat.v1.disable_control_flow_v2()
        try:
            tf.compat.v1.while_loop(lambda x: tf.reduce_sum(x) < 9.0, lambda x: x + 1.0, [given @ read_back])
        finally:
            tf.compat.v1.enable_control_flow_v2()
    graph = graph_of(native)

    (weight,) = (it for it in graph.tensors if it.role == "weight")
    assert (weight.name, weight.shape, weight.dtype) == ("kernel", [2, 3], "float32")
    assert [graph.tensors[number].name for number in graph.inputs] == ["given"]
    assert "NextIteration" in kinds(graph)
    assert depth_of(graph) is None


def test_a_function_that_is_missing_is_said():
    definition = branches_and_loops.get_concrete_function().graph.as_graph_def()
    (missing,) = (it for it in definition.library.function if "product" in it.signature.name)
    definition.library.function.remove(missing)
    graph = graph_of(definition)

    body, called, _ = graph.notes
    assert "while_body" in body
    assert "was not found" in body
    assert called.startswith(f"The operations of the function {missing.signature.name} are not among these: it is not")
    assert (kinds(graph)["PartitionedCall"], kinds(graph)["StatelessWhile"]) == (1, 1)


def test_variables_of_a_graph_that_is_not_of_a_model_go_by_their_own_names():
    variable = tf.Variable(tf.ones([2, 3]), name="kernel")
    outside = tf.ones([2, 2])
    function = tf.function(lambda x: x @ outside @ variable).get_concrete_function(tf.TensorSpec([1, 2]))
    graph = graph_of(function)

    assert [(it.name, it.role, it.shape) for it in graph.tensors if it.role in ("weight", "constant")] == [
        (graph.tensors[graph.operations[0].inputs[1]].name, "constant", [2, 2]),
        ("kernel", "weight", [2, 3]),
    ]


def test_a_layer_that_draws_numbers_has_state_that_is_no_weight():
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(3)])
    model = KerasModel(network, lambda: (np.ones((4, 4), np.float32), np.arange(4) % 3))
    graph = graph_of(model.get_training_graph())

    assert {it.name for it in graph.tensors if it.role == "weight"} == set(model.get_weights())
    assert any("seed" in it.name for it in graph.tensors if it.role == "state")


def test_what_is_no_graph_is_left_to_others():
    assert graph_of(keras.layers.Dense(1)) is None
