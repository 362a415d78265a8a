"""A small graph that the tests of graphs share: two layers, a weight that both take, and a branch."""

from dnnamo.graphs import Graph, GraphOperation, GraphTensor

__all__ = ["GRAPH"]

GRAPH = Graph(
    source="torch_export",
    operations=[
        GraphOperation(number=0, name="linear", kind="aten.linear.default", layer="first", inputs=[0, 1], outputs=[2]),
        GraphOperation(number=1, name="split", kind="aten.split.Tensor", layer="Net", inputs=[2], outputs=[3, 4]),
        GraphOperation(number=2, name="mul", kind="aten.mul.Tensor", layer="second", inputs=[3, 3, 1], outputs=[5]),
        GraphOperation(number=3, name="add", kind="aten.mul.Tensor", inputs=[5, 4], outputs=[6]),
        GraphOperation(number=4, name="check", kind="aten._assert.default", inputs=[], outputs=[]),
    ],
    tensors=[
        GraphTensor(number=0, name="x", role="input", dtype="float32", shape=["s0", 8]),
        GraphTensor(number=1, name="weight", role="weight", dtype="bfloat16", shape=[8, 8]),
        GraphTensor(number=2, name="linear", dtype="float32", shape=[None, 8]),
        GraphTensor(number=3, name="split:0", dtype="float32", shape=[2, 8]),
        GraphTensor(number=4, name="split:1", dtype="bool", shape=[]),
        GraphTensor(number=5, name="mul"),
        GraphTensor(number=6, name="add", role="output", dtype="string", shape=[2]),
    ],
    inputs=[0],
    outputs=[6, 6],
    notes=["It is drawn by hand."],
)
