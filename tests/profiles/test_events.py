import numpy as np
import pyarrow as pa

from dnnamo.profiles.events import NONE, Events, Texts
from tests.profiles.rows import same


def test_rows_are_sorted_by_thread_start_and_the_longer_first(events):
    assert events.name.to_list() == ["aten::mm", "[memory]", "naïve ∑ \U0001f600", "gemm"]


def test_what_is_left_out_has_no_value(events):
    assert events.flops.tolist() == [NONE] * 4
    assert events.forward.tolist() == [NONE] * 4
    assert events.dtypes.to_list() == [None] * 4


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


def test_texts_are_found_however_many_of_them_are_wanted():
    given = [f"op {number}" if number % 9 else None for number in range(50)]
    found = Texts.of(given)

    for least in (51, 47, 20, 0):
        wanted = {f"op {number}" for number in range(least, 50)}
        assert found.where(wanted.__contains__).tolist() == [text in wanted for text in given]
