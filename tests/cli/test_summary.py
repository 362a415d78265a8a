from datetime import UTC, datetime, timedelta

import pytest

from dnnamo.cli.summary import age, listed
from dnnamo.records import Job, JobSpec


@pytest.mark.parametrize(
    ("seconds", "says"),
    [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h"), (86_400 * 3, "3 d"), (-5, "0 s")],
)
def test_age_is_told_to_its_largest_unit(seconds, says):
    assert age(datetime.now(UTC) - timedelta(seconds=seconds, milliseconds=100 if seconds >= 0 else 0)) == says


def test_a_listed_job_has_its_options_as_they_were_typed():
    spec = JobSpec(model="demo:mlp", method="run_inference", params={"batch": 4, "name": "a b"})
    job = Job(
        id=3,
        spec=spec,
        state="queued",
        cause=None,
        message=None,
        cancel_requested=False,
        created=datetime.now(UTC),
        started=None,
        ended=None,
        attempts=[],
    )
    assert listed(job)["params"] == 'batch=4 name="a b"'
    assert (listed(job)["id"], listed(job)["state"]) == (3, "queued")
