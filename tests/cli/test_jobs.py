import json

import pytest

from dnnamo import client
from dnnamo.cli.waiting import warn_if_stuck
from dnnamo.client import JobHandle
from dnnamo.errors import UsageError
from dnnamo.records import JobSpec, Progress
from dnnamo_workers import devices
from tests.cli.conftest import Said

SPEC = JobSpec(model="demo:mlp", method="run_training", n_steps=50)
NIGHTLY = JobSpec(model="demo:mlp", method="run_training", tags=["nightly"])


def running(store, progress=None) -> int:
    """Begin the next attempt, and say how far it is."""
    claim = store.claim(["cpu"], worker="w", lease_s=30)
    store.renew(claim, lease_s=30, progress=progress)
    return claim.job_id


def test_a_list_has_the_progress_of_what_runs(store):
    job_id = store.submit(SPEC)
    running(store, Progress(warmup=3, done=12, loss=0.31))

    header, _, row = Said.well("ls").out.splitlines()
    assert "progress" in header
    assert "12/50 steps, loss 0.31" in row
    assert Said.well("show", job_id).out.splitlines()[-1].split(maxsplit=1) == ["progress", "12/50 steps, loss 0.31"]
    (listed,) = json.loads(Said.well("ls", "-o", "json").out)
    assert listed["progress"] == {"warmup": 3, "done": 12, "loss": 0.31}


def test_a_list_of_jobs_without_tags_and_progress_has_no_columns_for_them(store):
    store.submit(SPEC)

    header = Said.well("ls").out.splitlines()[0].split()
    assert {"tags", "progress"} & set(header) == set()


def test_a_list_has_only_jobs_with_all_the_tags(store):
    store.submit(SPEC)
    store.submit(NIGHTLY)
    both = store.submit(JobSpec(model="demo:mlp", method="run_training", tags=["nightly", "small"]))

    assert [row["id"] for row in json.loads(Said.well("ls", "--tag", "nightly", "-o", "json").out)] == [both, both - 1]
    words = ("ls", "--tag", "small", "--tag", "nightly", "-o", "json")
    assert [row["id"] for row in json.loads(Said.well(*words).out)] == [both]


def test_a_list_says_why_queued_jobs_wait(store):
    store.submit(SPEC)
    store.submit(SPEC)

    said = Said.well("ls", "-o", "json")
    assert len(json.loads(said.out)) == 2
    assert said.err.startswith("2 jobs in queue cpu wait, the first since ")
    assert said.err.endswith(": no worker serves queue cpu; `dnnamo worker --queue cpu` starts one.\n")


def test_show_as_json_has_the_whole_spec(store):
    spec = JobSpec(
        model="demo:mlp",
        method="run_training",
        memory_bytes=2**31,
        output_bytes=7,
        scratch_bytes=8,
        python="/opt/v/bin/python",
        repeats=2,
        tags=["a"],
        timeout_s=3.5,
        warmup=4,
    )
    shown = json.loads(Said.well("show", store.submit(spec), "-o", "json").out)

    assert {name: shown[name] for name in spec.to_dict()} == spec.to_dict()
    assert shown["evidence"] is None


def test_all_jobs_with_a_tag_are_cancelled(store):
    ids = [store.submit(spec) for spec in (NIGHTLY, NIGHTLY, SPEC)]
    assert running(store) == ids[0]

    said = Said.well("cancel", "--tag", "nightly")

    assert said.err == "1 queued job cancelled, 1 running job told to stop.\n"
    assert [store.job(job_id).state for job_id in ids] == ["running", "cancelled", "queued"]
    assert Said.well("cancel", "--all").err == "1 queued job cancelled, 1 running job told to stop.\n"


@pytest.mark.parametrize(
    "words", [["--state", "queued"], ["--model", "demo:mlp"], ["--method", "run_training"], ["--all"]]
)
def test_each_filter_cancels(store, words):
    store.submit(SPEC)

    assert Said.well("cancel", *words).err == "1 queued job cancelled, 0 running jobs told to stop.\n"


def test_what_does_not_match_goes_on(store):
    job_id = store.submit(SPEC)

    said = Said.well("cancel", "--state", "queued", "--model", "demo:cnn")

    assert said.err == "0 queued jobs cancelled, 0 running jobs told to stop.\n"
    assert store.job(job_id).state == "queued"


def test_jobs_are_cancelled_by_their_ids(store):
    ids = [store.submit(SPEC) for _ in range(3)]
    running(store)
    store.cancel(ids[1])

    said = Said.well("cancel", *ids)

    assert (
        said.err == f"Job {ids[0]}: told to stop.\nJob {ids[1]} is over already: cancelled.\nJob {ids[2]}: cancelled.\n"
    )


@pytest.mark.parametrize(
    "words", [[], ["1", "--all"], ["1", "--tag", "a"], ["--all", "--tag", "a"], ["--all", "--state", "queued"]]
)
def test_cancelling_takes_ids_or_filters_and_not_both(store, words):
    job_id = store.submit(NIGHTLY)

    assert isinstance(Said("cancel", *words).error, UsageError)
    assert store.job(job_id).state == "queued"


def test_a_job_that_nobody_takes_is_said_to_wait(store):
    job_id = store.submit(JobSpec(model="demo:mlp", method="run_training", device="gpu"))

    said = Said("wait", job_id, "--timeout", "0.01")

    assert said.err == f"No worker serves queue gpu; `dnnamo worker --queue gpu` starts one. Job {job_id} waits.\n"
    assert isinstance(said.error, UsageError)


def test_an_interrupted_wait_leaves_the_job_alone_and_says_so(store, monkeypatch):
    job_id = store.submit(SPEC)
    running(store)
    monkeypatch.setattr(JobHandle, "wait", interrupted)

    said = Said("wait", job_id)

    assert said.err.startswith(f"Job {job_id} is running and goes on; `dnnamo cancel {job_id}` ends it.\n")
    assert not store.job(job_id).cancel_requested


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("classes", "says"), [(["cpu"], "NVML sees none on this machine"), (["cpu", "gpu"], "")])
def test_without_a_broker_a_gpu_that_is_missing_is_said_before_the_job_runs(store, monkeypatch, capsys, classes, says):
    job_id = store.submit(JobSpec(model="demo:mlp", method="run_training", device="gpu"))
    monkeypatch.delenv("DNNAMO_BROKER_URL")
    monkeypatch.setattr(devices, "device_classes", lambda: classes)

    warn_if_stuck(client.job(job_id))

    said = capsys.readouterr().err
    assert says in said
    assert bool(said) == bool(says)
