"""Graphs: written with the end of an attempt, and read back.

Functions that read take a connection in a transaction; `Store` opens it.
"""

from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, FromClause, Insert, Row, Table, bindparam, insert, select

from dnnamo.graphs.records import Graph, GraphOperation, GraphTensor, Side
from dnnamo.graphs.summary import Summary, summarise
from dnnamo_storage.columns import dump_json
from dnnamo_storage.inserts import Step, insert_rows
from dnnamo_storage.life import Writes
from dnnamo_storage.schema import graph_edges, graph_operations, graph_tensors, graphs

__all__ = ["of_job", "summary", "writes"]

_GRAPH = [column for column in graphs.c if column.name not in ("job_id", "attempt")]
_SUMMARY = [name for name in Summary.__struct_fields__ if name in graphs.c]
_OPERATION = ("number", "name", "kind", "layer")
_TENSOR = GraphTensor.__struct_fields__
_EDGE = ("operation", "side", "position", "tensor")

Edge = tuple[int, Side, int, int]


def writes(dialect: str, graph: Graph | None) -> Writes:
    """Return what writes the graph of an attempt that ends."""
    if graph is None:
        return {}
    record = {"source": graph.source, "inputs": graph.inputs, "outputs": graph.outputs, "notes": graph.notes}
    row = {**summarise(graph).to_dict(), "record": record}
    operations = [[getattr(operation, name) for name in _OPERATION] for operation in graph.operations]
    return {
        _insert_graph: {f"graphs_{column.name}": row[column.name] for column in _GRAPH},
        _insert_operations(dialect): {graph_operations.name: dump_json(operations)},
        _insert_tensors(dialect): {graph_tensors.name: dump_json([_tensor_row(tensor) for tensor in graph.tensors])},
        _insert_edges(dialect): {graph_edges.name: dump_json(list(_edges(graph)))},
    }


def _tensor_row(tensor: GraphTensor) -> list[Any]:
    return [*(getattr(tensor, name) for name in _TENSOR), _storable(tensor.elements), _storable(tensor.bytes)]


def _storable(count: int | None) -> int | None:
    return None if count is None or count >= 2**63 else count


def _edges(graph: Graph) -> Iterator[Edge]:
    for operation in graph.operations:
        yield from ((operation.number, "input", place, tensor) for place, tensor in enumerate(operation.inputs))
        yield from ((operation.number, "output", place, tensor) for place, tensor in enumerate(operation.outputs))


def _insert_graph(attempt: FromClause) -> Insert:
    values = [bindparam(f"graphs_{column.name}", type_=column.type) for column in _GRAPH]
    chosen = select(attempt.c.id, attempt.c.attempt, *values)
    return insert(graphs).from_select([graphs.c.job_id, graphs.c.attempt, *_GRAPH], chosen)


@lru_cache
def _insert_operations(dialect: str) -> Step:
    return insert_rows(dialect, graph_operations, _OPERATION)


@lru_cache
def _insert_tensors(dialect: str) -> Step:
    return insert_rows(dialect, graph_tensors, (*_TENSOR, "elements", "bytes"))


@lru_cache
def _insert_edges(dialect: str) -> Step:
    return insert_rows(dialect, graph_edges, _EDGE)


def of_job(connection: Connection, job_id: int) -> Graph | None:
    """Return the job's graph, None if it has none."""
    record = connection.scalar(select(graphs.c.record).where(graphs.c.job_id == job_id))
    if record is None:
        return None
    return Graph(operations=_operations(connection, job_id), tensors=_tensors(connection, job_id), **record)


def summary(connection: Connection, job_id: int) -> Summary | None:
    """Return the figures of the job's graph, None if it has none."""
    row = connection.execute(select(graphs).where(graphs.c.job_id == job_id)).mappings().first()
    if row is None:
        return None
    return Summary(**{name: row[name] for name in _SUMMARY}, notes=row["record"]["notes"])


def _operations(connection: Connection, job_id: int) -> list[GraphOperation]:
    ends: dict[tuple[int, Side], list[int]] = defaultdict(list)
    for row in _rows(connection, graph_edges, job_id):
        ends[row.operation, row.side].append(row.tensor)
    return [
        GraphOperation(
            number=row.number,
            name=row.name,
            kind=row.kind,
            layer=row.layer,
            inputs=ends.get((row.number, "input"), []),
            outputs=ends.get((row.number, "output"), []),
        )
        for row in _rows(connection, graph_operations, job_id)
    ]


def _tensors(connection: Connection, job_id: int) -> list[GraphTensor]:
    return [
        GraphTensor(**{name: getattr(row, name) for name in _TENSOR})
        for row in _rows(connection, graph_tensors, job_id)
    ]


def _rows(connection: Connection, table: Table, job_id: int) -> Iterator[Row[Any]]:
    """Return the rows of a job in the order of the table's key."""
    return iter(connection.execute(select(table).where(table.c.job_id == job_id).order_by(*table.primary_key)))
