import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dnnamo.errors import SchemaMismatch
from dnnamo.profiles import file as module
from dnnamo.profiles.events import NONE, Events, Texts
from dnnamo.profiles.file import FORMAT, begin_ns, metadata_of, read_events, read_overlapping, write_events
from dnnamo.profiles.links import link
from dnnamo.profiles.window import window
from tests.profiles.rows import kernel, row, same, table

SAID = {"source": "test", "base_ns": 5, "header": {"deviceProperties": [{"name": "H100"}]}}
DATA = Path(__file__).parent / "data"


def test_a_file_gives_back_the_table_and_what_was_said(events):
    file = write_events(events, SAID)

    found, metadata = read_events(file)

    assert same(found, events)
    assert metadata == metadata_of(file) == SAID


def test_a_file_of_no_events_is_a_file():
    empty = write_events(table(), {})

    assert same(read_events(empty)[0], table())
    assert begin_ns(empty) == 0


def random_table(random: np.random.Generator, count: int) -> Events:
    """Events that nest, overlap, are moments, have no name or no more than one of them; with columns of all kinds."""
    start = random.integers(-1000, 1000, count)
    end = start + random.integers(0, 100, count) * random.integers(0, 2, count)
    some = random.integers(0, 2, count).astype(bool)
    names = [None, *(f"op {number}" for number in range(int(random.integers(1, 20))))]

    def numbers(given=slice(None)):
        column = np.full(count, NONE)
        column[given] = random.integers(NONE + 1, 2**63 - 1, count, endpoint=True)[given]
        return column

    found = Events.of(
        {
            "name": Texts.of(random.choice(names, count).tolist()),
            "thread": Texts.of(random.choice(["1", "2", "3"], count).tolist()),
            "start_ns": start,
            "duration_ns": end - start,
            "operation": numbers(),
            "bytes": numbers(some),
            "shapes": Texts.of([f"[[{number % 7}]]" if number % 3 else None for number in range(count)]),
            "step": numbers(slice(0, 1)),
        },
        {"Rank": numbers(some), "rare": numbers(slice(0, 1)), "note": Texts.of([None] * (count - 1) + ["x"])},
    )
    return found.replace(parent=found.nest().parent)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("group", "piece"), [(1 << 17, 1 << 15), (1, 1), (7, 3), (64, 10)])
def test_any_table_comes_back_from_row_groups_of_any_size(monkeypatch, seed, group, piece):
    monkeypatch.setattr(module, "_ROWS_A_GROUP", group)
    monkeypatch.setattr(module, "_ROWS_A_PIECE", piece)
    random = np.random.default_rng(seed)
    events = random_table(random, int(random.integers(1, 150)))
    file = write_events(events, SAID)

    assert same(read_events(file)[0], events)
    assert begin_ns(file) == events.start_ns.min()
    begin, end = sorted(random.integers(-1000, 1000, 2).tolist())
    part = read_overlapping(file, begin, end)
    inside = [
        at
        for at, (start, stop) in enumerate(zip(events.start_ns.tolist(), events.end_ns.tolist(), strict=True))
        if (begin <= start < end if stop == start else start < end and stop > begin)
    ]
    assert part.rows.tolist() == inside
    assert part.whole == len(events)
    assert same(part.events, events.take(np.array(inside, int)).replace(parent=np.full(len(inside), NONE)))


def test_times_that_make_no_sense_come_back():
    times = {
        "start_ns": np.array([-(2**62), 5, -(2**63), 2**63 - 2]),
        "duration_ns": np.array([2**63 - 1, 2**62, 1, 1]),
    }
    events = Events.of({"name": Texts.of(["a", "b", "c", "d"]), **times}, {})

    found = read_events(write_events(events, {}))[0]

    assert found.start_ns.tolist() == events.start_ns.tolist()
    assert found.duration_ns.tolist() == events.duration_ns.tolist()


def test_a_file_of_several_row_groups_is_one_table(tmp_path):
    many = table(*(row(f"op {number % 7}", number, number + 1) for number in range(140_000)))
    path = tmp_path / "events.parquet"
    path.write_bytes(write_events(many, {}))

    assert pq.ParquetFile(path).num_row_groups == 2
    assert same(read_events(path)[0], many)


def test_columns_with_values_in_the_same_rows_share_what_tells_the_rows():
    count = 100
    some = np.where(np.arange(count) % 3 == 0, np.arange(count), NONE)
    others = np.where(np.arange(count) % 5 == 0, np.arange(count), NONE)
    columns = {"name": Texts.of(f"op {at % 4}" for at in range(count)), "start_ns": np.arange(count)}
    args = {"a": some, "b": -some, "c": others, "d": Texts.of("x" if at != NONE else None for at in some.tolist())}
    events = Events.of({**columns, "duration_ns": np.zeros(count, np.int64)}, args)

    file = write_events(events, {})

    names = pq.ParquetFile(pa.BufferReader(file)).schema_arrow.names
    assert [name for name in names if name.startswith("there.")] == ["there.0", "there.1"]
    assert same(read_events(file)[0], events)


@pytest.mark.parametrize("number", [1, 2])
def test_a_file_of_an_earlier_format_is_read(number):
    file = DATA / f"events-format-{number}.parquet"
    rows = [
        row("step", 0, 100, category="user_annotation"),
        row("a", 10, 40),
        row("b", 12, 20),
        row("mark", 30, 30, phase="i", category="cpu_instant_event"),
        row("c", 50, 60, operation=5, Grid=3),
        row("other", 45, 95, thread="2"),
        kernel("gemm", 70, 90, operation=5),
    ]

    found, metadata = read_events(file)

    assert same(found, link(table(*rows)))
    assert metadata == metadata_of(file) == {"source": "test", "base_ns": 5}
    assert begin_ns(file) == 0
    assert window(file, start_ns=46, end_ns=55).name.to_list() == ["step", "c", "other"]
    assert window(file.read_bytes(), start_ns=96).name.to_list() == ["step"]


@pytest.mark.parametrize("as_path", [False, True])
def test_a_file_of_a_later_format_is_refused(tmp_path, as_path):
    path = tmp_path / "later.parquet"
    with pq.ParquetWriter(path, pa.schema([("what", pa.int64())])) as writer:
        writer.add_key_value_metadata({"dnnamo": module._packed({"format": FORMAT + 1})})
    source = path if as_path else path.read_bytes()

    for read in (read_events, metadata_of, begin_ns, window):
        with pytest.raises(SchemaMismatch, match=r"format 4, .* formats up to 3\..*upgrade Dnnamo") as raised:
            read(source)
        assert (str(path) in str(raised.value)) == as_path


def test_what_a_file_says_of_itself_is_not_in_its_metadata(events):
    said = pq.ParquetFile(pa.BufferReader(write_events(events, SAID))).metadata.metadata[b"dnnamo"]

    assert msgspec.json.decode(module.zlib.decompress(module.b64decode(said))).keys() - SAID.keys() == {
        "format",
        "by_name",
        "there",
        "rows",
        "bounds",
    }


def test_writing_and_reading_does_not_wait_for_pandas():
    code = (
        "import sys; from dnnamo.profiles.file import *; from tests.profiles.rows import row, table;"
        "read_events(write_events(table(row('a', 0, 1, bytes=3)), {})); print('pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"
