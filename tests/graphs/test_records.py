import pytest

from dnnamo.errors import ModelError, UsageError
from dnnamo.graphs import Graph, GraphOperation, GraphTensor
from dnnamo.graphs.build import MAX_OPERATIONS, Builder


def tensors(count: int) -> list[GraphTensor]:
    return [GraphTensor(number=number, name=f"t{number}") for number in range(count)]


@pytest.mark.parametrize(
    ("dtype", "shape", "elements", "size"),
    [
        ("float32", [2, 3], 6, 24),
        ("bfloat16", [5], 5, 10),
        ("float8_e4m3fn", [5], 5, 5),
        ("int4", [3], 3, 2),
        ("complex128", [], 1, 16),
        ("bool", [7], 7, 7),
        ("uint8", [0, 9], 0, 0),
        ("string", [2], 2, None),
        (None, [2], 2, None),
        ("float32", ["s0", 2], None, None),
        ("float32", [None], None, None),
        ("float32", None, None, None),
    ],
)
def test_the_size_of_a_tensor_follows_from_shape_and_type(dtype, shape, elements, size):
    tensor = GraphTensor(number=0, name="t", dtype=dtype, shape=shape)
    assert (tensor.elements, tensor.bytes) == (elements, size)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tensors": [GraphTensor(number=1, name="t")]}, "Tensor 't' has number 1; its place is 0."),
        ({"operations": [GraphOperation(number=3, name="o", kind="k")]}, "Operation 'o' has number 3; its place is 0."),
        ({"inputs": [1]}, "The graph names tensor 1; the graph's tensors are 0 to 0."),
        ({"outputs": [-1]}, "The graph names tensor -1"),
        (
            {"operations": [GraphOperation(number=0, name="o", kind="k", inputs=[0, 7])]},
            "Operation 'o' names tensor 7",
        ),
        (
            {"operations": [GraphOperation(number=n, name=f"o{n}", kind="k", outputs=[0]) for n in range(2)]},
            "Operation 'o1' makes tensor 0, which another one makes.",
        ),
    ],
)
def test_a_graph_that_does_not_hang_together_is_refused(changes, says):
    given = {"source": "mine", "operations": [], "tensors": tensors(1)} | changes
    with pytest.raises(UsageError) as caught:
        Graph(**given)
    assert says in str(caught.value)


def test_what_an_operation_made_and_the_graph_returns_is_an_output():
    builder = Builder()
    given, made = builder.tensor("x", role="input", dtype="int64", shape=()), builder.tensor("y")
    builder.operation("o", kind="k", inputs=[given], outputs=[made])
    for _ in range(2):
        builder.note("So.")
    graph = builder.graph("mine", inputs=[given], outputs=[made, given])

    assert [tensor.role for tensor in graph.tensors] == ["input", "output"]
    assert (graph.outputs, graph.notes, graph.tensors[0].shape) == ([1, 0], ["So."], [])


def test_a_graph_has_an_end(monkeypatch):
    monkeypatch.setattr("dnnamo.graphs.build.MAX_OPERATIONS", 2)
    builder = Builder()
    for number in range(2):
        builder.operation(str(number), kind="k", inputs=[], outputs=[])
    with pytest.raises(ModelError, match="more than 2 operations"):
        builder.operation("third", kind="k", inputs=[], outputs=[])
    assert MAX_OPERATIONS > 100_000
