import json
from io import BytesIO

import numpy as np
import pytest

from dnnamo.profiles import file as module
from dnnamo.profiles.events import NONE, Events, Texts
from dnnamo.profiles.file import read_events, write_events
from dnnamo.profiles.readers.chrome import read_stream
from dnnamo.profiles.sparse import Sparse, SparseColumns
from tests.profiles.rows import same


def test_a_sparse_column_is_spread_over_all_rows():
    rows = np.array([1, 4])

    assert Sparse(rows, np.array([5, 7]), 6).spread().tolist() == [NONE, 5, NONE, NONE, 7, NONE]
    texts = Sparse(rows, Texts(np.array([1, 0], np.int32), ["a", "b"]), 5).spread()
    assert texts.to_list() == [None, "b", None, None, "a"]


def some_events(args):
    count = 100
    names = [f"op {number % 7}" for number in range(count)]
    return Events.of({"name": Texts.of(names), "start_ns": np.arange(count), "duration_ns": np.ones(count, int)}, args)


def sparse_args():
    """Columns that share their rows, that have others, that are in the order of the rows in a file, that have all."""
    rows, others = np.arange(3, 60, 4), np.array([0, 99])
    return {
        "cbid": Sparse(rows, rows * 3, 100),
        "Ev Idx": Sparse(rows, rows + 1, 100),
        "grid": Sparse(others, Texts.of(["[1]", "[2]"]), 100),
        "address": Sparse(others, np.array([2**40, -5]), 100),
        "all": np.arange(100),
        "every": Sparse(np.arange(100), np.arange(100) % 9, 100),
    }


@pytest.mark.parametrize("group", [7, 50, 1 << 17])
def test_a_file_of_sparse_columns_is_the_one_of_the_same_columns(monkeypatch, group):
    monkeypatch.setattr(module, "_ROWS_A_GROUP", group)
    sparse = some_events(SparseColumns(sparse_args()))
    dense = some_events(dict(sparse.args))

    found, _ = read_events(write_events(sparse, {}))

    assert same(found, dense)
    assert same(sparse.take(np.arange(0, 100, 3)), dense.take(np.arange(0, 100, 3)))
    assert sparse.to_arrow().equals(dense.to_arrow())


def test_arguments_of_few_events_are_read_as_sparse_columns():
    calls = [
        {"ph": "X", "cat": "cuda_runtime", "name": "call", "pid": 1, "tid": 1, "ts": 100 - i, "dur": 1, "args": args}
        for i, args in enumerate([{"cbid": 1, "module": "a"}, {"cbid": 2}, {"cbid": 3, "module": "b"}, {"cbid": 4}])
    ]
    broken = {**calls[0], "dur": -1, "args": {"cbid": 9, "only here": 1}}
    others = [{**calls[0], "cat": "cpu_op", "ts": number, "args": {}} for number in range(12)]
    text = json.dumps({"traceEvents": [*calls[:2], broken, *calls[2:], *others]}).encode()

    events = read_stream(BytesIO(text), name="trace").events

    assert all(isinstance(column, Sparse) for column in events.args.kept.values())
    rows = np.flatnonzero(events.category.equal("cuda_runtime"))
    assert events.args["cbid"][rows].tolist() == [4, 3, 2, 1]
    assert np.count_nonzero(events.args["cbid"] != NONE) == 4
    assert events.args["module"].take(rows).to_list() == [None, '"b"', None, '"a"']
    assert list(events.args) == ["cbid", "module"]
