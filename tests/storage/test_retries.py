"""Which failed attempts are tried once more, on every database."""

from typing import Any

import pytest
from sqlalchemy import select

from dnnamo.records import Artifact, Cause, Claim, Outcome
from dnnamo_storage import MAX_LOSSES, TRIED_TWICE, Store
from dnnamo_storage import schema as tables
from dnnamo_storage.artifacts import digest_of
from dnnamo_storage.engine import reading
from tests.storage.stored import (
    ENVIRONMENT,
    PROFILE,
    RESULT,
    SPEC,
    SUCCEEDED,
    contents,
    count,
    lose,
    race,
    submit_and_take,
    take,
)

LOG = Artifact(name="log.txt", media_type="text/plain")


def fail(store: Store, claim: Claim, cause: Cause = "signal", message: str | None = "SIGSEGV.", **more: Any) -> None:
    outcome = Outcome(state="failed", cause=cause, message=message, environment=ENVIRONMENT, artifacts=[LOG], **more)
    assert store.record(claim, outcome, files={"log.txt": f"attempt {claim.attempt}".encode()})


def log_of(store: Store, job_id: int) -> bytes:
    (log,) = store.artifacts(job_id)
    return store.read_artifact(log.digest)


def test_what_may_be_chance() -> None:
    assert TRIED_TWICE == ("signal", "oom_host", "oom_device")


@pytest.mark.parametrize("cause", TRIED_TWICE)
def test_a_job_that_failed_by_what_may_be_chance_is_tried_once_more(store: Store, cause: Cause) -> None:
    first = submit_and_take(store)
    fail(store, first, cause)
    job = store.job(first.job_id)
    assert (job.state, job.cause, job.message, job.ended) == ("queued", None, None, None)
    assert store.queued("cpu", 10) == 1

    second = take(store, job_id=first.job_id)
    assert second.attempt == 2
    assert store.record(second, SUCCEEDED, files={})
    job = store.job(first.job_id)
    assert (job.state, job.cause, job.message) == ("succeeded", None, None)
    assert [attempt.state for attempt in job.attempts] == ["failed", "succeeded"]


def test_the_attempt_that_failed_is_kept_with_its_files(store: Store) -> None:
    claim = submit_and_take(store)
    fail(store, claim, "oom_host", "1.02 GiB of 1.00 GiB.")
    (attempt,) = store.job(claim.job_id).attempts
    assert (attempt.state, attempt.cause, attempt.message) == ("failed", "oom_host", "1.02 GiB of 1.00 GiB.")
    assert attempt.environment == ENVIRONMENT.digest
    assert attempt.ended is not None
    assert log_of(store, claim.job_id) == b"attempt 1"

    second = take(store, job_id=claim.job_id)
    assert log_of(store, claim.job_id) == b"attempt 1"
    fail(store, second)
    assert log_of(store, claim.job_id) == b"attempt 2"
    with reading(store.engine) as connection:
        kept = select(tables.attempt_artifacts.c.attempt, tables.attempt_artifacts.c.digest)
        rows = connection.execute(kept.order_by(tables.attempt_artifacts.c.attempt)).all()
    assert [tuple(row) for row in rows] == [(1, digest_of(b"attempt 1")), (2, digest_of(b"attempt 2"))]


def test_the_second_time_the_job_fails_and_says_so(store: Store) -> None:
    job_id = submit_and_take_and_fail(store, "oom_device")
    fail(store, take(store, job_id=job_id), "signal", "Killed by SIGSEGV.")
    job = store.job(job_id)
    assert (job.state, job.cause, job.is_over) == ("failed", "signal", True)
    assert job.message == "Killed by SIGSEGV. The job was tried twice: attempt 1 ended with oom_device."
    assert [attempt.message for attempt in job.attempts] == ["SIGSEGV.", "Killed by SIGSEGV."]
    assert store.queued("cpu", 10) == 0


def submit_and_take_and_fail(store: Store, cause: Cause) -> int:
    claim = submit_and_take(store)
    fail(store, claim, cause)
    return claim.job_id


def test_a_second_failure_without_a_message_says_that_the_job_was_tried_twice(store: Store) -> None:
    job_id = submit_and_take_and_fail(store, "signal")
    fail(store, take(store, job_id=job_id), "signal", None)
    assert store.job(job_id).message == "The job was tried twice: attempt 1 ended with signal."


@pytest.mark.parametrize("cause", ["user_error", "unsupported", "timeout", "output_limit", "scratch_limit", None])
def test_other_failures_are_not_tried_again(store: Store, cause: Any) -> None:
    claim = submit_and_take(store)
    fail(store, claim, cause)
    assert (store.job(claim.job_id).state, store.job(claim.job_id).cause) == ("failed", cause)


@pytest.mark.parametrize("state", ["succeeded", "cancelled"])
def test_only_failures_are_tried_again(store: Store, state: Any) -> None:
    claim = submit_and_take(store)
    assert store.record(claim, Outcome(state=state, cause="signal"), files={})
    assert store.job(claim.job_id).state == state


def test_another_cause_the_second_time_is_told_as_it_is(store: Store) -> None:
    job_id = submit_and_take_and_fail(store, "signal")
    fail(store, take(store, job_id=job_id), "timeout", "too slow")
    assert (store.job(job_id).cause, store.job(job_id).message) == ("timeout", "too slow")


def test_lost_and_handed_back_attempts_do_not_use_up_the_second_try(store: Store) -> None:
    job_id = store.submit(SPEC)
    lose(store, job_id)
    store.hand_back(take(store, job_id=job_id))
    fail(store, take(store, job_id=job_id))
    assert store.job(job_id).state == "queued"
    lose(store, job_id)
    fail(store, take(store, job_id=job_id))
    job = store.job(job_id)
    assert job.state == "failed"
    assert str(job.message).endswith("The job was tried twice: attempt 3 ended with signal.")


def test_a_failed_attempt_is_no_loss(store: Store) -> None:
    job_id = submit_and_take_and_fail(store, "signal")
    for _ in range(MAX_LOSSES - 1):
        lose(store, job_id)
    assert store.job(job_id).state == "queued"
    lose(store, job_id)
    assert store.job(job_id).cause == "quarantined"


def test_a_job_to_be_cancelled_is_not_tried_again(store: Store) -> None:
    claim = submit_and_take(store)
    store.cancel(claim.job_id)
    fail(store, claim)
    job = store.job(claim.job_id)
    assert (job.state, job.cause, job.is_over) == ("cancelled", "cancelled", True)
    assert (job.attempts[0].state, job.attempts[0].cause) == ("failed", "signal")
    assert log_of(store, claim.job_id) == b"attempt 1"


def test_a_result_of_the_failed_attempt_does_not_stand_in_the_way_of_the_second(store: Store) -> None:
    claim = submit_and_take(store)
    fail(store, claim, result=RESULT, profile=PROFILE)
    assert store.result(claim.job_id) is None
    assert store.profile(claim.job_id) is None
    done = Outcome(state="succeeded", result=RESULT, profile=PROFILE)
    assert store.record(take(store, job_id=claim.job_id), done, files={})
    assert store.result(claim.job_id) == RESULT
    assert (count(store, "results"), count(store, "profiles")) == (1, 1)


def test_a_failure_counts_once(store: Store) -> None:
    claim = submit_and_take(store)
    fail(store, claim)
    before = contents(store)
    again = Outcome(state="failed", cause="signal", message="again")
    assert store.record(claim, again, files={}) is False
    assert contents(store) == before


def test_of_racing_failures_one_counts(store: Store) -> None:
    claim = submit_and_take(store)
    outcome = Outcome(state="failed", cause="signal", message="SIGSEGV")
    assert sorted(race(*[lambda: store.record(claim, outcome, files={})] * 6)) == [False] * 5 + [True]
    job = store.job(claim.job_id)
    assert (job.state, [attempt.state for attempt in job.attempts]) == ("queued", ["failed"])


def test_when_it_started_stays(store: Store) -> None:
    claim = submit_and_take(store)
    started = store.job(claim.job_id).started
    fail(store, claim)
    assert store.job(claim.job_id).started == started
    take(store, job_id=claim.job_id)
    assert store.job(claim.job_id).started == started
