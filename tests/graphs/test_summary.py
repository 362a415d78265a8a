from msgspec.structs import replace

from dnnamo.graphs import Graph, GraphOperation
from dnnamo.graphs.summary import LayerCount, depth_of, kinds, layers, summarise
from tests.graphs.drawn import GRAPH


def test_figures_of_a_graph():
    assert summarise(GRAPH).to_dict() == {
        "source": "torch_export",
        "operations": 5,
        "tensors": 7,
        "edges": 13,
        "layers": 3,
        "depth": 4,
        "weights": 1,
        "weight_elements": 64,
        "weight_bytes": 128,
        "notes": ["It is drawn by hand."],
    }


def test_kinds_are_counted_the_most_frequent_first():
    assert list(kinds(GRAPH).items()) == [
        ("aten.mul.Tensor", 2),
        ("aten._assert.default", 1),
        ("aten.linear.default", 1),
        ("aten.split.Tensor", 1),
    ]


def test_layers_have_their_own_operations_and_the_weights_that_these_take():
    weight = {"weights": 1, "weight_elements": 64, "weight_bytes": 128}
    nothing = dict.fromkeys(weight, 0)
    assert layers(GRAPH) == [
        LayerCount(layer="first", operations=1, **weight),
        LayerCount(layer="Net", operations=1, **nothing),
        LayerCount(layer="second", operations=1, **weight),
        LayerCount(layer="", operations=2, **nothing),
    ]


def test_depth_is_found_in_whatever_order_the_operations_are():
    backwards = [replace(it, number=number) for number, it in enumerate(reversed(GRAPH.operations))]
    assert depth_of(replace(GRAPH, operations=backwards)) == 4


def test_a_circle_has_no_depth_and_nothing_has_none():
    circle = [
        GraphOperation(number=0, name="a", kind="k", inputs=[3, 1], outputs=[2]),
        GraphOperation(number=1, name="b", kind="k", inputs=[2], outputs=[3]),
    ]
    assert depth_of(replace(GRAPH, operations=circle)) is None
    assert depth_of(Graph(source="mine", operations=[], tensors=[])) == 0
