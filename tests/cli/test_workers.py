import csv
import io
import json

from dnnamo.records import JobSpec
from tests.cli.conftest import Said

SPEC = JobSpec(model="demo:mlp", method="run_inference")


def report(store, jobs=(), set_aside=()) -> None:
    store.report_worker(
        "box:1",
        queues=["cpu"],
        slots=2,
        devices=["cores 0-3", "cores 4-7"],
        set_aside=list(set_aside),
        jobs=list(jobs),
        idle_s=0,
    )


def test_a_worker_is_listed_with_what_it_holds_and_why_jobs_wait(store):
    store.submit(SPEC)
    report(store, [3, 4])

    said = Said.well("workers")

    (row,) = (line for line in said.out.splitlines() if "box:1" in line)
    assert "cores 0-3; cores 4-7" in row
    assert "3, 4" in row
    assert "1 job in queue cpu waits" in said.err
    assert "all 2 slots of queue cpu are busy with jobs 3, 4" in said.err


def test_workers_as_json_have_the_reasons_too(store):
    store.submit(SPEC)
    report(store, [3, 4], ["GPU-5b2f… does not answer"])

    said = Said.well("workers", "-o", "json")

    told = json.loads(said.out)
    (worker,) = told["workers"]
    assert worker["set_aside"] == ["GPU-5b2f… does not answer"]
    assert {"name", "queues", "slots", "started", "polled", "seen", "devices", "jobs"} <= set(worker)
    (queue,) = told["queues"]
    assert (queue["queue"], queue["queued"]) == ("cpu", 1)
    assert "box:1 has set a device aside: GPU-5b2f… does not answer" in queue["reason"]
    assert said.err == ""


def test_workers_as_csv_are_a_row_each(store):
    report(store, [3, 4])

    (row,) = csv.DictReader(io.StringIO(Said.well("workers", "-o", "csv").out))
    assert (row["name"], row["slots"], row["jobs"]) == ("box:1", "2", "[3, 4]")


def test_no_workers_are_said_to_be_none(store):
    said = Said.well("workers")

    assert said.out == ""
    assert said.err == "There are no workers. `dnnamo worker` starts one.\n"
    assert json.loads(Said.well("workers", "-o", "json").out) == {"workers": [], "queues": []}


def test_without_a_broker_nobody_needs_workers(store, monkeypatch):
    store.submit(SPEC)
    monkeypatch.delenv("DNNAMO_BROKER_URL")

    said = Said.well("workers")

    assert "without a broker, jobs run in the process that submits them" in said.err
    assert "1 job in queue cpu waits" in said.err
    assert "`dnnamo wait`" in said.err
