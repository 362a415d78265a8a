"""Many jobs at once: submitted, found by their tags, and cancelled, on every database."""

from functools import partial
from itertools import chain
from typing import Any

import pytest

from dnnamo.errors import UsageError
from dnnamo.records import Device, JobSpec, Outcome
from dnnamo_storage import MAX_TAG_LENGTH, Cancellation, Store
from dnnamo_storage.submissions import AT_ONCE
from tests.storage.stored import HUGE, SPEC, SUCCEEDED, contents, count, race, submit_and_take, take


def spec(number: int, *tags: str, device: Device = "cpu") -> JobSpec:
    return JobSpec(
        model=f"demo:{number}", method="run_inference", params={"n": number}, device=device, tags=sorted(tags)
    )


class TestSubmitMany:
    def test_the_ids_are_in_the_order_of_the_specs(self, store: Store) -> None:
        specs = [spec(number) for number in range(2 * AT_ONCE + 3)]
        ids = store.submit_many(specs)
        assert ids == sorted(set(ids))
        assert [job.spec for job in reversed(store.jobs(limit=len(ids)))] == specs
        assert [job.id for job in reversed(store.jobs(limit=len(ids)))] == ids

    def test_no_specs_are_no_jobs(self, store: Store) -> None:
        assert store.submit_many([]) == []

    def test_they_are_claimed_in_their_order(self, store: Store) -> None:
        ids = store.submit_many([spec(number) for number in range(5)])
        assert [take(store).job_id for _ in ids] == ids

    def test_a_spec_is_stored_as_it_was_given(self, store: Store) -> None:
        given = JobSpec(
            model="/models/naïve 🦊.py",
            method="run_training",
            params={"e": "\\\\u0000 \\u0000 \"' [", "f": [1e-3, -0.5, 2**70, None, True], "": {"ä": []}},
            n_steps=HUGE,
            device="gpu",
            priority=-(2**31),
            memory_bytes=2**40,
            python="/opt/venv/bin/python",
            repeats=2,
            tags=["a", "b"],
        )
        (job_id,) = store.submit_many([given])
        assert store.job(job_id).spec == given
        assert take(store, job_id=job_id).spec == given

    def test_a_key_is_one_job_however_often_it_comes(self, store: Store) -> None:
        first = store.submit(spec(0), key="k")
        ids = store.submit_many([spec(1), spec(2), spec(3), spec(4)], keys=["a", "k", None, "a"])
        assert ids[0] == ids[3]
        assert ids[1] == first
        assert len(set(ids)) == 3
        assert store.job(ids[0]).spec == spec(1)
        assert store.job(first).spec == spec(0)
        again = store.submit_many([spec(1), spec(2), spec(3), spec(4)], keys=["a", "k", None, "a"])
        assert again == [ids[0], first, again[2], ids[0]]
        assert again[2] not in ids
        assert count(store, "jobs") == 4

    def test_a_sweep_submitted_again_is_the_same_sweep(self, store: Store) -> None:
        specs = [spec(number, "sweep") for number in range(AT_ONCE + 10)]
        keys = [f"key {number}" for number in range(len(specs))]
        ids = store.submit_many(specs, keys=keys)
        assert store.submit_many(specs[::-1], keys=keys[::-1]) == ids[::-1]
        assert (count(store, "jobs"), count(store, "job_tags")) == (len(specs), len(specs))

    def test_a_key_that_no_database_can_keep_is_the_same_key_again(self, store: Store) -> None:
        ids = store.submit_many([SPEC, SPEC], keys=["a\x00\ud800", "b"])
        assert store.submit_many([SPEC, SPEC], keys=["b", "a\x00\ud800"]) == ids[::-1]
        assert store.submit(SPEC, key="a\x00\ud800") == ids[0]

    def test_the_same_keys_in_other_orders_in_a_race_are_the_same_jobs(self, store: Store) -> None:
        keys = [str(number) for number in range(300)]
        orders = [keys, keys[::-1], keys[150:] + keys[:150], keys[::2] + keys[1::2]]
        found = race(*[partial(store.submit_many, [SPEC] * 300, keys=order) for order in orders])
        by_key = [dict(zip(order, ids, strict=True)) for order, ids in zip(orders, found, strict=True)]
        assert by_key == [by_key[0]] * 4
        assert count(store, "jobs") == 300

    def test_there_must_be_a_key_for_each_spec(self, store: Store) -> None:
        with pytest.raises(UsageError, match="2 jobs were given 1 keys"):
            store.submit_many([SPEC, SPEC], keys=["a"])

    @pytest.mark.parametrize(
        "wrong",
        [
            {"params": {"a": "\x00"}},
            {"params": {"a": "\\\x00"}},
            {"params": {"\udfff": 1}},
            {"params": {"lr": float("nan")}},
            {"tags": ["a\x00"]},
            {"tags": ["x" * (MAX_TAG_LENGTH + 1)]},
            {"n_steps": 2**63},
        ],
    )
    def test_of_specs_with_a_wrong_one_none_is_stored(self, store: Store, wrong: dict[str, Any]) -> None:
        before = contents(store)
        with pytest.raises(UsageError):
            store.submit_many([SPEC, JobSpec(**{"model": "m", "method": "run_inference", **wrong}), SPEC])
        assert contents(store) == before


class TestTags:
    def test_jobs_are_found_by_all_of_their_tags(self, store: Store) -> None:
        ids = store.submit_many([spec(0, "a", "b"), spec(1, "a"), spec(2, "b"), spec(3)])
        assert [job.id for job in store.jobs(tags=["a"])] == [ids[1], ids[0]]
        assert [job.id for job in store.jobs(tags=["b", "a"])] == [ids[0]]
        assert [job.id for job in store.jobs(tags=["a"], model="demo:1")] == [ids[1]]
        assert [job.id for job in store.jobs(tags=["a"], limit=1)] == [ids[1]]
        assert store.jobs(tags=["c"]) == []
        assert len(store.jobs(tags=[])) == 4

    def test_a_job_submitted_alone_is_found_too(self, store: Store) -> None:
        job_id = store.submit(spec(0, "näive 🦊", "x" * MAX_TAG_LENGTH))
        assert [job.id for job in store.jobs(tags=["näive 🦊", "x" * MAX_TAG_LENGTH])] == [job_id]

    def test_a_tag_named_twice_is_one(self, store: Store) -> None:
        store.submit(JobSpec(model="m", method="run_inference", tags=["a", "a"]))
        assert count(store, "job_tags") == 1

    def test_the_tags_are_those_of_the_spec_that_was_stored(self, store: Store) -> None:
        first, second = store.submit_many([spec(0, "a"), spec(1, "b")], keys=["k", "k"])
        assert first == second
        store.submit(spec(2, "c"), key="k")
        assert [len(store.jobs(tags=[tag])) for tag in "abc"] == [1, 0, 0]


class TestCancelMatching:
    def test_queued_jobs_end_and_running_ones_are_asked_to_stop(self, store: Store) -> None:
        running, over = submit_and_take(store), submit_and_take(store)
        store.record(over, SUCCEEDED, files={})
        queued = store.submit_many([SPEC, SPEC])
        assert store.cancel_matching() == Cancellation(ended=2, asked=1)

        assert [(job.state, job.cause) for job in map(store.job, queued)] == [("cancelled", "cancelled")] * 2
        assert all(job.ended is not None and job.message for job in map(store.job, queued))
        job = store.job(running.job_id)
        assert (job.state, job.cause, job.message, job.ended) == ("running", None, None, None)
        assert store.renew(running, lease_s=30).cancel_requested
        assert store.job(over.job_id).state == "succeeded"
        assert not store.job(over.job_id).cancel_requested

    def test_only_what_matches_all_filters_is_cancelled(self, store: Store) -> None:
        ids = store.submit_many([spec(0, "a", "b"), spec(1, "a"), spec(0, "a"), spec(0, "a", "b")])
        take(store, job_id=ids[3])
        found = store.cancel_matching(state="queued", model="demo:0", method="run_inference", tags=["a", "b"])
        assert found == Cancellation(ended=1, asked=0)
        assert [store.job(job_id).state for job_id in ids] == ["cancelled", "queued", "queued", "running"]
        assert store.cancel_matching(tags=["b"]) == Cancellation(ended=0, asked=1)
        assert store.cancel_matching(model="demo:7") == Cancellation(ended=0, asked=0)
        assert store.cancel_matching(state="succeeded") == Cancellation(ended=0, asked=0)

    def test_more_jobs_than_a_statement_takes_parameters(self, store: Store) -> None:
        store.submit_many([SPEC] * 40_000)
        assert store.cancel_matching(model=SPEC.model) == Cancellation(ended=40_000, asked=0)
        assert store.backlog() == []

    def test_cancels_in_a_race_with_claims_and_records_forget_no_job(self, store: Store) -> None:
        ids = store.submit_many([spec(number, "odd" if number % 2 else "even") for number in range(60)])

        def work() -> int:
            done = 0
            while claim := store.claim(["cpu"], worker="w", lease_s=30):
                stop = store.renew(claim, lease_s=30).cancel_requested
                store.record(claim, Outcome(state="cancelled" if stop else "succeeded"), files={})
                done += 1
            return done

        cancels = [partial(store.cancel_matching, tags=[tag]) for tag in ("odd", "even", "odd")]
        *worked, odd, even, again = race(work, work, work, *cancels)
        states = [store.job(job_id).state for job_id in ids]
        assert set(states) <= {"succeeded", "cancelled"}
        assert sum(worked) + odd.ended + even.ended + again.ended == len(ids)

    def test_cancels_and_reapers_in_a_race_do_not_lock_each_other_out(self, store: Store) -> None:
        ids = store.submit_many([spec(number, "a") for number in range(40)])
        for job_id in ids:
            take(store, job_id=job_id, lease_s=0.0)
        *cancelled, reaped, more = race(*[partial(store.cancel_matching, tags=["a"])] * 4, store.reap, store.reap)
        reaped = sorted(chain(reaped, more, store.reap()))
        assert reaped == ids
        assert all(cancellation.ended + cancellation.asked <= 40 for cancellation in cancelled)
        assert {store.job(job_id).state for job_id in ids} == {"cancelled"}
