import csv
import io
import json
from collections import Counter

import jsonschema
import pyarrow.parquet as pq
import pytest

from dnnamo.errors import UsageError
from dnnamo.profiles.events import NONE, Events
from dnnamo.profiles.exports import exporter, exporters, suffix
from dnnamo.profiles.links import link
from tests.profiles.rows import kernel, row, table

METADATA = {"source": "kineto", "base_ns": 1_700_000_000_000_000_000, "header": {}}

ROWS = [
    row("ProfilerStep#0", 1_000, 1_100, category="user_annotation"),
    row("aten::mm", 1_010, 1_060, operation=1, shapes="[[2,3],[3,4]]", layer="net.0"),
    row('odd "name"; with\nbreaks, é', 1_020, 1_030, Grid=3),
    row("cudaLaunchKernel", 1_035, 1_040, category="cuda_runtime", correlation=9),
    row("[memory]", 1_050, 1_050, phase="i", category="cpu_instant_event", bytes=-64),
    row("aten::relu", 1_070, 1_070),
    row("late", 1_090, 1_200),
    kernel("gemm<float>", 1_050, 1_090, operation=1, correlation=9),
    kernel("overlapping", 1_080, 1_120),
]


def events() -> Events:
    return link(table(*ROWS))


def written(name: str, what: Events | None = None) -> bytes:
    file = io.BytesIO()
    exporter(name)(events() if what is None else what, METADATA, file)
    return file.getvalue()


class TestEveryExporter:
    """What any exporter must do; new ones, and plug-ins that are installed, are taken up by themselves."""

    @pytest.fixture(params=exporters())
    def name(self, request) -> str:
        return request.param

    def test_it_writes_something_and_always_the_same(self, name):
        assert written(name)
        assert written(name) == written(name)

    def test_it_takes_a_profile_without_events(self, name):
        written(name, link(table(*[])))

    def test_it_leaves_the_file_open_for_its_owner(self, name):
        file = io.BytesIO()
        exporter(name)(events(), METADATA, file)
        assert not file.closed

    def test_it_holds_every_operation(self, name):
        content = written(name)
        text = str(pq.read_table(io.BytesIO(content)).to_pylist()) if name == "parquet" else content.decode()
        assert all(it in text for it in ("aten::mm", "cudaLaunchKernel", "late"))

    def test_its_files_have_an_ending(self, name):
        assert suffix(name)


def test_an_unknown_name_is_refused_with_those_that_there_are():
    with pytest.raises(UsageError, match=r"'svg'.*chrome, perfetto, speedscope, parquet, folded, csv"):
        exporter("svg")


# From https://www.speedscope.app/file-format-schema.json: what an evented profile must have.
SPEEDSCOPE = {
    "type": "object",
    "required": ["$schema", "profiles", "shared"],
    "properties": {
        "$schema": {"const": "https://www.speedscope.app/file-format-schema.json"},
        "exporter": {"type": "string"},
        "name": {"type": "string"},
        "shared": {
            "type": "object",
            "required": ["frames"],
            "properties": {"frames": {"type": "array", "items": {"type": "object", "required": ["name"]}}},
        },
        "profiles": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["endValue", "events", "name", "startValue", "type", "unit"],
                "properties": {
                    "type": {"const": "evented"},
                    "unit": {"const": "nanoseconds"},
                    "name": {"type": "string"},
                    "startValue": {"type": "number"},
                    "endValue": {"type": "number"},
                    "events": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["type", "at", "frame"],
                            "properties": {
                                "type": {"enum": ["O", "C"]},
                                "at": {"type": "number"},
                                "frame": {"type": "integer", "minimum": 0},
                            },
                        },
                    },
                },
            },
        },
    },
}


def speedscope(rows) -> dict:
    found = json.loads(written("speedscope", link(table(*rows))))
    jsonschema.validate(found, SPEEDSCOPE)
    return found


def spans(profile: dict, frames: list[dict]) -> Counter:
    """The spans of a profile, which must open and close properly and in the order of time."""
    around, found, now = [], Counter(), profile["startValue"]
    for event in profile["events"]:
        assert now <= event["at"] <= profile["endValue"]
        now = event["at"]
        if event["type"] == "O":
            around.append(event)
        else:
            opened = around.pop()
            assert opened["frame"] == event["frame"]
            found[frames[event["frame"]]["name"], opened["at"], event["at"]] += 1
    assert around == []
    return found


def test_speedscope_has_every_span_once_and_properly_nested():
    found = speedscope(ROWS)

    whole = sum((spans(profile, found["shared"]["frames"]) for profile in found["profiles"]), Counter())
    assert whole == Counter((it["name"], it["start_ns"] - 1_000, it["start_ns"] + it["duration_ns"] - 1_000)
                            for it in ROWS if it["phase"] == "X")  # fmt: skip
    assert [profile["name"] for profile in found["profiles"]] == [
        "thread main",
        "thread main, lane 2",
        "device 0 stream 7",
        "device 0 stream 7, lane 2",
    ]


def test_speedscope_needs_few_lanes_for_many_that_overlap_one_another():
    found = speedscope([row("n", at, at + 15) for at in range(0, 1_000, 10)])

    assert len(found["profiles"]) == 2


def test_folded_stacks_have_self_times_and_what_was_launched():
    lines = dict(line.rsplit(" ", 1) for line in written("folded").decode().splitlines())

    assert lines["thread main;ProfilerStep#0;aten::mm"] == str(50 - 10 - 5)
    assert lines['thread main;ProfilerStep#0;aten::mm;odd "name": with breaks, é'] == "10"
    assert lines["device;thread main;ProfilerStep#0;aten::mm"] == "40"
    assert lines["device;device 0 stream 7;overlapping"] == "40"
    assert sum(int(value) for stack, value in lines.items() if not stack.startswith("device;")) == 1_200 - 1_000


def test_csv_has_a_row_an_event_and_empty_cells_for_no_value():
    rows = list(csv.DictReader(io.StringIO(written("csv").decode())))

    found = events()
    assert [it["name"] for it in rows] == found.name.to_list()
    assert [int(it["row"]) for it in rows] == list(range(len(found)))
    product = next(it for it in rows if it["name"] == "aten::mm")
    assert (product["shapes"], product["layer"], product["device"]) == ("[[2,3],[3,4]]", "net.0", "")
    assert rows[int(product["parent"])]["name"] == "ProfilerStep#0"
    assert next(it for it in rows if it["name"].startswith("odd"))["args.Grid"] == "3"


def test_parquet_has_plain_columns_with_nulls():
    file = pq.ParquetFile(io.BytesIO(written("parquet")))
    rows = file.read().to_pylist()

    assert {str(field.type) for field in file.schema_arrow} == {"int64", "string"}
    assert json.loads(file.schema_arrow.metadata[b"dnnamo"])["source"] == "kineto"
    assert [it["start_ns"] for it in rows] == events().start_ns.tolist()
    work = next(it for it in rows if it["name"] == "gemm<float>")
    assert (rows[work["launcher"]]["name"], work["step"], work["flops"]) == ("aten::mm", 0, None)


def test_tables_come_in_pieces(monkeypatch):
    whole = written("csv"), pq.read_table(io.BytesIO(written("parquet")))
    monkeypatch.setattr("dnnamo.profiles.exports.tables._ROWS_AT_ONCE", 2)

    assert written("csv") == whole[0]
    assert pq.read_table(io.BytesIO(written("parquet"))).equals(whole[1])


def test_the_table_above_has_what_the_tests_are_about():
    assert (events().launcher != NONE).any()
