"""What `Store` promises of intermediates, on every database that it runs on."""

from msgspec.structs import replace
from sqlalchemy import delete, select

from dnnamo.records import Outcome
from dnnamo_storage import Store
from dnnamo_storage import schema as tables
from dnnamo_storage.engine import reading, writing
from tests.intermediates.given import INTERMEDIATES
from tests.storage.stored import count, submit_and_take


def record(store: Store, outcome: Outcome) -> int:
    claim = submit_and_take(store)
    assert store.record(claim, outcome, files={})
    return claim.job_id


def test_intermediates_are_read_back_as_they_were(store: Store) -> None:
    job_id = record(store, Outcome(state="succeeded", intermediates=INTERMEDIATES))
    assert store.intermediates(job_id) == INTERMEDIATES


def test_those_of_jobs_are_kept_apart_and_in_order(store: Store) -> None:
    first = record(store, Outcome(state="succeeded", intermediates=INTERMEDIATES))
    second = record(store, Outcome(state="succeeded", intermediates=INTERMEDIATES[::-1]))
    assert store.intermediates(first) == INTERMEDIATES
    assert store.intermediates(second) == INTERMEDIATES[::-1]


def test_what_people_query_is_a_column(store: Store) -> None:
    job_id = record(store, Outcome(state="succeeded", intermediates=INTERMEDIATES))
    with reading(store.engine) as connection:
        rows = connection.execute(select(tables.intermediates).order_by(tables.intermediates.c.position)).all()
    found = [{name: value for name, value in row._mapping.items() if name != "record"} for row in rows]
    unknown = dict.fromkeys(("zero_fraction", "min", "max", "mean", "std"))
    assert found == [
        {
            "job_id": job_id,
            "position": 0,
            "name": "block.0",
            "dtype": "float32",
            "elements": 64,
            "bytes": 256,
            "non_finite": 2,
            "zero_fraction": 0.25,
            "min": -0.1,
            "max": 1e300,
            "mean": 1 / 3,
            "std": 5e-324,
        },
        {
            "job_id": job_id,
            "position": 1,
            "name": "block.0#2",
            "dtype": "bfloat16",
            "elements": 0,
            "bytes": 0,
            "non_finite": 0,
        }
        | unknown,
    ]


def test_names_from_user_code_cannot_break_the_record(store: Store) -> None:
    nasty = [replace(INTERMEDIATES[0], name="a\x00b \ud83d 名前")]
    job_id = record(store, Outcome(state="succeeded", intermediates=nasty))
    assert [it.name for it in store.intermediates(job_id)] == ["a\ufffdb \ufffd 名前"]


def test_a_job_without_intermediates_has_none(store: Store) -> None:
    for job_id in (record(store, Outcome(state="succeeded")), 999, 0, 2**70):
        assert store.intermediates(job_id) == []


def test_intermediates_go_with_their_job(store: Store) -> None:
    record(store, Outcome(state="succeeded", intermediates=INTERMEDIATES))
    with writing(store.engine) as connection:
        connection.execute(delete(tables.jobs))
    assert count(store, "intermediates") == 0


def test_a_claim_that_no_longer_holds_writes_none(store: Store) -> None:
    claim = submit_and_take(store)
    assert store.hand_back(claim)
    assert not store.record(claim, Outcome(state="succeeded", intermediates=INTERMEDIATES), files={})
    assert count(store, "intermediates") == 0
