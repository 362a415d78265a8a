import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from dnnamo.profiles.events import FORMAT, NONE, Events, Texts, read_events, write_events
from tests.profiles.rows import kernel, row, table

WHOLE = (
    row("aten::mm", 5, 25, operation=7, shapes="[[2,3],[3,4]]", layer="net.0", Rank=3, **{"Ev Idx": -1}),
    row("naïve ∑ \U0001f600", 5, 9, "worker", layer="", Rank=None, note='{"a":1}'),
    kernel("gemm", 30, 31, correlation=2**62, bytes=-5),
    row("[memory]", 8, 8, phase="i"),
)


def same(a: Events, b: Events) -> bool:
    lists = [
        {name: column.to_list() if isinstance(column, Texts) else column.tolist() for name, column in columns.items()}
        for columns in (a.columns | a.args, b.columns | b.args)
    ]
    return lists[0] == lists[1] and list(a.args) == list(b.args)


@pytest.fixture
def events():
    columns = table(*({key: value for key, value in found.items() if key != "note"} for found in WHOLE))
    notes = Texts.of(['{"a":1}' if name.startswith("na") else None for name in columns.name.to_list()])
    events = Events(**columns.columns, args={**columns.args, "note": notes})
    return events.replace(parent=events.nest().parent)


def test_rows_are_sorted_by_thread_start_and_the_longer_first(events):
    assert events.name.to_list() == ["aten::mm", "[memory]", "naïve ∑ \U0001f600", "gemm"]


def test_what_is_left_out_has_no_value(events):
    assert events.flops.tolist() == [NONE] * 4
    assert events.forward.tolist() == [NONE] * 4
    assert events.dtypes.to_list() == [None] * 4


def test_a_file_gives_back_the_table_and_what_was_said(events):
    said = {"source": "test", "base_ns": 5, "header": {"deviceProperties": [{"name": "H100"}]}}

    found, metadata = read_events(write_events(events, said))

    assert same(found, events)
    assert metadata == {"format": FORMAT, **said}


def test_a_file_of_no_events_is_a_file():
    empty = table()
    assert same(read_events(write_events(empty, {}))[0], empty)


def test_a_file_of_several_row_groups_is_one_table(tmp_path):
    many = table(*(row(f"op {number % 7}", number, number + 1) for number in range(70_000)))
    (tmp_path / "events.parquet").write_bytes(write_events(many, {}))

    assert same(read_events(tmp_path / "events.parquet")[0], many)


def test_arrow_has_nulls_and_dictionaries(events):
    found = events.to_arrow()

    assert pa.types.is_dictionary(found.schema.field("name").type)
    assert found["operation"].to_pylist() == [7, None, None, None]
    assert found["args.Ev Idx"].to_pylist() == [-1, None, None, None]
    assert found["layer"].to_pylist() == ["net.0", None, "", None]
    assert same(Events.from_arrow(found), events)


def test_some_rows_of_an_arrow_table_are_a_table(events):
    assert same(Events.from_arrow(events.to_arrow().slice(1, 2)), events.take(np.array([1, 2])))


def test_texts_are_found_by_what_they_are():
    found = Texts.of(["a", None, "b", "a", ""])

    assert found.equal("a", "c").tolist() == [True, False, False, True, False]
    assert found.where(lambda text: not text).tolist() == [False, False, False, False, True]
    assert found.take(np.array([2, 1])).to_list() == ["b", None]
    assert Texts.concat([found, Texts.of([]), Texts.of([None, "b"])]).to_list() == [*found.to_list(), None, "b"]
    assert Texts.same(None, 2).to_list() == [None, None]


def test_writing_and_reading_does_not_wait_for_pandas():
    code = (
        "import sys; from dnnamo.profiles.events import *; from tests.profiles.rows import row, table;"
        "read_events(write_events(table(row('a', 0, 1, bytes=3)), {})); print('pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"
