from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dnnamo.cli.summary import age, counted, listed, standing, story
from dnnamo.client import JobHandle
from dnnamo.records import Environment, Evidence, Job, JobSpec, Progress, Result, Setup, Steps

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def job(**fields: Any) -> Job:
    """A queued job, unless told otherwise; what `JobSpec` knows goes there."""
    of_spec = {name: fields.pop(name) for name in JobSpec.__struct_fields__ if name in fields}
    return Job(
        **{
            "id": 3,
            "spec": JobSpec(**{"model": "demo:mlp", "method": "run_inference", **of_spec}),
            "state": "queued",
            "cause": None,
            "message": None,
            "cancel_requested": False,
            "created": datetime.now(UTC),
            "started": None,
            "ended": None,
            "attempts": [],
            **fields,
        }
    )


class Stored(JobHandle):
    """A handle on a job that no database has."""

    environment: Environment | None = None
    artifacts = []

    def __init__(self, record: Job, result: Result) -> None:
        self.id = record.id
        self._over = record
        self._result = result

    @property
    def stored_result(self) -> Result:
        return self._result


def told(record: Job, result: Result | None = None) -> dict[str, str]:
    """What `show` says of a job, by heading."""
    return dict(story(Stored(record, result or Result())))


@pytest.mark.parametrize(
    ("seconds", "says"),
    [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h"), (86_400 * 3, "3 d"), (-5, "0 s")],
)
def test_age_is_told_to_its_largest_unit(seconds, says):
    assert age(NOW - timedelta(seconds=seconds), NOW) == says


def test_age_is_counted_from_now_by_default():
    assert age(datetime.now(UTC) - timedelta(hours=2, minutes=1)) == "2 h"


@pytest.mark.parametrize(("number", "says"), [(0, "0 jobs"), (1, "1 job"), (2000, "2,000 jobs")])
def test_things_are_counted_in_words(number, says):
    assert counted(number, "job") == says


def test_a_listed_job_has_its_options_as_they_were_typed():
    row = listed(job(params={"batch": 4, "name": "a b"}, tags=["nightly", "small"]))

    assert row["params"] == 'batch=4 name="a b"'
    assert row["tags"] == "nightly small"
    assert (row["id"], row["state"]) == (3, "queued")


@pytest.mark.parametrize(
    ("state", "progress", "says"),
    [
        ("queued", None, ""),
        ("running", None, ""),
        ("running", Progress(warmup=1), "warm up, 1 step"),
        ("running", Progress(warmup=4, done=12), "12/50 steps"),
        ("running", Progress(warmup=4, done=12, loss=0.312345), "12/50 steps, loss 0.3123"),
        ("running", Progress(done=1, loss=0.0), "1/50 steps, loss 0"),
        ("succeeded", Progress(done=50), ""),
    ],
)
def test_how_far_a_job_is_is_told_while_it_runs(state, progress, says):
    record = job(state=state, progress=progress, n_steps=50)

    assert standing(record) == listed(record)["progress"] == says
    assert told(record).get("progress", "") == says


def test_show_tells_what_was_asked_for():
    said = told(
        job(
            timeout_s=90,
            memory_bytes=2**31,
            output_bytes=0,
            scratch_bytes=1536 * 2**10,
            python="/opt/v/bin/python",
            repeats=2,
            tags=["a", "b"],
        )
    )
    assert said["limits"] == "90 s · memory 2.00 GiB · output 0 bytes · scratch 1.50 MiB"
    assert said["python"] == "/opt/v/bin/python"
    assert said["repeat"] == "at most 2 times if disturbed"
    assert said["tags"] == "a b"


def test_show_is_silent_of_what_was_not():
    assert {"limits", "python", "repeat", "tags", "quality", "progress"} & set(told(job())) == set()


@pytest.mark.parametrize(
    ("reasons", "repeated", "says"),
    [
        ([], 0, "clean"),
        ([], 2, "clean (measured 3 times)"),
        (
            ["others used 12 % of the cores", "the clock was held down"],
            0,
            "tainted: others used 12 % of the cores; the clock was held down",
        ),
        (["others used 12 % of the cores"], 1, "tainted: others used 12 % of the cores (measured 2 times)"),
    ],
)
def test_quality_is_told_with_its_reasons(reasons, repeated, says):
    evidence = Evidence(wall_ns=10, cores=[0], own_cpu_ns=10, foreign_cpu_ns=0, reasons=reasons, repeated=repeated)
    result = Result(steps=Steps(count=1, duration_ns=[10]), evidence=evidence)

    assert told(job(state="succeeded"), result)["quality"] == says


def test_show_says_how_the_model_was_set_up_as_far_as_that_was_asked_for():
    said = told(job(setup=Setup(precision="bfloat16", channels_last=True), seed=7))

    assert said["setup"] == "precision bfloat16 · channels_last"
    assert "seed 7" in said["queue"]
    assert "setup" not in told(job())


def test_show_tells_the_steps_of_what_does_steps():
    assert told(job(method="run_training", n_steps=3))["queue"] == "cpu · steps 3"
    assert told(job(method="get_training_graph", n_steps=10))["queue"] == "cpu"
