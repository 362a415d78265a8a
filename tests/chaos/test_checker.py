"""The checker finds every kind of broken promise in histories made up for it, and nothing in good ones."""

from dataclasses import replace

import pytest

from tests.chaos.checker import violations
from tests.chaos.history import Attempt, History, Job, Result
from tests.chaos.log import Line

JOB = Job(id=7, number=1, state="succeeded", cause=None, attempt=1, created=0.0, ended=20.0)
LOST = Attempt(
    job_id=7, number=1, worker="a", state="lost", cause="lost", started=1.0, ended=5.0
)  # fmt: skip
GOOD = Attempt(job_id=7, number=1, worker="b", state="succeeded", cause=None, started=10.0, ended=20.0)
RESULT = Result(job_id=7, attempt=1, run=42)


def ran(run: int, began: float, ended: float | None, *, job: int = 1) -> list[Line]:
    lines = [Line(job=job, run=run, pid=100, event="began", wall=began)]
    return lines if ended is None else [*lines, Line(job=job, run=run, pid=100, event="ended", wall=ended)]


def found(lines=None, *, jobs=(JOB,), attempts=(GOOD,), results=(RESULT,), acknowledged=None, drained=True):
    return violations(
        ran(42, 11.0, 19.0) if lines is None else lines,
        History(jobs=jobs, attempts=attempts, results=results),
        {1: 7} if acknowledged is None else acknowledged,
        drained=drained,
    )


def numbered(*attempts: Attempt) -> list[Attempt]:
    return [replace(attempt, number=number) for number, attempt in enumerate(attempts, 1)]


def job_with(attempts, **changes) -> dict:
    return {"jobs": [replace(JOB, attempt=len(attempts), **changes)], "attempts": attempts}


def failed(cause: str, started: float) -> Attempt:
    return replace(GOOD, state="failed", cause=cause, started=started, ended=started + 1)


GOOD_HISTORIES = {
    "one attempt": {},
    "lost, then succeeded": {
        "lines": [*ran(41, 2.0, None), *ran(42, 11.0, 19.0)],
        **job_with(numbered(LOST, GOOD)),
        "results": [replace(RESULT, attempt=2)],
    },
    "lost, went on unseen, and was not recorded": {
        "lines": [*ran(41, 2.0, 15.0), *ran(42, 11.0, 19.0)],
        **job_with(numbered(LOST, GOOD)),
        "results": [replace(RESULT, attempt=2)],
    },
    "lost before the model was loaded": {
        **job_with(numbered(LOST, GOOD)),
        "results": [replace(RESULT, attempt=2)],
    },
    "failed": {
        "lines": ran(42, 11.0, None),
        **job_with([failed("user_error", 10.0)], state="failed", cause="user_error"),
        "results": [],
    },
    "crashed twice": {
        "lines": [*ran(41, 10.5, None), *ran(42, 12.5, None)],
        **job_with(numbered(failed("signal", 10.0), failed("signal", 12.0)), state="failed", cause="signal"),
        "results": [],
    },
    "quarantined": {
        "lines": [],
        **job_with(
            numbered(*(replace(LOST, started=at, ended=at + 1.0) for at in (1.0, 2.0, 3.0))),
            state="failed",
            cause="quarantined",
        ),
        "results": [],
    },
    "cancelled while queued": {
        "lines": [],
        **job_with([], state="cancelled", cause="cancelled"),
        "results": [],
    },
    "not acknowledged": {"acknowledged": {}},
    "still queued, and nobody said it was over": {
        "lines": [],
        **job_with([], state="queued", ended=None),
        "results": [],
        "drained": False,
    },
}


@pytest.mark.parametrize("name", GOOD_HISTORIES)
def test_good_history_breaks_nothing(name):
    assert found(**GOOD_HISTORIES[name]) == []


TWICE = numbered(replace(GOOD, started=1.0, ended=5.0), GOOD)

FORGED = {
    "lost: submit 2": {"acknowledged": {1: 7, 2: 8}},
    "mixed up: submit 2": {"acknowledged": {1: 7, 2: 7}},
    "doubled: submit 1 became 2 jobs": {
        "jobs": [JOB, replace(JOB, id=8, attempt=0, state="cancelled", cause="cancelled")],
    },
    "misnumbered: job 7 counts 2": {"jobs": [replace(JOB, attempt=2)]},
    "misnumbered: job 7 counts 1 attempts, and there are those numbered [2]": {
        "attempts": [replace(GOOD, number=2)],
        "results": [replace(RESULT, attempt=2)],
    },
    "backwards: attempt 1": {"attempts": [replace(GOOD, started=21.0)]},
    "overlap: attempt 2": {
        **job_with(numbered(replace(LOST, ended=10.5), GOOD)),
        "results": [replace(RESULT, attempt=2)],
    },
    "stuck: job 7 is queued": {
        "lines": [],
        **job_with([], state="queued", ended=None),
        "results": [],
    },
    "stuck: job 7 is running": {
        **job_with([replace(GOOD, state="running", ended=None)], state="running", ended=None),
        "results": [],
    },
    "undead: job 7 is succeeded": {
        **job_with(numbered(replace(LOST, state="running", ended=None), GOOD)),
        "results": [replace(RESULT, attempt=2)],
    },
    "recorded twice or wrongly: job 7 is succeeded and its attempts [1, 2]": {
        "lines": [*ran(41, 2.0, 4.0), *ran(42, 11.0, 19.0)],
        **job_with(TWICE),
        "results": [replace(RESULT, attempt=2)],
    },
    "recorded twice or wrongly: job 7 has results of attempts [1, 2]": {
        "lines": [*ran(41, 2.0, None), *ran(42, 11.0, 19.0)],
        **job_with(numbered(LOST, GOOD)),
        "results": [replace(RESULT, run=41), replace(RESULT, attempt=2)],
    },
    "recorded twice or wrongly: job 7 has results of attempts []": {"results": []},
    "recorded twice or wrongly: job 7 is cancelled and its attempts [1]": {
        "jobs": [replace(JOB, state="cancelled", cause="cancelled")],
    },
    "contradiction: job 7 is failed (timeout)": {
        **job_with([failed("user_error", 10.0)], state="failed", cause="timeout"),
        "lines": [],
        "results": [],
    },
    "quarantine: job 7 is failed (quarantined) after 1 lost": {
        **job_with([LOST], state="failed", cause="quarantined"),
        "lines": [],
        "results": [],
    },
    "quarantine: job 7 is succeeded (None) after 4 lost": {
        **job_with(numbered(*(replace(LOST, started=at, ended=at + 1.0) for at in (1.0, 2.0, 3.0, 4.0)), GOOD)),
        "results": [replace(RESULT, attempt=5)],
    },
    "retried too often: job 7 crashed in 3": {
        **job_with(
            numbered(*(failed("signal", at) for at in (1.0, 2.0, 3.0))), state="failed", cause="signal"
        ),
        "lines": [],
        "results": [],
    },
    "headless: execution 41": {"lines": [*ran(42, 11.0, 19.0), *ran(41, 12.0, 13.0)[1:]]},
    "unasked: execution 41 is of submit 5": {"lines": [*ran(42, 11.0, 19.0), *ran(41, 12.0, 13.0, job=5)]},
    "unclaimed: execution 41 of job 7": {"lines": [*ran(42, 11.0, 19.0), *ran(41, 2.0, 3.0)]},
    "executed twice: attempt 1 of job 7": {"lines": [*ran(42, 11.0, 19.0), *ran(41, 12.0, 13.0)]},
    "made up: the result of job 7 is execution 43's": {"results": [replace(RESULT, run=43)]},
    "made up: the result of job 7 is execution 42's": {"lines": ran(42, 11.0, None)},
    "stale: the result of job 7 is execution 41's, not attempt 2's": {
        "lines": [*ran(41, 2.0, 15.0), *ran(42, 11.0, 19.0)],
        **job_with(numbered(LOST, GOOD)),
        "results": [replace(RESULT, attempt=2, run=41)],
    },
}  # fmt: skip


@pytest.mark.parametrize("said", FORGED)
def test_forged_history_is_found_out(said):
    assert any(violation.startswith(said) for violation in found(**FORGED[said])), found(**FORGED[said])
