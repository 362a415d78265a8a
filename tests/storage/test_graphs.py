"""What `Store` promises of graphs, on every database that it runs on."""

import pytest
from msgspec.structs import replace
from sqlalchemy import delete, select, text

from dnnamo.graphs import Graph, GraphOperation, GraphTensor
from dnnamo.graphs.summary import summarise
from dnnamo.records import Outcome
from dnnamo_storage import Store
from dnnamo_storage import schema as tables
from dnnamo_storage.engine import reading, writing
from tests.graphs.drawn import GRAPH
from tests.storage.stored import HUGE, PROFILE, count, submit_and_take

GRAPHS = ("graphs", "graph_operations", "graph_tensors", "graph_edges")


def record(store: Store, graph: Graph) -> int:
    claim = submit_and_take(store)
    assert store.record(claim, Outcome(state="succeeded", graph=graph), files={})
    return claim.job_id


def test_a_graph_is_read_back_as_it_was(store: Store) -> None:
    job_id = record(store, GRAPH)
    assert store.graph(job_id) == GRAPH
    assert store.graph_summary(job_id) == summarise(GRAPH)


def test_graphs_of_jobs_are_kept_apart(store: Store) -> None:
    other = replace(GRAPH, operations=GRAPH.operations[:1], outputs=[2], source="torch_fx", notes=[])
    first, second = record(store, GRAPH), record(store, other)
    assert (store.graph(first), store.graph(second)) == (GRAPH, other)


def test_an_empty_graph_is_kept(store: Store) -> None:
    empty = Graph(source="mine", operations=[], tensors=[])
    assert store.graph(record(store, empty)) == empty


def test_what_people_query_is_a_column(store: Store) -> None:
    job_id = record(store, GRAPH)
    with reading(store.engine) as connection:
        row = connection.execute(select(tables.graphs)).one()._asdict()
        tensors = connection.execute(
            select(tables.graph_tensors.c["name", "role", "elements", "bytes"]).order_by(tables.graph_tensors.c.number)
        ).all()
    del row["record"]
    assert row == {
        "job_id": job_id,
        "attempt": 1,
        "source": "torch_export",
        "operations": 5,
        "tensors": 7,
        "edges": 13,
        "layers": 3,
        "depth": 4,
        "weights": 1,
        "weight_elements": 64,
        "weight_bytes": 128,
    }
    assert [tuple(tensor) for tensor in tensors] == [
        ("x", "input", None, None),
        ("weight", "weight", 64, 128),
        ("linear", "intermediate", None, None),
        ("split:0", "intermediate", 16, 64),
        ("split:1", "intermediate", 1, 1),
        ("mul", "intermediate", None, None),
        ("add", "output", 2, None),
    ]


def test_the_takers_of_a_tensor_are_found_by_its_maker(store: Store) -> None:
    record(store, GRAPH)
    takers = text(
        "SELECT maker.name, taken.position, taker.name FROM graph_operations AS maker "
        "JOIN graph_edges AS made ON made.job_id = maker.job_id AND made.operation = maker.number "
        "AND made.side = 'output' "
        "JOIN graph_edges AS taken ON taken.job_id = made.job_id AND taken.tensor = made.tensor "
        "AND taken.side = 'input' "
        "JOIN graph_operations AS taker ON taker.job_id = taken.job_id AND taker.number = taken.operation "
        "WHERE maker.name = 'split' ORDER BY taken.operation, taken.position"
    )
    with reading(store.engine) as connection:
        found = [tuple(row) for row in connection.execute(takers)]
    assert found == [("split", 0, "mul"), ("split", 1, "mul"), ("split", 1, "add")]


def test_text_from_user_code_cannot_break_the_record(store: Store) -> None:
    nasty, kept = "a\x00b \ud83d 名前", "a\ufffdb \ufffd 名前"

    def named(name: str) -> Graph:
        operation = GraphOperation(number=0, name=name, kind=name, layer=name, inputs=[0], outputs=[])
        return Graph(
            source=name,
            operations=[operation],
            tensors=[GraphTensor(number=0, name=name, dtype=name, shape=[name])],
            notes=[name],
        )

    assert store.graph(record(store, named(nasty))) == named(kept)


def test_a_size_that_no_column_can_hold_is_null(store: Store) -> None:
    graph = Graph(
        source="mine",
        operations=[],
        tensors=[GraphTensor(number=0, name="w", role="weight", dtype="float64", shape=[2**62, 2**62])],
    )
    job_id = record(store, graph)
    assert store.graph(job_id) == graph
    with reading(store.engine) as connection:
        assert connection.execute(select(tables.graph_tensors.c["elements", "bytes"])).one() == (None, None)
        assert connection.scalar(select(tables.graphs.c.weight_bytes)) == HUGE


@pytest.mark.parametrize("outcome", [Outcome(state="succeeded"), Outcome(state="succeeded", profile=PROFILE)])
def test_a_job_without_a_graph_has_none(store: Store, outcome: Outcome) -> None:
    claim = submit_and_take(store)
    assert store.record(claim, outcome, files={})
    for job_id in (claim.job_id, 999, 0, 2**70):
        assert store.graph(job_id) is None
        assert store.graph_summary(job_id) is None


def test_a_graph_goes_with_its_job(store: Store) -> None:
    record(store, GRAPH)
    with writing(store.engine) as connection:
        connection.execute(delete(tables.jobs))
    assert [count(store, name) for name in GRAPHS] == [0, 0, 0, 0]


def test_a_claim_that_no_longer_holds_writes_no_graph(store: Store) -> None:
    claim = submit_and_take(store)
    assert store.hand_back(claim)
    assert not store.record(claim, Outcome(state="succeeded", graph=GRAPH), files={})
    assert [count(store, name) for name in GRAPHS] == [0, 0, 0, 0]
