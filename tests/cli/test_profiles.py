import csv
import gzip
import io
import json

import pytest

from dnnamo.errors import JobNotFound, UsageError
from dnnamo.records import (
    FlopCount,
    JobSpec,
    Operation,
    Outcome,
    Overhead,
    Profile,
    ProfiledStep,
    Result,
    Steps,
    Warmup,
)
from tests.cli.conftest import Said
from tests.trace_file import write_trace


@pytest.fixture
def job(store, tmp_path) -> int:
    """The job of an imported trace."""
    said = Said.well("import", write_trace(tmp_path / "trace.json"), "--tag", "theirs", "-o", "json")
    (row,) = json.loads(said.out)
    return row["id"]


def profiled(store, *, overhead=None, steps=(), durations=(), **facts) -> int:
    """A profile job that a worker did, with these figures."""
    job_id = store.submit(JobSpec(model="demo:mlp", method="profile_training"))
    claim = store.claim(["cpu"], worker="w", lease_s=30, job_id=job_id)
    profile = Profile(
        source="kineto",
        **{
            "events": 9,
            "span_ns": 100_000_000,
            "covered_ns": 60_000_000,
            "operations": {"name": [Operation(name="aten::mm", calls=2, self_ns=60, total_ns=60)]},
            **facts,
        },
        steps=[
            ProfiledStep(number=number, wall_ns=wall, covered_ns=wall // 2, calls=1, self_ns=5)
            for number, wall in enumerate(steps)
        ],
        overhead=overhead,
    )
    result = Result(steps=Steps(count=len(durations) or 2, duration_ns=list(durations), warmup=Warmup()))
    assert store.record(claim, Outcome(state="succeeded", result=result, profile=profile), files={})
    return job_id


def headings(text: str) -> dict[str, str]:
    return dict(line.split(maxsplit=1) for line in text.splitlines())


class TestImport:
    def test_a_file_is_a_job_with_its_source_and_verdict(self, store, tmp_path):
        path = write_trace(tmp_path / "trace.json")

        header, _, row = Said.well("import", path).out.splitlines()

        assert header.split() == ["id", "source", "events", "steps", "verdict", "file"]
        assert row.split() == ["1", "kineto", "12", "2", "ok", str(path)]
        assert store.job(1).spec.tags == []

    def test_what_is_wrong_with_a_profile_is_said(self, store, tmp_path):
        said = Said.well("import", write_trace(tmp_path / "trace.json", steps=False))

        assert "degraded" in said.out
        assert said.err.startswith("Job 1 is degraded: No step is marked")

    def test_of_several_files_those_that_can_be_are_stored(self, store, tmp_path):
        good = [write_trace(tmp_path / name) for name in ("a.json", "b.json")]
        (tmp_path / "bad.json").write_text('{"a": 1}')

        said = Said("import", good[0], tmp_path / "bad.json", tmp_path / "none.json", good[1], "-o", "json")

        assert [row["file"] for row in json.loads(said.out)] == [str(path) for path in good]
        assert f"{tmp_path / 'bad.json'}: " in said.err
        assert f"There is no file {tmp_path / 'none.json'}" in said.err
        assert isinstance(said.error, UsageError)
        assert "2 of 4 files" in str(said.error)
        assert [found.spec.method for found in store.jobs()] == ["import_trace"] * 2

    def test_nothing_but_what_cannot_be_read_gives_no_rows(self, store, tmp_path):
        said = Said("import", tmp_path / "none.json")

        assert said.out == ""
        assert isinstance(said.error, UsageError)
        assert json.loads(Said("import", tmp_path / "none.json", "-o", "json").out) == []

    def test_json_has_the_reasons(self, store, tmp_path):
        said = Said.well("import", write_trace(tmp_path / "trace.json", steps=False), "-o", "json")

        (row,) = json.loads(said.out)
        assert row["verdict"] == "degraded"
        assert row["reasons"][0].startswith("No step is marked")

    def test_imported_jobs_are_listed_and_shown(self, job):
        (listed,) = json.loads(Said.well("ls", "--method", "import_trace", "--tag", "theirs", "-o", "json").out)
        assert (listed["id"], listed["state"]) == (job, "succeeded")
        shown = headings(Said.well("show", job).out)
        assert shown["profile"] == "kineto · 12 events over 1.900 ms · 2 marked steps · operations during 67% of them"
        assert shown["verdict"] == "ok"
        assert shown["device"].startswith("0     busy 57% of 1.400 ms")
        assert "queue" not in shown


class TestOps:
    def test_a_table_has_host_and_device_times_and_shares(self, job):
        header, _, first, *_ = Said.well("ops", job).out.splitlines()

        assert header.split() == [
            *("name", "calls", "self", "self", "ms", "total", "ms"),
            *("device", "device", "ms", "device", "total", "ms"),
        ]
        share = 560 / (560 + 400 + 200 + 40)
        assert first.split() == ["aten::mm", "2", f"{share:.1%}", "0.560", "0.600", "100.0%", "0.800", "0.800"]

    def test_the_verdict_and_its_reasons_come_with_the_figures(self, store, tmp_path):
        Said.well("import", write_trace(tmp_path / "trace.json", steps=False))

        assert "Verdict: degraded: No step is marked" in Said.well("ops", 1).err
        said = json.loads(Said.well("ops", 1, "-o", "json").out)
        assert (said["verdict"], len(said["reasons"])) == ("degraded", 1)
        assert "Verdict: degraded" in Said.well("ops", 1, "-o", "csv").err

    def test_json_has_every_field_of_a_row(self, job):
        said = json.loads(Said.well("ops", job, "--by", "shape", "-o", "json").out)

        assert (said["id"], said["by"], said["source"], said["verdict"], said["reasons"]) == (
            *(job, "shape", "kineto", "ok", []),
        )
        assert set(said["rows"][0]) == set(Operation.__struct_fields__)
        assert said["rows"][0]["shapes"] == [[8, 16], [16, 4]]

    def test_csv_has_the_columns_of_a_row(self, job):
        rows = list(csv.DictReader(io.StringIO(Said.well("ops", job, "-o", "csv").out)))

        assert list(rows[0]) == list(Operation.__struct_fields__)
        assert (rows[0]["name"], rows[0]["device_total_ns"], rows[0]["flops"]) == ("aten::mm", "800000", "")

    def test_top_takes_the_first_rows_and_leaves_the_shares_as_they_are(self, job):
        whole, top = (Said.well("ops", job, *words).out.splitlines() for words in ([], ["--top", 1]))

        assert len(top) == 3
        assert top[2].split() == whole[2].split()

    def test_steps_are_rows(self, job):
        header, _, *rows = Said.well("ops", job, "--by", "step").out.splitlines()

        assert header.split() == ["step", "calls", "profiled", "ms", "covered", "self", "ms", "device", "ms"]
        assert [row.split() for row in rows] == [
            [number, "4", "0.900", "66.7%", "0.600", "0.400"] for number in ("0", "1")
        ]

    def test_kernels_have_no_host_times(self, job):
        header, _, row = Said.well("ops", job, "--by", "kernel").out.splitlines()

        assert header.split() == ["name", "calls", "device", "device", "ms", "device", "total", "ms"]
        assert row.split() == ["gemm", "2", "100.0%", "0.800", "0.800"]

    def test_a_grain_that_is_missing_is_refused_with_what_to_do(self, job):
        assert "layer" in str(Said("ops", job, "--by", "layer").error)

    def test_flops_bytes_and_peaks_are_shown_where_there_are_some(self, store):
        row = Operation(
            name="mm", calls=1, self_ns=5, total_ns=5, flops=2_500_000, bytes=2048, peak_bytes=4096, shapes=[[2, 3]]
        )
        job_id = profiled(store, steps=[100], operations={"shape": [row]})

        header, _, row = Said.well("ops", job_id, "--by", "shape").out.splitlines()
        assert header.split()[-4:] == ["GFLOP", "bytes", "peak", "shapes"]
        assert "0.0025  2.00 KiB  4.00 KiB  [[2, 3]]" in row


class TestTimesOfAProfiledModel:
    def test_the_unprofiled_time_is_the_step_time(self, store):
        overhead = Overhead(before_ns=[23_000_000], after_ns=[23_200_000], profiled_ns=38_115_000)
        job_id = profiled(store, steps=[38_115_000], durations=[23_000_000, 23_200_000], overhead=overhead)

        shown = headings(Said.well("show", job_id).out)
        assert shown["steps"].startswith("2 steps  median 23.1 ms")
        assert shown["steps"].endswith("; profiled 38.1 ms, 1.65x")
        described = json.loads(Said.well("show", job_id, "-o", "json").out)
        assert described["steps"]["median_ns"] == 23_100_000
        assert described["profile"]["overhead"]["ratio"] == pytest.approx(1.65)

    @pytest.mark.parametrize(
        ("steps", "durations", "says"),
        [
            ([38_000_000], [], "1 step  profiled 38.0 ms; how long one takes unprofiled was not measured"),
            # as older versions stored them: the times are those of the profiled steps
            ([38_000_000], [38_000_000], "1 step  profiled 38.0 ms; how long one takes unprofiled was not measured"),
            ([], [], "2 steps, neither marked nor timed"),
            ([], [9_000_000], "1 steps  median 9.000 ms  p95 9.000 ms"),
        ],
    )
    def test_a_profiled_time_is_never_called_the_step_time(self, store, steps, durations, says):
        job_id = profiled(store, steps=steps, durations=durations)

        assert headings(Said.well("show", job_id).out)["steps"] == says

    def test_show_has_verdict_notes_memory_and_flops(self, store):
        job_id = profiled(
            store,
            steps=[10, 20],
            verdict="bad",
            reasons=["It is cut short.", "It has gaps."],
            notes=["It has no shapes."],
            peak_bytes={"cpu": 2048, "gpu 0": 4096},
            flops=FlopCount(flops=12_345, counted_calls=3, calls=4),
        )
        shown = headings(Said.well("show", job_id).out)

        assert shown["verdict"] == "bad: It is cut short. It has gaps."
        assert shown["note"] == "It has no shapes."
        assert shown["peak"] == "memory  cpu 2.00 KiB · gpu 0 4.00 KiB"
        assert shown["FLOPs"] == "12,345 a step, known for 75% of the calls"
        assert shown["operations"] == "aten::mm 100%"
        described = json.loads(Said.well("show", job_id, "-o", "json").out)["profile"]
        assert (described["verdict"], len(described["reasons"])) == ("bad", 2)
        assert "operations" not in described


PICTURE = """\
time                       0.000 to 1.900 ms, 0.1 ms a column
steps                      |0        |1
device 0 stream 7             ████      ████   42%
                              aaaa      aaaa
main thread                ▄████▄█   ▄████▄█   63%
                           bcccbbd   bcccbbd
                         a gemm
                         b aten::linear
                         c aten::mm
                         d aten::relu
device 0                   busy 57% of 1.400 ms · idle 43% (waiting for the host 34%); of the whole profile
"""


class TestTimeline:
    def test_each_track_has_how_busy_it_was_and_with_what(self, job):
        said = Said.well("timeline", job, "--width", 19).out

        assert [line.rstrip() for line in said.splitlines()] == PICTURE.splitlines()

    def test_a_window_is_counted_from_the_first_event(self, job):
        out = Said.well("timeline", job, "--from", 0.6, "--to", 0.7, "--width", 10).out

        assert "0.600 to 0.700 ms" in out
        assert "aten::relu" in out
        assert "aten::mm" not in out

    def test_json_has_tracks_and_events_at_the_resolution(self, job):
        said = json.loads(Said.well("timeline", job, "--width", 2, "-o", "json").out)

        assert (said["id"], said["verdict"], said["reasons"]) == (job, "ok", [])
        assert said["end_ns"] - said["start_ns"] == 1_900_000
        assert said["resolution_ns"] == 950_000
        assert [track["name"] for track in said["tracks"]] == ["device 0 stream 7", "main thread"]
        merged = [event for event in said["events"] if event["merged"]]
        assert sum(event["merged"] or 1 for event in said["events"]) == 12
        assert {"track", "name", "busy_ns"} <= set(merged[0])

    def test_csv_has_a_row_an_event(self, job):
        said = Said.well("timeline", job, "--width", 10_000, "-o", "csv")

        rows = list(csv.DictReader(io.StringIO(said.out)))
        assert len(rows) == 12
        assert {row["track"] for row in rows} == {"device 0 stream 7", "main thread"}
        assert "Verdict: ok" in said.err

    @pytest.mark.parametrize("words", [("--from", 3), ("--from", 1, "--to", 1), ("--to", -1)])
    def test_a_window_without_time_in_it_is_refused(self, job, words):
        said = Said("timeline", job, *words)

        assert isinstance(said.error, UsageError)
        assert "the profile is 1.900 ms long" in str(said.error)


class TestExport:
    def test_in_a_pipe_it_goes_to_standard_output(self, job):
        said = Said.well("export", job, "--to", "folded")

        assert "main thread;ProfilerStep#0;aten::linear;aten::mm 280000\n" in said.out
        assert "Verdict: ok" in said.err

    def test_a_file_is_written_and_told(self, job, tmp_path):
        path = tmp_path / "out.json.gz"

        said = Said.well("export", job, "--to", "speedscope", "-f", path)

        assert json.loads(gzip.decompress(path.read_bytes()))["exporter"] == "dnnamo"
        assert said.out == ""
        assert said.err.startswith(f"{path} has ")
        assert "speedscope.app opens it" in said.err

    def test_an_unknown_form_is_refused_before_anything_is_written(self, job, tmp_path):
        said = Said("export", job, "--to", "svg", "-f", tmp_path / "x")

        assert "chrome, perfetto, speedscope, parquet, folded, csv" in str(said.error)
        assert not (tmp_path / "x").exists()

    def test_an_unknown_job_is_refused(self, store):
        assert isinstance(Said("export", 4711, "--to", "csv").error, JobNotFound)


class TestSql:
    def test_rows_are_told_as_a_table_json_and_csv(self, job):
        question = "SELECT name, calls FROM operations WHERE grain = 'name' AND name = 'aten::mm'"

        header, _, row = Said.well("sql", question).out.splitlines()
        assert (header.split(), row.split()) == (["name", "calls"], ["aten::mm", "2"])
        assert json.loads(Said.well("sql", question, "-o", "json").out) == [{"name": "aten::mm", "calls": 2}]
        assert Said.well("sql", question, "-o", "csv").out == "name,calls\naten::mm,2\n"

    def test_more_rows_than_asked_for_are_told(self, job):
        said = Said.well("sql", "SELECT name FROM operations", "--limit", 1, "-o", "json")

        assert len(json.loads(said.out)) == 1
        assert "more than these 1 rows" in said.err

    def test_columns_of_one_name_are_told_apart(self, store):
        assert json.loads(Said.well("sql", "SELECT 1 AS a, 2 AS a, 3 AS b", "-o", "json").out) == [
            {"a": 1, "a_2": 2, "b": 3}
        ]

    @pytest.mark.parametrize("statement", ["DELETE FROM jobs", "SELECT 1; SELECT 2", "SELECT nonsense FROM jobs", ""])
    def test_what_does_not_read_is_refused(self, job, store, statement):
        assert isinstance(Said("sql", statement).error, UsageError)
        assert store.job(job).state == "succeeded"
