"""What `Store` promises, on every database that it runs on."""

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import event, func, select, text, update

from dnnamo.errors import JobNotFound, UsageError
from dnnamo.records import (
    Artifact,
    Backlog,
    Claim,
    Device,
    Evidence,
    JobSpec,
    Operation,
    Outcome,
    Overhead,
    Profile,
    Progress,
    Result,
)
from dnnamo_storage import MAX_LOSSES, Renewal, Store
from dnnamo_storage import schema as tables
from dnnamo_storage.artifacts import digest_of
from dnnamo_storage.columns import db_now
from dnnamo_storage.engine import reading, writing
from tests.storage.stored import (
    ENVIRONMENT,
    HUGE,
    PROFILE,
    RESULT,
    SPEC,
    SUCCEEDED,
    contents,
    count,
    let_lease_run_out,
    lose,
    race,
    submit_and_take,
    take,
)

NASTY = "a\x00b \ud83d half \U0001f98a 名前"
KEPT = "a\ufffdb \ufffd half \U0001f98a 名前"


def record_with_files(
    store: Store, claim: Claim, files: Mapping[str, bytes | Path], names: Sequence[str] | None = None
) -> bool:
    named = [Artifact(name=name, media_type="text/plain") for name in (files if names is None else names)]
    return store.record(claim, Outcome(state="succeeded", artifacts=named), files=files)


def record_profile(store: Store, profile: Profile) -> int:
    claim = submit_and_take(store)
    assert store.record(claim, Outcome(state="succeeded", profile=profile), files={})
    return claim.job_id


class TestSubmit:
    def test_a_job_is_stored_as_it_was_given(self, store: Store) -> None:
        spec = JobSpec(
            model="/models/naïve 🦊.py",
            method="run_training",
            params={"width": 2**40, "lr": 1e-3, "layers": [1, 2], "deep": {"name": "ä", "none": None}, "e": "\\u0000"},
            n_steps=HUGE,
            warmup=0,
            device="gpu",
            threads=3,
            priority=-(2**31),
            timeout_s=0.5,
            weights="ab" * 32,
        )
        job = store.job(store.submit(spec))
        assert job.spec == spec
        assert (job.state, job.cause, job.message, job.cancel_requested) == ("queued", None, None, False)
        assert (job.started, job.ended, job.attempts) == (None, None, [])
        assert job.created.tzinfo is UTC
        assert abs((datetime.now(UTC) - job.created).total_seconds()) < 5

    def test_what_people_query_is_a_column(self, store: Store) -> None:
        store.submit(JobSpec(model="m", method="get_weights", params={"a": [1]}, n_steps=7, device="gpu", priority=3))
        with reading(store.engine) as connection:
            row = connection.execute(select(tables.jobs)).one()
        assert (row.model, row.method, row.device, row.priority, row.n_steps, row.params) == (
            "m",
            "get_weights",
            "gpu",
            3,
            7,
            {"a": [1]},
        )

    def test_ids_grow_and_are_never_given_out_again(self, store: Store) -> None:
        first, second = store.submit(SPEC), store.submit(SPEC)
        with writing(store.engine) as connection:
            connection.execute(tables.jobs.delete())
        assert first < second < store.submit(SPEC)

    def test_the_same_key_is_the_same_job(self, store: Store) -> None:
        first = store.submit(SPEC, key="k")
        assert store.submit(SPEC, key="k") == first
        assert store.submit(SPEC, key="other") != first
        assert store.submit(SPEC) != store.submit(SPEC)

    def test_the_same_key_in_a_race_is_one_job(self, store: Store) -> None:
        for key in ("a", "b", "c"):
            assert len(set(race(*[lambda key=key: store.submit(SPEC, key=key)] * 8))) == 1
        assert count(store, "jobs") == 3

    @pytest.mark.parametrize(
        "params",
        [{"a": "\x00"}, {"\ud800": 1}, {"lr": float("nan")}, {"deep": [float("inf")]}, {"a": object()}],
    )
    def test_parameters_that_cannot_be_kept_as_they_are_are_refused(self, store: Store, params: dict[str, Any]) -> None:
        with pytest.raises(UsageError, match="demo:mlp"):
            store.submit(JobSpec(model="demo:mlp", method="run_inference", params=params))
        assert count(store, "jobs") == 0

    def test_too_many_steps_are_refused(self, store: Store) -> None:
        with pytest.raises(UsageError, match="64 bits"):
            store.submit(JobSpec(model="m", method="run_inference", n_steps=2**63))

    def test_a_long_model_reference_and_key_are_kept(self, store: Store) -> None:
        model = "".join(chr(0x4E00 + number) for number in range(5000))
        store.submit(JobSpec(model=model, method="run_inference"))
        assert [job.spec.model for job in store.jobs(model=model)] == [model]


class TestClaim:
    def test_nothing_queued_is_nothing_to_claim(self, store: Store) -> None:
        assert store.claim(["cpu"], worker="w", lease_s=30) is None
        assert store.claim([], worker="w", lease_s=30) is None

    def test_a_claim_begins_an_attempt(self, store: Store) -> None:
        job_id = store.submit(SPEC)
        claim = take(store)
        assert (claim.job_id, claim.attempt, claim.spec) == (job_id, 1, SPEC)
        assert len(claim.token) == 32

        job = store.job(job_id)
        assert job.state == "running"
        assert job.started is not None
        (attempt,) = job.attempts
        assert (attempt.number, attempt.worker, attempt.state, attempt.ended) == (1, "w1", "running", None)
        assert store.claim(["cpu"], worker="w2", lease_s=30) is None

    def test_the_greatest_priority_goes_first_and_then_the_oldest(self, store: Store) -> None:
        wanted: list[tuple[int, Device]] = [(0, "cpu"), (5, "cpu"), (5, "gpu"), (-1, "cpu"), (9, "gpu"), (5, "cpu")]
        ids = [
            store.submit(JobSpec(model="m", method="run_inference", priority=priority, device=device))
            for priority, device in wanted
        ]
        order = [take(store).job_id for _ in ids]
        assert order == [ids[4], ids[1], ids[2], ids[5], ids[0], ids[3]]

    def test_the_order_of_the_devices_does_not_matter(self, store: Store) -> None:
        cpu = store.submit(JobSpec(model="m", method="run_inference", priority=1))
        gpu = store.submit(JobSpec(model="m", method="run_inference", priority=1, device="gpu"))
        orders: list[list[Device]] = [["gpu", "cpu"], ["cpu", "gpu"], ["gpu", "cpu", "gpu"]]
        for devices in orders:
            claim = store.claim(devices, worker="w", lease_s=30)
            assert claim is not None
            assert claim.job_id == cpu
            store.hand_back(claim)
        take(store, job_id=cpu)
        assert take(store).job_id == gpu

    def test_only_jobs_of_the_devices_are_claimed(self, store: Store) -> None:
        gpu = store.submit(JobSpec(model="m", method="run_inference", device="gpu", priority=9))
        cpu = store.submit(SPEC)
        assert take(store).job_id == gpu
        assert store.claim(["gpu"], worker="w", lease_s=30) is None
        assert store.claim(["cpu"], worker="w", lease_s=30, job_id=gpu) is None
        claim = store.claim(["cpu"], worker="w", lease_s=30)
        assert claim is not None
        assert claim.job_id == cpu

    def test_one_job_can_be_asked_for(self, store: Store) -> None:
        _, second = store.submit(SPEC), store.submit(SPEC)
        assert take(store, job_id=second).job_id == second
        assert store.claim(["cpu"], worker="w", lease_s=30, job_id=second) is None

    @pytest.mark.parametrize("job_id", [0, -1, 12345, 2**70])
    def test_a_job_that_is_not_there_is_nothing_to_claim(self, store: Store, job_id: int) -> None:
        assert store.claim(["cpu"], worker="w", lease_s=30, job_id=job_id) is None

    def test_a_hint_for_a_job_of_another_device_is_nothing_to_claim(self, store: Store) -> None:
        job_id = store.submit(JobSpec(model="m", method="run_inference", device="gpu"))
        assert store.claim(["cpu"], worker="w", lease_s=30, job_id=job_id) is None
        assert store.job(job_id).state == "queued"

    def test_racing_workers_claim_each_job_once(self, store: Store) -> None:
        ids = [store.submit(SPEC) for _ in range(40)]

        def work(name: str) -> list[int]:
            claimed = []
            while claim := store.claim(["cpu"], worker=name, lease_s=30):
                claimed.append(claim.job_id)
            return claimed

        claimed = race(*[lambda name=f"w{n}": work(name) for n in range(8)])
        assert sorted(chain.from_iterable(claimed)) == ids
        assert count(store, "attempts") == len(ids)

    def test_racing_workers_with_hints_for_one_job_claim_it_once(self, store: Store) -> None:
        for _ in range(5):
            job_id = store.submit(SPEC)
            claims = race(*[lambda j=job_id: store.claim(["cpu"], worker="w", lease_s=30, job_id=j)] * 6)
            assert sum(claim is not None for claim in claims) == 1

    def test_tokens_and_numbers_are_fresh(self, store: Store) -> None:
        job_id = store.submit(SPEC)
        claims = []
        for _ in range(3):
            claims.append(take(store))
            assert store.hand_back(claims[-1])
        assert [claim.attempt for claim in claims] == [1, 2, 3]
        assert len({claim.token for claim in claims}) == 3
        assert [attempt.number for attempt in store.job(job_id).attempts] == [1, 2, 3]


class TestRenew:
    def test_a_renewal_extends_the_lease_by_the_databases_clock(self, store: Store) -> None:
        claim = take(store, job_id=store.submit(SPEC), lease_s=0.0)
        assert store.renew(claim, lease_s=30) == Renewal(current=True, cancel_requested=False)
        assert store.reap() == []

    def test_a_renewal_tells_of_a_cancel(self, store: Store) -> None:
        claim = submit_and_take(store)
        store.cancel(claim.job_id)
        assert store.renew(claim, lease_s=30) == Renewal(current=True, cancel_requested=True)

    @pytest.mark.parametrize(
        "stale",
        [
            lambda claim: Claim(job_id=claim.job_id, attempt=claim.attempt, token="0" * 32, spec=claim.spec),
            lambda claim: Claim(job_id=claim.job_id, attempt=claim.attempt + 1, token=claim.token, spec=claim.spec),
            lambda claim: Claim(job_id=claim.job_id + 1, attempt=claim.attempt, token=claim.token, spec=claim.spec),
        ],
    )
    def test_a_claim_that_does_not_hold_changes_nothing(self, store: Store, stale: Callable[[Claim], Claim]) -> None:
        forged = stale(submit_and_take(store))
        before = contents(store)
        told = Progress(done=1)
        assert store.renew(forged, lease_s=30, progress=told) == Renewal(current=False, cancel_requested=False)
        assert store.record(forged, SUCCEEDED, files={}) is False
        assert store.hand_back(forged) is False
        assert contents(store) == before

    def test_progress_is_seen_while_the_attempt_runs(self, store: Store) -> None:
        claim = submit_and_take(store)
        assert store.job(claim.job_id).progress is None
        told = Progress(warmup=3, done=7, loss=0.25)
        store.renew(claim, lease_s=30, progress=told)
        assert store.job(claim.job_id).progress == told
        assert [job.progress for job in store.jobs()] == [told]
        store.renew(claim, lease_s=30)
        assert store.job(claim.job_id).progress == told

    def test_a_loss_that_is_not_finite_is_kept_as_none(self, store: Store) -> None:
        claim = submit_and_take(store)
        store.renew(claim, lease_s=30, progress=Progress(done=1, loss=float("nan")))
        assert store.job(claim.job_id).progress == Progress(done=1)

    @pytest.mark.parametrize(
        "leave",
        [
            lambda store, claim: store.record(claim, SUCCEEDED, files={}),
            lambda store, claim: store.record(claim, Outcome(state="failed", cause="signal"), files={}),
            lambda store, claim: store.hand_back(claim),
            lambda store, claim: (let_lease_run_out(store, claim.job_id), store.reap()),
        ],
        ids=["over", "retried", "handed back", "lost"],
    )
    def test_progress_goes_with_the_attempt(self, store: Store, leave: Callable[[Store, Claim], Any]) -> None:
        claim = submit_and_take(store)
        store.renew(claim, lease_s=30, progress=Progress(done=7))
        leave(store, claim)
        assert store.job(claim.job_id).progress is None

    def test_a_job_that_is_over_is_not_renewed(self, store: Store) -> None:
        claim = submit_and_take(store)
        assert store.record(claim, SUCCEEDED, files={})
        assert store.renew(claim, lease_s=30) == Renewal(current=False, cancel_requested=False)


class TestRecord:
    def test_everything_is_read_back_as_it_was_recorded(self, store: Store, tmp_path: Path) -> None:
        claim = submit_and_take(store)
        (tmp_path / "trace").write_bytes(b"\x00\xff" * 100_000)
        outcome = Outcome(
            state="succeeded",
            result=RESULT,
            profile=PROFILE,
            environment=ENVIRONMENT,
            artifacts=[
                Artifact(name="trace.json.gz", media_type="application/gzip"),
                Artifact(name="log.txt", media_type="text/plain"),
            ],
        )
        assert store.record(claim, outcome, files={"trace.json.gz": tmp_path / "trace", "log.txt": b""})

        job = store.job(claim.job_id)
        assert (job.state, job.cause, job.is_over) == ("succeeded", None, True)
        assert job.started is not None
        assert job.ended is not None
        assert job.created <= job.started <= job.ended
        (attempt,) = job.attempts
        assert (attempt.state, attempt.environment) == ("succeeded", ENVIRONMENT.digest)
        assert attempt.ended is not None

        assert store.result(claim.job_id) == RESULT
        assert store.profile(claim.job_id) == PROFILE
        assert store.environment(ENVIRONMENT.digest) == ENVIRONMENT
        log, trace = store.artifacts(claim.job_id)
        assert (log.name, log.media_type, log.size) == ("log.txt", "text/plain", 0)
        assert (trace.name, trace.media_type, trace.size) == ("trace.json.gz", "application/gzip", 200_000)
        assert store.read_artifact(trace.digest) == b"\x00\xff" * 100_000
        assert store.read_artifact(log.digest) == b""

    def test_what_people_query_is_a_column(self, store: Store) -> None:
        claim = submit_and_take(store)
        outcome = Outcome(state="succeeded", result=RESULT, profile=PROFILE, environment=ENVIRONMENT)
        assert store.record(claim, outcome, files={})
        with reading(store.engine) as connection:
            row = connection.execute(select(tables.results)).one()
            mm = select(func.count(), func.max(tables.operations.c.self_ns)).where(
                tables.operations.c.name == "aten::mm"
            )
            assert tuple(connection.execute(mm).one()) == (3, HUGE)
            assert connection.scalar(select(tables.environments.c.gpu)) == "H200"
        assert (row.n_steps, row.median_ns, row.min_ns, row.max_ns) == (4, 3_500.0, 2_000, HUGE)
        assert (row.warmup_steps, row.final_loss, row.attempt) == (2, 0.25, 1)

    def test_an_empty_outcome_is_recorded(self, store: Store) -> None:
        claim = submit_and_take(store)
        empty = Outcome(
            state="succeeded",
            result=Result(),
            profile=Profile(source="xspace", events=0, span_ns=0, steps=[], covered_ns=0, operations={}),
        )
        assert store.record(claim, empty, files={})
        assert store.result(claim.job_id) == Result()
        assert store.profile(claim.job_id) == empty.profile
        assert store.artifacts(claim.job_id) == []

    @pytest.mark.parametrize(("reasons", "verdict"), [([], "clean"), (["Others took 12 % of core 3."], "tainted")])
    def test_the_verdict_is_a_column(self, store: Store, reasons: list[str], verdict: str) -> None:
        evidence = Evidence(wall_ns=10, cores=[3], own_cpu_ns=9, foreign_cpu_ns=1, reasons=reasons)
        result = Result(evidence=evidence)
        claim = submit_and_take(store)
        assert store.record(claim, Outcome(state="succeeded", result=result), files={})
        assert store.record(submit_and_take(store), Outcome(state="succeeded", result=Result()), files={})
        assert store.result(claim.job_id) == result
        with reading(store.engine) as connection:
            found = connection.scalars(select(tables.results.c.verdict).order_by(tables.results.c.job_id)).all()
        assert found == [verdict, None]

    def test_a_failure_keeps_its_cause(self, store: Store) -> None:
        claim = submit_and_take(store)
        failed = Outcome(state="failed", cause="timeout", message="too slow", environment=ENVIRONMENT)
        assert store.record(claim, failed, files={})
        job = store.job(claim.job_id)
        assert (job.state, job.cause, job.message) == ("failed", "timeout", "too slow")
        (attempt,) = job.attempts
        assert (attempt.state, attempt.cause, attempt.message) == ("failed", "timeout", "too slow")
        assert attempt.environment == ENVIRONMENT.digest
        assert store.result(claim.job_id) is None
        assert store.profile(claim.job_id) is None

    def test_only_the_first_outcome_counts(self, store: Store) -> None:
        claim = submit_and_take(store)
        assert store.record(claim, SUCCEEDED, files={})
        before = contents(store)
        again = Outcome(state="failed", cause="user_error", message="late", result=RESULT)
        assert store.record(claim, again, files={}) is False
        assert contents(store) == before

    def test_of_racing_outcomes_one_counts(self, store: Store) -> None:
        claim = submit_and_take(store)
        outcome = Outcome(state="succeeded", result=RESULT, profile=PROFILE, environment=ENVIRONMENT)
        assert sorted(race(*[lambda: store.record(claim, outcome, files={})] * 6)) == [False] * 5 + [True]

    def test_a_stale_attempt_changes_nothing_but_is_kept(self, store: Store) -> None:
        job_id = store.submit(SPEC)
        stale = lose(store, job_id)
        current = take(store, job_id=job_id, worker="w2")
        before = contents(store)

        outcome = Outcome(
            state="succeeded",
            result=RESULT,
            profile=PROFILE,
            environment=ENVIRONMENT,
            artifacts=[Artifact(name="a", media_type="text/plain"), Artifact(name="b", media_type="text/plain")],
        )
        files: dict[str, bytes | Path] = {"a": b"late", "b": b"later" * 2**16}
        assert store.renew(stale, lease_s=30).current is False
        assert store.record(stale, outcome, files=files) is False
        assert store.hand_back(stale) is False
        assert contents(store) == before

        assert store.record(current, SUCCEEDED, files={})
        assert [attempt.state for attempt in store.job(job_id).attempts] == ["lost", "succeeded"]
        assert store.record(stale, outcome, files=files) is False
        assert store.result(job_id) is None

    def test_a_stale_attempt_that_looks_alive_is_marked_lost(self, store: Store) -> None:
        claim = submit_and_take(store)
        with writing(store.engine) as connection:
            connection.execute(
                update(tables.jobs).values(state="queued", token=None, lease_until=None)
            )  # as if the database had been repaired by hand
        assert store.record(claim, SUCCEEDED, files={}) is False
        (attempt,) = store.job(claim.job_id).attempts
        assert (attempt.state, attempt.cause) == ("lost", "lost")

    def test_a_lease_that_ran_out_still_counts_until_someone_notices(self, store: Store) -> None:
        claim = submit_and_take(store)
        let_lease_run_out(store, claim.job_id)
        assert store.record(claim, SUCCEEDED, files={})
        assert store.reap() == []

    def test_record_and_reap_in_a_race_agree(self, store: Store) -> None:
        for _ in range(5):
            claim = submit_and_take(store)
            let_lease_run_out(store, claim.job_id)
            recorded, reaped = race(partial(store.record, claim, SUCCEEDED, files={}), store.reap)
            assert recorded is (reaped == [])
            assert store.job(claim.job_id).state == ("succeeded" if recorded else "queued")
            if not recorded:
                store.cancel(claim.job_id)

    @pytest.mark.parametrize("state", ["running", "lost", "handed_back"])
    def test_an_outcome_that_is_no_ending_is_refused(self, store: Store, state: Any) -> None:
        claim = submit_and_take(store)
        with pytest.raises(UsageError, match=state):
            store.record(claim, Outcome(state=state), files={})
        assert store.renew(claim, lease_s=30).current

    def test_a_file_that_is_missing_leaves_everything_as_it_was(self, store: Store, tmp_path: Path) -> None:
        claim = submit_and_take(store)
        before = contents(store)
        with pytest.raises(FileNotFoundError):
            record_with_files(store, claim, {"a": b"here", "b": tmp_path / "absent"})
        assert contents(store) == before
        assert record_with_files(store, claim, {"a": b"here"})

    @pytest.mark.parametrize(("files", "names"), [({}, ["a"]), ({"a": b""}, []), ({"a": b""}, ["a", "a"])])
    def test_files_must_be_those_that_the_outcome_names(
        self, store: Store, files: dict[str, bytes | Path], names: list[str]
    ) -> None:
        claim = submit_and_take(store)
        before = contents(store)
        with pytest.raises(UsageError, match="artifacts"):
            record_with_files(store, claim, files, names)
        assert contents(store) == before

    def test_an_artifact_that_is_too_large_is_refused(self, store: Store, tmp_path: Path) -> None:
        claim = submit_and_take(store)
        with (tmp_path / "sparse").open("wb") as file:
            file.truncate(2**30)
        with pytest.raises(UsageError, match="1073741824 bytes"):
            record_with_files(store, claim, {"a": tmp_path / "sparse"})

    def test_a_failure_in_the_middle_rolls_everything_back(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        claim = submit_and_take(store)
        before = contents(store)
        monkeypatch.setattr("dnnamo_storage.life.set_environment", lambda *_: 1 / 0)
        outcome = Outcome(
            state="succeeded",
            result=RESULT,
            profile=PROFILE,
            environment=ENVIRONMENT,
            artifacts=[Artifact(name="small", media_type="a/b"), Artifact(name="large", media_type="a/b")],
        )
        with pytest.raises(ZeroDivisionError):
            store.record(claim, outcome, files={"small": b"few", "large": b"many" * 2**16})
        assert contents(store) == before

    def test_text_from_user_code_cannot_break_the_record(self, store: Store) -> None:
        claim = submit_and_take(store)
        nasty = Operation(name=NASTY, calls=1, self_ns=1, total_ns=1, shapes=[NASTY])
        profile = replace(PROFILE, source=NASTY, operations={"shape": [nasty]}, reasons=[NASTY], peak_bytes={NASTY: 1})
        outcome = Outcome(
            state="failed",
            cause="user_error",
            message=NASTY,
            profile=profile,
            artifacts=[Artifact(name=NASTY, media_type=NASTY)],
        )
        assert store.record(claim, outcome, files={NASTY: b"x"})
        job = store.job(claim.job_id)
        assert (job.message, job.attempts[0].message) == (KEPT, KEPT)
        stored = store.profile(claim.job_id)
        assert stored is not None
        kept = replace(nasty, name=KEPT, shapes=[KEPT])
        assert stored == replace(
            PROFILE, source=KEPT, operations={"shape": [kept]}, reasons=[KEPT], peak_bytes={KEPT: 1}
        )
        assert store.artifacts(claim.job_id)[0].name == KEPT

    def test_numbers_that_are_not_finite_are_kept_as_none(self, store: Store) -> None:
        claim = submit_and_take(store)
        result = Result(loss=[1.0, float("inf"), float("nan")], score=[float("-inf")])
        assert store.record(claim, Outcome(state="succeeded", result=result), files={})
        assert store.result(claim.job_id) == Result(loss=[1.0, None, None], score=[None])

    def test_a_long_name_and_many_operations_are_kept(self, store: Store) -> None:
        claim = submit_and_take(store)
        names = ["".join(chr(0x4E00 + (7 * number + n) % 20_000) for number in range(5000)) for n in range(3)]
        operations = [Operation(name=name, calls=1, self_ns=1, total_ns=1) for name in names * 500]
        profile = replace(PROFILE, operations={"name": operations[:3], "shape": operations, "kernel": operations[:3]})
        assert store.record(claim, Outcome(state="succeeded", profile=profile), files={})
        assert store.profile(claim.job_id) == profile

    def test_equal_environments_and_files_are_kept_once(self, store: Store) -> None:
        outcome = Outcome(
            state="succeeded",
            environment=ENVIRONMENT,
            artifacts=[Artifact(name=name, media_type="text/plain") for name in ("a", "b")],
        )
        for _ in range(2):
            assert store.record(submit_and_take(store), outcome, files={"a": b"same", "b": b"same"})
        assert [count(store, name) for name in ("environments", "artifacts", "attempt_artifacts")] == [1, 1, 4]

    @pytest.mark.parametrize("size", [1, 2**16], ids=["small", "large"])
    def test_racing_records_of_the_same_files_do_not_lock_each_other_out(self, store: Store, size: int) -> None:
        files = {str(number): f"{number} ".encode() * size for number in range(12)}
        claims = [submit_and_take(store) for _ in range(6)]
        orders = [dict(reversed(files.items())) if n % 2 else files for n in range(6)]
        racers = [lambda c=c, f=f: record_with_files(store, c, f) for c, f in zip(claims, orders, strict=True)]
        assert race(*racers) == [True] * 6
        assert count(store, "artifacts") == 12


class TestProfile:
    def test_what_people_query_is_a_column(self, store: Store) -> None:
        job_id = record_profile(store, PROFILE)
        with reading(store.engine) as connection:
            row = connection.execute(select(tables.profiles)).one()._asdict()
        del row["record"]
        assert row == {
            "job_id": job_id,
            "attempt": 1,
            "source": "kineto",
            "verdict": "degraded",
            "events": 1234,
            "span_ns": 90,
            "covered_ns": 20,
            "coverage": 0.5,
            "overhead": 2.5,
            "unprofiled_ns": 12.0,
            "device_busy_ns": 80,
            "device_idle_ns": HUGE,
            "peak_bytes": 2**40,
            "flops": 2**50,
            "flop_coverage": 0.75,
        }

    def test_what_a_profile_does_not_tell_is_null(self, store: Store) -> None:
        bare = Profile(source="chrome", events=0, span_ns=0, steps=[], covered_ns=0, operations={})
        assert store.profile(record_profile(store, bare)) == bare
        with reading(store.engine) as connection:
            row = connection.execute(select(tables.profiles)).one()._asdict()
        untold = {"coverage", "overhead", "unprofiled_ns", "device_busy_ns", "device_idle_ns"}
        assert {name for name, value in row.items() if value is None} == untold | {
            "peak_bytes",
            "flops",
            "flop_coverage",
        }

    def test_unprofiled_steps_that_took_no_time_give_no_ratio(self, store: Store) -> None:
        overhead = Overhead(before_ns=[0], after_ns=[0], profiled_ns=3.0)
        assert store.profile(record_profile(store, replace(PROFILE, overhead=overhead))) is not None
        with reading(store.engine) as connection:
            assert connection.scalar(select(tables.profiles.c.overhead)) is None

    def test_operations_come_by_grain_in_their_order(self, store: Store) -> None:
        job_id = record_profile(store, PROFILE)
        for grain, rows in PROFILE.operations.items():
            assert store.operations(job_id, grain) == rows
        assert store.operations(job_id, "shape", limit=2) == PROFILE.operations["shape"][:2]
        assert store.operations(job_id, "shape", limit=0) == []
        assert store.operations(record_profile(store, replace(PROFILE, operations={})), "shape") == []

    def test_a_summary_is_all_but_the_operations(self, store: Store) -> None:
        job_id = record_profile(store, PROFILE)
        assert store.profile_summary(job_id) == replace(PROFILE, operations={})
        assert store.profile_steps(job_id) == PROFILE.steps

    def test_steps_with_the_same_number_are_all_kept(self, store: Store) -> None:
        steps = [replace(PROFILE.steps[0], number=number) for number in (7, 7, -1)]
        job_id = record_profile(store, replace(PROFILE, steps=steps))
        assert [step.number for step in store.profile_steps(job_id)] == [7, 7, -1]

    @pytest.mark.parametrize("job_id", [0, 999, 2**70])
    def test_a_job_without_a_profile_has_none(self, store: Store, job_id: int) -> None:
        assert store.profile_summary(job_id) is None
        assert store.operations(job_id, "name") == []
        assert store.profile_steps(job_id) == []

    def test_one_name_is_found_in_all_profiles_by_an_index(self, store: Store) -> None:
        record_profile(store, PROFILE)
        query = "SELECT sum(calls) FROM operations WHERE grain = 'name' AND name = 'aten::mm'"
        with writing(store.engine) as connection:
            if store.engine.dialect.name == "postgresql":
                connection.execute(text("SET LOCAL enable_seqscan = off"))
                connection.execute(text("SET LOCAL enable_indexscan = off"))  # of the key, which a small table prefers
                plan = connection.execute(text(f"EXPLAIN {query}")).all()
            else:
                plan = connection.execute(text(f"EXPLAIN QUERY PLAN {query}")).all()
            assert "ix_operations_name" in str(plan)
            assert connection.scalar(text(query)) == 4

    def test_all_of_it_goes_with_its_job(self, store: Store) -> None:
        record_profile(store, PROFILE)
        with writing(store.engine) as connection:
            connection.execute(tables.jobs.delete())
        assert [count(store, name) for name in ("profiles", "operations", "profile_steps")] == [0, 0, 0]


class TestImport:
    IMPORTED = JobSpec(model="/traces/a.json.gz", method="import_trace", tags=["h100"])
    OUTCOME = Outcome(
        state="succeeded",
        profile=PROFILE,
        environment=ENVIRONMENT,
        artifacts=[Artifact(name="events.parquet", media_type="application/vnd.apache.parquet")],
    )
    FILES: Mapping[str, bytes | Path] = {"events.parquet": b"PAR1" * 2**15}

    def bring_in(self, store: Store, **changes: Any) -> int:
        given = {"spec": self.IMPORTED, "outcome": self.OUTCOME, "files": self.FILES, **changes}
        return store.import_profile(given.pop("spec"), given.pop("outcome"), **given)

    def test_an_imported_profile_is_a_job_that_succeeded(self, store: Store) -> None:
        job_id = self.bring_in(store)
        job = store.job(job_id)
        assert (job.spec, job.state, job.is_over) == (self.IMPORTED, "succeeded", True)
        assert job.started is not None
        assert job.ended is not None
        assert job.created <= job.started <= job.ended
        (attempt,) = job.attempts
        assert (attempt.number, attempt.worker, attempt.state) == (1, "import", "succeeded")
        assert attempt.environment == ENVIRONMENT.digest
        assert store.profile(job_id) == PROFILE
        (events,) = store.artifacts(job_id)
        assert store.read_artifact(events.digest) == self.FILES["events.parquet"]
        assert [job.id for job in store.jobs(tags=["h100"], method="import_trace")] == [job_id]

    def test_the_same_key_is_the_same_import(self, store: Store) -> None:
        job_id = self.bring_in(store, key="digest of a.json.gz")
        before = contents(store)
        assert self.bring_in(store, key="digest of a.json.gz") == job_id
        assert contents(store) == before
        assert self.bring_in(store, key="another") != job_id

    def test_the_same_key_in_a_race_is_one_import(self, store: Store) -> None:
        assert len(set(race(*[lambda: self.bring_in(store, key="k")] * 6))) == 1
        assert [count(store, name) for name in ("jobs", "attempts", "profiles")] == [1, 1, 1]

    def test_a_queued_job_with_the_key_is_left_alone(self, store: Store) -> None:
        job_id = store.submit(SPEC, key="k")
        assert self.bring_in(store, key="k") == job_id
        assert (store.job(job_id).state, store.profile(job_id)) == ("queued", None)

    def test_no_worker_ever_sees_it(self, store: Store) -> None:
        def work() -> list[int]:
            looks = [store.claim(["cpu", "gpu"], worker="w", lease_s=30) for _ in range(30)]
            return [claim.job_id for claim in looks if claim is not None]

        claimed, *_ = race(work, *[lambda: [self.bring_in(store) for _ in range(5)]] * 3)
        assert claimed == []
        assert {job.state for job in store.jobs()} == {"succeeded"}
        assert (store.backlog(), len(store.jobs())) == ([], 15)

    def test_a_failure_in_the_middle_leaves_nothing(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        before = contents(store)
        monkeypatch.setattr("dnnamo_storage.life.set_environment", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            self.bring_in(store, key="k")
        assert contents(store) == before

    @pytest.mark.parametrize(
        "changes",
        [
            {"spec": SPEC},
            {"outcome": replace(OUTCOME, state="failed", cause="user_error")},
            {"outcome": replace(OUTCOME, profile=None)},
            {"files": {}},
            {"spec": replace(IMPORTED, model="\x00")},
        ],
        ids=["a run", "a failure", "no profile", "no file", "no name"],
    )
    def test_what_is_no_imported_profile_is_refused(self, store: Store, changes: dict[str, Any]) -> None:
        before = contents(store)
        with pytest.raises(UsageError):
            self.bring_in(store, **changes)
        assert contents(store) == before

    def test_an_import_cannot_be_left_to_a_worker(self, store: Store) -> None:
        with pytest.raises(UsageError, match="dnnamo import"):
            store.submit_many([SPEC, self.IMPORTED])
        assert count(store, "jobs") == 0


class TestHandBack:
    def test_a_job_handed_back_is_queued_again_and_not_lost(self, store: Store) -> None:
        job_id = store.submit(SPEC)
        for _ in range(MAX_LOSSES + 1):
            assert store.hand_back(take(store))
        job = store.job(job_id)
        assert job.state == "queued"
        assert {attempt.state for attempt in job.attempts} == {"handed_back"}
        assert all(attempt.ended is not None for attempt in job.attempts)
        lose(store, job_id)
        assert store.job(job_id).state == "queued"

    def test_a_job_to_be_cancelled_is_not_queued_again(self, store: Store) -> None:
        claim = submit_and_take(store)
        store.cancel(claim.job_id)
        assert store.hand_back(claim)
        assert (store.job(claim.job_id).state, store.job(claim.job_id).cause) == ("cancelled", "cancelled")

    def test_it_can_be_done_once(self, store: Store) -> None:
        claim = submit_and_take(store)
        assert store.hand_back(claim) is True
        assert store.hand_back(claim) is False
        assert store.record(claim, SUCCEEDED, files={}) is False


class TestCancel:
    def test_a_queued_job_ends_at_once(self, store: Store) -> None:
        job = store.cancel(store.submit(SPEC))
        assert (job.state, job.cause, job.is_over, job.attempts) == ("cancelled", "cancelled", True, [])
        assert job.ended is not None
        assert store.claim(["cpu"], worker="w", lease_s=30) is None
        assert store.claim(["cpu"], worker="w", lease_s=30, job_id=job.id) is None

    def test_a_running_job_is_asked_to_stop(self, store: Store) -> None:
        claim = submit_and_take(store)
        job = store.cancel(claim.job_id)
        assert (job.state, job.cancel_requested) == ("running", True)
        assert store.record(claim, Outcome(state="cancelled", cause="cancelled"), files={})
        assert store.job(claim.job_id).state == "cancelled"

    def test_a_job_that_is_over_stays_as_it_is(self, store: Store) -> None:
        claim = submit_and_take(store)
        store.record(claim, SUCCEEDED, files={})
        before = store.job(claim.job_id)
        assert store.cancel(claim.job_id) == before
        cancelled = store.cancel(store.submit(SPEC))
        assert store.cancel(cancelled.id) == cancelled

    @pytest.mark.parametrize("job_id", [0, 999, -5, 2**70])
    def test_an_unknown_job_is_an_error(self, store: Store, job_id: int) -> None:
        with pytest.raises(JobNotFound):
            store.cancel(job_id)
        with pytest.raises(JobNotFound):
            store.job(job_id)

    def test_a_cancel_in_a_race_with_claims_is_never_forgotten(self, store: Store) -> None:
        for _ in range(8):
            job_id = store.submit(SPEC)
            claim, _ = race(
                partial(store.claim, ["cpu"], worker="w", lease_s=30, job_id=job_id), partial(store.cancel, job_id)
            )
            if claim is None:
                assert store.job(job_id).state == "cancelled"
            else:
                assert store.renew(claim, lease_s=30).cancel_requested


class TestReap:
    def test_a_lost_job_is_queued_again(self, store: Store) -> None:
        job_id = store.submit(SPEC)
        lose(store, job_id)
        job = store.job(job_id)
        assert (job.state, job.cause, job.ended) == ("queued", None, None)
        (attempt,) = job.attempts
        assert (attempt.state, attempt.cause) == ("lost", "lost")
        assert attempt.ended is not None
        assert store.reap() == []
        assert take(store).attempt == 2

    def test_a_short_lease_runs_out_by_itself(self, store: Store) -> None:
        job_id = store.submit(SPEC)
        take(store, lease_s=0.0)
        threading.Event().wait(0.01)
        assert store.reap() == [job_id]

    def test_a_job_whose_lease_holds_is_left_alone(self, store: Store) -> None:
        claim = submit_and_take(store)
        assert store.reap() == []
        assert store.renew(claim, lease_s=30).current

    def test_a_job_lost_too_often_is_quarantined(self, store: Store) -> None:
        job_id = store.submit(SPEC)
        for number in range(1, MAX_LOSSES + 1):
            assert store.job(job_id).state == "queued"
            assert lose(store, job_id).attempt == number
        job = store.job(job_id)
        assert (job.state, job.cause) == ("failed", "quarantined")
        assert f"{MAX_LOSSES} times" in str(job.message)
        assert job.ended is not None
        assert [attempt.state for attempt in job.attempts] == ["lost"] * MAX_LOSSES
        assert store.claim(["cpu"], worker="w", lease_s=30) is None

    def test_a_lost_job_that_was_to_be_cancelled_ends_so(self, store: Store) -> None:
        claim = submit_and_take(store)
        store.cancel(claim.job_id)
        let_lease_run_out(store, claim.job_id)
        assert store.reap() == [claim.job_id]
        job = store.job(claim.job_id)
        assert (job.state, job.cause, job.attempts[0].state) == ("cancelled", "cancelled", "lost")

    def test_racing_reapers_take_each_job_back_once(self, store: Store) -> None:
        ids = [submit_and_take(store).job_id for _ in range(12)]
        for job_id in ids:
            let_lease_run_out(store, job_id)
        assert sorted(chain.from_iterable(race(*[store.reap] * 6))) == ids
        assert {len(job.attempts) for job in store.jobs()} == {1}
        assert store.queued("cpu", 100) == 12


class TestReading:
    def test_jobs_come_newest_first_with_their_attempts(self, store: Store) -> None:
        ids = [store.submit(SPEC) for _ in range(5)]
        lose(store, ids[0])
        take(store, job_id=ids[0])
        take(store, job_id=ids[3])
        found = store.jobs()
        assert [job.id for job in found] == ids[::-1]
        assert [[attempt.number for attempt in job.attempts] for job in found] == [[], [1], [], [], [1, 2]]
        assert found[4] == store.job(ids[0])

    def test_jobs_are_found_by_state_model_and_method(self, store: Store) -> None:
        a = store.submit(JobSpec(model="a", method="run_inference"))
        b = store.submit(JobSpec(model="b", method="run_inference"))
        c = store.submit(JobSpec(model="a", method="run_training"))
        store.cancel(c)
        assert [job.id for job in store.jobs(model="a")] == [c, a]
        assert [job.id for job in store.jobs(method="run_inference")] == [b, a]
        assert [job.id for job in store.jobs(state="queued", model="a")] == [a]
        assert [job.id for job in store.jobs(limit=2)] == [c, b]
        assert store.jobs(model="c") == []

    def test_the_number_of_statements_does_not_grow_with_the_jobs(self, store: Store) -> None:
        for _ in range(10):
            submit_and_take(store)
        statements: list[str] = []

        def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
            statements.append(statement)

        event.listen(store.engine, "before_cursor_execute", note)
        assert len(store.jobs()) == 10
        assert sum(statement.startswith("SELECT") for statement in statements) == 2

    def test_more_jobs_than_a_statement_takes_parameters(self, store: Store) -> None:
        assert store.jobs(limit=10**6) == []

    def test_queued_counts_up_to_its_limit(self, store: Store) -> None:
        for _ in range(4):
            store.submit(SPEC)
        store.submit(JobSpec(model="m", method="run_inference", device="gpu"))
        take(store, job_id=store.jobs()[-1].id)
        assert (store.queued("cpu", 10), store.queued("cpu", 2), store.queued("gpu", 10)) == (3, 2, 1)
        assert store.queued("cpu", 0) == 0

    def test_the_backlog_says_how_many_wait_and_since_when(self, store: Store) -> None:
        assert store.backlog() == []
        first, *_ = [store.submit(JobSpec(model="m", method="run_inference", priority=n)) for n in range(3)]
        gpu = store.submit(JobSpec(model="m", method="run_inference", device="gpu"))
        take(store, job_id=store.submit(SPEC))
        store.cancel(store.submit(SPEC))
        assert store.backlog() == [
            Backlog(device="cpu", queued=3, since=store.job(first).created),
            Backlog(device="gpu", queued=1, since=store.job(gpu).created),
        ]
        take(store, job_id=first)
        take(store, job_id=gpu)
        assert store.backlog() == [Backlog(device="cpu", queued=2, since=store.job(first + 1).created)]

    @pytest.mark.parametrize("job_id", [0, 999, 2**70])
    def test_a_job_without_records_has_none(self, store: Store, job_id: int) -> None:
        assert store.result(job_id) is None
        assert store.profile(job_id) is None
        assert store.artifacts(job_id) == []
        assert store.environment("absent") is None

    def test_artifacts_are_those_of_the_attempt_that_was_recorded(self, store: Store) -> None:
        job_id = store.submit(SPEC)
        lose(store, job_id)
        assert store.artifacts(job_id) == []
        record_with_files(store, take(store), {"log.txt": b"second"})
        (log,) = store.artifacts(job_id)
        assert (log.name, log.digest, log.size) == ("log.txt", digest_of(b"second"), 6)

    def test_bytes_are_kept_by_their_digest(self, store: Store) -> None:
        digest = store.put_artifact(b"weights")
        assert digest == store.put_artifact(b"weights") == digest_of(b"weights")
        assert store.read_artifact(digest) == b"weights"
        assert set(race(*[lambda: store.put_artifact(b"raced")] * 6)) == {digest_of(b"raced")}
        assert count(store, "artifacts") == 2

    def test_unknown_bytes_are_an_error(self, store: Store) -> None:
        with pytest.raises(UsageError, match="no artifact"):
            store.read_artifact("0" * 64)


class TestWorkers:
    def test_a_worker_is_seen_until_it_retires(self, store: Store) -> None:
        store.report_worker("w2", queues=["gpu"], slots=1)
        store.report_worker("w1", queues=["cpu"], slots=4)
        assert [worker.name for worker in store.workers(seen_within_s=60)] == ["w1", "w2"]
        store.retire_worker("w2")
        store.retire_worker("never seen")
        (worker,) = store.workers(seen_within_s=60)
        assert (worker.name, worker.queues, worker.slots) == ("w1", ["cpu"], 4)
        assert worker.started.tzinfo is UTC

    def test_a_report_updates_what_was_known(self, store: Store) -> None:
        store.report_worker("w", queues=["cpu"], slots=1)
        (first,) = store.workers(seen_within_s=60)
        threading.Event().wait(0.01)
        store.report_worker("w", queues=["cpu", "gpu"], slots=2)
        (second,) = store.workers(seen_within_s=60)
        assert (second.queues, second.slots, second.started) == (["cpu", "gpu"], 2, first.started)
        assert second.seen > first.seen

    def test_a_report_says_what_the_worker_holds(self, store: Store) -> None:
        store.report_worker("w", queues=["cpu"], slots=2)
        (bare,) = store.workers()
        assert (bare.devices, bare.busy, bare.set_aside, bare.jobs) == ([], [], [], [])
        store.report_worker(
            "w",
            queues=["gpu"],
            slots=2,
            devices=["GPU-5b2f with cores 0-3", "cores 4-7"],
            busy=["core 1 is used by other:7"],
            set_aside=["GPU-77aa: 3 GiB were left behind"],
            jobs=[7, 2**40],
            idle_s=12.5,
        )
        (worker,) = store.workers()
        assert worker.devices == ["GPU-5b2f with cores 0-3", "cores 4-7"]
        assert worker.busy == ["core 1 is used by other:7"]
        assert worker.set_aside == ["GPU-77aa: 3 GiB were left behind"]
        assert worker.jobs == [7, 2**40]
        assert (worker.seen - worker.polled).total_seconds() == pytest.approx(12.5, abs=0.1)
        store.report_worker("w", queues=["gpu"], slots=2)
        (idle,) = store.workers()
        assert (idle.devices, idle.set_aside, idle.jobs, idle.started) == ([], [], [], bare.started)

    def test_a_silent_worker_drops_out(self, store: Store) -> None:
        store.report_worker("w", queues=["cpu"], slots=1)
        with writing(store.engine) as connection:
            connection.execute(update(tables.workers).values(seen=db_now(-61)))
        assert store.workers(seen_within_s=60) == []
        assert len(store.workers(seen_within_s=120)) == 1

    def test_racing_reports_all_succeed(self, store: Store) -> None:
        race(*[lambda: store.report_worker("w", queues=["cpu"], slots=1)] * 6)
        assert len(store.workers(seen_within_s=60)) == 1


class TestDoor:
    def test_all_who_use_a_database_have_the_same_hint_key(self, database_url: str) -> None:
        with Store.open(database_url) as one, Store.open(database_url) as other:
            assert one.hint_key() == other.hint_key()
            assert len(one.hint_key()) == 32

    def test_what_was_stored_is_there_when_it_is_opened_again(self, database_url: str) -> None:
        with Store.open(database_url) as store:
            job_id = store.submit(SPEC, key="k")
        with Store.open(database_url) as store:
            assert store.job(job_id).spec == SPEC
            assert store.submit(SPEC, key="k") == job_id

    def test_the_url_is_shown(self, store: Store) -> None:
        assert store.url.startswith(store.engine.dialect.name)

    def test_the_database_guards_its_own_states(self, store: Store) -> None:
        store.submit(SPEC)
        for wrong in ("state = 'sleeping'", "state = 'running'", "state = 'failed'", "token = 'x'"):
            with pytest.raises(Exception, match="ck_jobs"), writing(store.engine) as connection:
                connection.execute(text(f"UPDATE jobs SET {wrong}"))
