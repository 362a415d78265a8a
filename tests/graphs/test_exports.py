"""What graphs are written as; the contract holds for every exporter that needs nothing but the record."""

import json
from io import BytesIO

import pytest
from msgspec.structs import replace

from dnnamo.errors import UsageError
from dnnamo.graphs import Graph, GraphOperation, GraphTensor, exports
from dnnamo.graphs.exports import Source, check_form, exporter, exporters
from dnnamo.graphs.exports.dot import to_dot
from tests.graphs.drawn import GRAPH


class Drawn:
    """A graph that is kept in no file of a framework."""

    def __init__(self, record: Graph = GRAPH) -> None:
        self.record = record
        self.forms = ["json", "dot"]

    def native(self, suffix: str) -> bytes | None:
        return None


def written(name: str, source: Source) -> bytes:
    file = BytesIO()
    write = exporter(name)
    assert write is not None
    write(source, file)
    return file.getvalue()


@pytest.mark.parametrize("name", [name for name in exporters() if name != "onnx"])
@pytest.mark.parametrize("graph", [GRAPH, Graph(source="mine", operations=[], tensors=[])], ids=["drawn", "empty"])
def test_contract_an_exporter_writes_the_same_each_time(name: str, graph: Graph) -> None:
    assert written(name, Drawn(graph)) == written(name, Drawn(graph)) != b""


def test_json_gives_the_graph_back() -> None:
    content = written("json", Drawn())
    assert Graph.from_json(content) == GRAPH
    assert json.loads(content)["operations"][0]["kind"] == "aten.linear.default"


def test_dot_has_a_box_for_each_layer_and_an_arrow_for_each_tensor_that_is_taken() -> None:
    lines = [line.strip() for line in to_dot(GRAPH).splitlines()]
    assert lines[0] == "digraph model {"
    assert [line for line in lines if line.startswith("label=")] == ['label="first"', 'label="Net"', 'label="second"']
    assert r'o0 [label="aten.linear.default\nlinear"]' in lines
    assert r't0 [shape=ellipse, label="x\nfloat32[s0, 8]"]' in lines
    assert r't1 [shape=box3d, label="weight\nbfloat16[8, 8]"]' in lines
    assert [line for line in lines if "->" in line] == [
        "t0 -> o0",
        "t1 -> o0",
        'o0 -> o1 [label="float32[?, 8]"]',
        'o1 -> o2 [label="float32[2, 8]"]',
        'o1 -> o2 [label="float32[2, 8]"]',
        "t1 -> o2",
        'o2 -> o3 [label="?"]',
        'o1 -> o3 [label="bool[]"]',
        "o3 -> t6",
    ]
    assert to_dot(GRAPH).count("{") == to_dot(GRAPH).count("}")


def test_names_cannot_break_out_of_dot() -> None:
    name = 'a"] }\nb\\'
    graph = Graph(
        source="mine",
        operations=[GraphOperation(number=0, name=name, kind=name, layer=name, inputs=[0], outputs=[])],
        tensors=[GraphTensor(number=0, name=name, dtype=name)],
    )
    escaped = r"a\"] }\nb\\"
    assert [line.strip() for line in to_dot(graph).splitlines()] == [
        "digraph model {",
        "node [shape=box]",
        "subgraph cluster_0 {",
        f'label="{escaped}"',
        rf'o0 [label="{escaped}\n{escaped}"]',
        "}",
        rf't0 [shape=ellipse, label="{escaped}\n{escaped}"]',
        "t0 -> o0",
        "}",
    ]


def test_a_graph_that_returns_what_it_was_given_is_drawn() -> None:
    assert "t0 [shape=ellipse" in to_dot(replace(GRAPH, operations=[], inputs=[0], outputs=[0]))


def test_an_unknown_form_is_refused_with_those_that_there_are() -> None:
    for name in ("json", "dot", "onnx", "pt2", "pb", "py"):
        check_form(name)
    with pytest.raises(UsageError, match=r"cannot be exported to 'svg'; it can be to one of json, dot, onnx, pt2"):
        check_form("svg")
    assert exporter("pt2") is None


def test_a_plug_in_adds_a_form(monkeypatch: pytest.MonkeyPatch) -> None:
    added = {"dnnamo.graph_exporters": {"again": "dnnamo.graphs.exports.json:write"}}
    monkeypatch.setattr(exports, "installed", added.get)
    check_form("again")
    assert written("again", Drawn()) == written("json", Drawn())


def test_onnx_is_made_of_a_program_alone() -> None:
    with pytest.raises(UsageError, match=r"not kept in. It can be exported to json, dot\."):
        written("onnx", Drawn())
