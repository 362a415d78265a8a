"""Profiles from end to end: taken, told, looked at, exported, imported again; and those of others."""

import csv
import gzip
import io
import json
from pathlib import Path

import pytest

from dnnamo.profiles.file import metadata_of
from dnnamo.profiles.window import window
from dnnamo.records import EVENTS_NAME
from tests.acceptance.place import Place
from tests.acceptance.test_bad_input import one_paragraph
from tests.trace_file import write_trace

GRAINS = ("name", "shape", "layer", "step")


def tables(place: Place, job_id: int) -> dict[str, list[dict[str, object]]]:
    """The tables of a profile at each grain, FLOPs left out: they are no part of the events."""
    rows = {by: place.json("ops", job_id, "--by", by)["rows"] for by in GRAINS}
    return {by: [{name: it[name] for name in it if name != "flops"} for it in rows[by]] for by in GRAINS}


def test_an_exported_profile_is_the_same_when_it_is_imported_again(embedded: Place) -> None:
    words = ("--mode", "training", "--steps", 3, "--warmup", 1, "--shapes", "--allocations", "--flops", "-p", "batch=4")
    taken = embedded.json("profile", "demo:mlp", *words)
    assert taken["capture"] == ["flops", "memory", "shapes"]
    assert taken["profile"]["flops"]["flops"] > 0
    assert taken["profile"]["peak_bytes"]["cpu"] > 0
    assert {row["name"] for row in embedded.json("ops", taken["id"], "--by", "layer")["rows"]} > {"", "0"}

    exported = embedded.dnnamo("export", taken["id"], "--to", "perfetto", "-f", "again.json.gz")
    assert "again.json.gz" in exported.stderr
    (imported,) = embedded.json("import", "again.json.gz")

    assert tables(embedded, imported["id"]) == tables(embedded, taken["id"])
    assert imported["events"] == taken["profile"]["events"]


def test_a_profile_says_what_a_step_takes_unprofiled(embedded: Place) -> None:
    taken = embedded.json("profile", "demo:mlp", "--steps", 4, "--warmup", 1, "-p", "batch=4")
    overhead = taken["profile"]["overhead"]
    assert taken["steps"]["duration_ns"] == overhead["before_ns"] + overhead["after_ns"]
    assert len(overhead["before_ns"]) == len(overhead["after_ns"]) == 2
    assert taken["steps"]["median_ns"] == overhead["unprofiled_ns"]
    said = embedded.dnnamo("show", taken["id"]).stdout
    assert f"{overhead['ratio']:.2f}x" in said
    (row,) = embedded.json("sql", f"SELECT unprofiled_ns, overhead, verdict FROM profiles WHERE job_id = {taken['id']}")
    assert row["overhead"] == pytest.approx(overhead["ratio"])
    assert row["verdict"] == taken["profile"]["verdict"]


def test_without_pairing_no_time_is_shown_as_that_of_a_step(embedded: Place) -> None:
    taken = embedded.json("profile", "demo:mlp", "--steps", 2, "--warmup", 0, "--no-paired")
    assert (taken["paired"], taken["profile"]["overhead"]) == (False, None)
    assert (taken["steps"]["duration_ns"], taken["steps"]["median_ns"]) == ([], None)
    assert "how long one takes unprofiled was not measured" in embedded.dnnamo("show", taken["id"]).stdout


def test_a_keras_profile_is_told_looked_at_and_exported(embedded: Place) -> None:
    taken = embedded.json("profile", "demo:keras_mlp", "--mode", "training", "--steps", 3, "-p", "batch=4")
    rows = embedded.json("ops", taken["id"])["rows"]
    assert sum(row["self_ns"] for row in rows) > 0
    assert "time " in embedded.dnnamo("timeline", taken["id"]).stdout
    stacks = embedded.dnnamo("export", taken["id"], "--to", "folded").stdout
    assert sum(int(line.rpartition(" ")[2]) for line in stacks.splitlines()) > 0


@pytest.mark.parametrize("to", ["chrome", "perfetto", "speedscope", "parquet", "folded", "csv"])
def test_a_pipe_gets_what_a_file_gets(embedded: Place, to: str) -> None:
    (job,) = embedded.json("import", write_trace(embedded.home / "trace.json"))
    embedded.dnnamo("export", job["id"], "--to", to, "-f", "whole")
    output = embedded.home / "piped"
    with output.open("wb") as file, embedded.started("export", job["id"], "--to", to, output=file) as process:
        assert process.wait(60) == 0
    assert output.read_bytes() == (embedded.home / "whole").read_bytes()


def test_the_stored_events_are_read_without_dnnamo_s_database(embedded: Place) -> None:
    (job,) = embedded.json("import", write_trace(embedded.home / "trace.json"))
    with embedded.store() as store:
        (artifact,) = (it for it in store.artifacts(job["id"]) if it.name == EVENTS_NAME)
        content = store.read_artifact(artifact.digest)
    assert metadata_of(content)["source"] == "kineto"
    assert len(window(content)) == job["events"]


def test_traces_of_others_are_imported_on_a_cluster_too(cluster: Place, tmp_path: Path) -> None:
    path = tmp_path / "trace.json.gz"
    path.write_bytes(gzip.compress(write_trace(tmp_path / "trace.json").read_bytes()))
    (job,) = cluster.json("import", path, "--tag", "theirs")
    rows = list(csv.DictReader(io.StringIO(cluster.dnnamo("ops", job["id"], "--by", "kernel", "-o", "csv").stdout)))
    assert [(row["name"], row["device_ns"]) for row in rows] == [("gemm", "800000")]
    question = (
        f"SELECT grain, COUNT(*) AS rows FROM operations WHERE job_id = {job['id']} GROUP BY grain ORDER BY grain"
    )
    assert cluster.json("sql", question) == [
        {"grain": "kernel", "rows": 1},
        {"grain": "name", "rows": 4},
        {"grain": "shape", "rows": 4},
    ]
    assert [it["id"] for it in cluster.json("ls", "--tag", "theirs", "--method", "import_trace")] == [job["id"]]


BAD = {
    "nowhere": (["import", "nowhere.json"], ["nowhere.json"]),
    "no trace": (["import", "text.json"], ["text.json"]),
    "empty": (["import", "empty.json"], ["empty.json"]),
    "no such form": (["export", "1", "--to", "svg"], ["svg", "perfetto"]),
    "no such job's export": (["export", "4711"], ["4711"]),
    "no such job's time line": (["timeline", "4711"], ["4711"]),
    "SQL that writes": (["sql", "DELETE FROM jobs"], ["DELETE"]),
    "SQL that is none": (["sql", "how many jobs are there?"], []),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_usage_ends_with_2_and_one_paragraph(embedded: Place, case: str) -> None:
    (embedded.home / "text.json").write_text('{"hello": "world"}')
    (embedded.home / "empty.json").touch()
    words, said = BAD[case]
    assert one_paragraph(embedded.dnnamo(*words, code=2).stderr, *said)
    assert embedded.json("ls") == []


def test_of_several_files_the_good_ones_are_stored_and_the_exit_code_tells_of_the_others(embedded: Place) -> None:
    write_trace(embedded.home / "good.json")
    (embedded.home / "bad.json").write_text("{}")
    done = embedded.dnnamo("import", "bad.json", "good.json", "-o", "json", code=2)
    assert [row["file"] for row in json.loads(done.stdout)] == ["good.json"]
    assert "bad.json: " in done.stderr
    assert one_paragraph(done.stderr, "1 of 2 files", "bad.json")
