import sys

import pytest

from dnnamo.errors import MissingExtra
from dnnamo.records import Operation, ProfiledStep
from dnnamo.tables import Table

ROWS = [
    Operation(name="mm", calls=2, self_ns=2**60 + 1, total_ns=5, flops=7, shapes=[[2, 3], []]),
    Operation(name="é", calls=1, self_ns=0, total_ns=0),
]


def test_a_table_is_a_sequence_of_its_rows():
    table = Table(ROWS, Operation)

    assert (len(table), table[0], list(table), ROWS[1] in table) == (2, ROWS[0], ROWS, True)
    assert list(table[1:]) == ROWS[1:]
    assert repr(table[:1]) == "<1 x Operation>"
    assert not Table([], Operation)


def test_arrow_has_numbers_text_nulls_and_json():
    table = Table(ROWS, Operation).to_arrow()

    assert table.column_names == list(Operation.__struct_fields__)
    assert table.to_pylist()[0] == {**ROWS[0].to_dict(), "shapes": "[[2,3],[]]"}
    assert (table.to_pylist()[1]["flops"], table.to_pylist()[1]["shapes"]) == (None, None)
    assert {str(field.type) for field in table.schema} == {"string", "int64"}


def test_a_table_without_rows_has_the_same_columns():
    for kind in (Operation, ProfiledStep):
        assert Table([], kind).to_arrow().column_names == list(kind.__struct_fields__)


def test_integers_stay_integers_in_data_frames():
    table = Table(ROWS, Operation)

    assert table.to_pandas()["self_ns"].tolist() == table.to_polars()["self_ns"].to_list() == [2**60 + 1, 0]
    assert table.to_pandas()["flops"].isna().tolist() == [False, True]


@pytest.mark.parametrize(("module", "convert"), [("pandas", Table.to_pandas), ("polars", Table.to_polars)])
def test_a_missing_library_is_named_with_what_installs_it(monkeypatch, module, convert):
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(MissingExtra, match=r"pip install 'dnnamo\[frames\]'"):
        convert(Table(ROWS, Operation))
