import numpy as np
import pyarrow.parquet as pq
import pytest

from dnnamo.profiles import file as file_module
from dnnamo.profiles.events import NONE, Events
from dnnamo.profiles.file import begin_ns, write_events
from dnnamo.profiles.links import link
from dnnamo.profiles.window import summarised, window
from tests.profiles.rows import kernel, row, table

ROWS = [
    row("step", 0, 100, category="user_annotation"),
    row("a", 10, 40),
    row("b", 12, 20),
    row("mark", 30, 30, phase="i", category="cpu_instant_event"),
    row("c", 50, 60, operation=5, Grid=3),
    row("other", 45, 95, thread="2"),
    kernel("gemm", 70, 90, operation=5),
]


@pytest.fixture(params=[1, 3, 1 << 16])
def file(request, monkeypatch) -> bytes:
    """The rows as a file, in row groups of several sizes."""
    monkeypatch.setattr(file_module, "_ROWS_A_GROUP", request.param)
    return write_events(link(table(*ROWS)), {})


def names(events: Events) -> list[str]:
    return sorted(events.name.to_list())


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (None, None, ["a", "b", "c", "gemm", "mark", "other", "step"]),
        (0, 10, ["step"]),
        (12, 13, ["a", "b", "step"]),
        (20, 31, ["a", "mark", "step"]),
        (20, 30, ["a", "step"]),
        (40, 45, ["step"]),
        (60, None, ["gemm", "other", "step"]),
        (None, 46, ["a", "b", "mark", "other", "step"]),
        (100, 200, []),
        (-5, 0, []),
    ],
)
def test_a_window_has_what_overlaps_it(file, start, end, expected):
    assert names(window(file, start_ns=start, end_ns=end)) == expected


def test_a_window_of_a_path_is_that_of_the_bytes(file, tmp_path):
    path = tmp_path / "events.parquet"
    path.write_bytes(file)

    assert names(window(path, start_ns=12, end_ns=13)) == ["a", "b", "step"]


def test_links_lead_to_rows_of_the_window(file):
    found = window(file, start_ns=46, end_ns=80)

    at = {name: number for number, name in enumerate(found.name.to_list())}
    assert found.parent[at["c"]] == at["step"]
    assert found.launcher[at["gemm"]] == at["c"]
    late = window(file, start_ns=65, end_ns=80)
    assert (late.launcher == NONE).all()


def test_only_row_groups_are_read_that_may_hold_some(monkeypatch):
    monkeypatch.setattr(file_module, "_ROWS_A_GROUP", 10)
    file = write_events(table(*[row("op", start, start + 5) for start in range(0, 10_000, 10)]), {})
    read, real = [], pq.ParquetFile.read_row_groups
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_groups",
        lambda self, groups, columns: read.append((groups, columns)) or real(self, groups, columns),
    )

    found = window(file, start_ns=5_000, end_ns=5_050)

    assert found.start_ns.tolist() == [5_000, 5_010, 5_020, 5_030, 5_040]
    assert [groups for groups, columns in read if "name" in columns] == [[50]]
    assert all(name.startswith("texts.") for groups, columns in read if groups != [50] for name in columns)


def test_the_begin_is_that_of_the_first_event(file):
    assert begin_ns(file) == 0
    assert begin_ns(write_events(table(*[row("a", 7, 8), row("b", 5, 6, thread="2")]), {})) == 5
    assert begin_ns(write_events(table(*[]), {})) == 0


def test_short_events_are_merged_where_they_lie_close():
    rows = [row("long", 0, 100), row("x", 10, 12), row("y", 13, 18), row("x", 17, 19), row("z", 55, 56)]

    found = summarised(link(table(*rows)), 20)

    assert found.name.to_list() == ["long", "y", "z"]
    assert found.start_ns.tolist() == [0, 10, 55]
    assert found.end_ns.tolist() == [100, 19, 56]
    assert found.args["merged"].tolist() == [NONE, 3, NONE]
    assert found.args["busy_ns"].tolist() == [NONE, 2 + 6, NONE]
    assert found.parent.tolist() == [NONE, NONE, 0]


def test_threads_and_categories_are_merged_apart():
    rows = [
        row("a", 1, 2),
        row("a", 3, 4),
        row("a", 1, 2, thread="2"),
        row("a", 3, 4, thread="2"),
        row("cudaLaunchKernel", 5, 6, category="cuda_runtime"),
        row("cudaLaunchKernel", 7, 8, category="cuda_runtime"),
    ]
    found = summarised(table(*rows), 100)

    assert sorted(zip(found.thread.to_list(), found.category.to_list(), strict=True)) == [
        ("2", "cpu_op"),
        ("main", "cpu_op"),
        ("main", "cuda_runtime"),
    ]
    assert found.args["merged"].tolist() == [2, 2, 2]


def test_what_was_merged_says_nothing_that_only_one_of_them_had():
    rows = [row("a", 1, 2, shapes="[[1]]", operation=3, bytes=4, Grid=9), row("b", 3, 6)]

    (one,) = summarised(link(table(*rows)), 100).to_arrow().to_pylist()

    assert {name for name, value in one.items() if value is not None} == {
        "name", "category", "phase", "process", "thread", "start_ns", "duration_ns", "args.merged", "args.busy_ns",
    }  # fmt: skip


def test_moments_are_merged_by_how_often_they_come():
    marks = [row(name, at, at, phase="i", category="cpu_instant_event") for at, name in enumerate("aab")]

    found = summarised(table(*marks), 50)

    assert (found.name.to_list(), found.args["merged"].tolist(), found.args["busy_ns"].tolist()) == (["a"], [3], [0])


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_lost_between_resolutions(seed):
    random = np.random.default_rng(seed)
    starts = random.integers(0, 10_000, 400)
    rows = [row("n", int(at), int(at + random.integers(0, 300)), thread=str(at % 3)) for at in starts]
    events = table(*rows)

    for resolution in (1, 50, 1_000, 100_000):
        found = summarised(events, resolution)
        merged = found.args["merged"]
        assert np.where(merged == NONE, 1, merged).sum() == len(rows)
        assert (np.diff(found.start_ns)[found.thread.codes[1:] == found.thread.codes[:-1]] >= 0).all()
        short = merged != NONE
        assert (found.args["busy_ns"][short] <= found.duration_ns[short]).all()


def test_an_empty_profile_has_empty_windows():
    empty = write_events(table(*[]), {})

    assert len(window(empty)) == len(window(empty, start_ns=0, end_ns=5, resolution_ns=10)) == 0
