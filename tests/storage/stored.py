"""What tests of `Store` share: records to store, and ways to bring a job where a test needs it."""

import threading
from collections.abc import Callable
from typing import Any

from sqlalchemy import func, select, update

from dnnamo.records import (
    Claim,
    DeviceTime,
    Environment,
    FlopCount,
    Gpu,
    JobSpec,
    Operation,
    Outcome,
    Overhead,
    Predictions,
    Profile,
    ProfiledStep,
    Result,
    Steps,
    Warmup,
)
from dnnamo_storage import Store
from dnnamo_storage import schema as tables
from dnnamo_storage.columns import db_now
from dnnamo_storage.engine import reading, writing

__all__ = [
    "ENVIRONMENT",
    "HUGE",
    "PROFILE",
    "RESULT",
    "SPEC",
    "SUCCEEDED",
    "contents",
    "count",
    "let_lease_run_out",
    "lose",
    "race",
    "submit_and_take",
    "take",
]

SPEC = JobSpec(model="demo:mlp", method="run_inference")
SUCCEEDED = Outcome(state="succeeded")
HUGE = 2**63 - 1

ENVIRONMENT = Environment(
    hostname="node7",
    os="Linux 6.1",
    cpu="EPYC",
    cores=64,
    affinity=[0, 1],
    governor=None,
    memory_bytes=2**40,
    python="3.11.7",
    libraries={"torch": "2.13.0", "numpy": "2.4.6"},
    threads={"OMP_NUM_THREADS": 2},
    gpus=[Gpu(name="H200", uuid="GPU-1", memory_bytes=2**37)],
    driver="570",
)
RESULT = Result(
    steps=Steps(count=4, duration_ns=[4_000, 2_000, 3_000, HUGE], warmup=Warmup(count=2, duration_ns=[9, 8])),
    loss=[1.5, None, 1e300, 0.25],
    score=[0.5],
    predictions=Predictions(kept=1, total=4, total_bytes=4096),
)
PROFILE = Profile(
    source="kineto",
    events=1234,
    span_ns=90,
    steps=[
        ProfiledStep(number=5, wall_ns=10, covered_ns=4, calls=2, self_ns=9, device_ns=3, peak_bytes=2**40),
        ProfiledStep(number=6, wall_ns=30, covered_ns=16, calls=2, self_ns=HUGE),
    ],
    covered_ns=20,
    operations={
        "name": [
            Operation(name="aten::mm", calls=4, self_ns=HUGE, total_ns=HUGE, device_ns=HUGE, device_total_ns=HUGE),
            Operation(name="aten::add", calls=1, self_ns=5, total_ns=7, flops=2**50, bytes=-16, peak_bytes=0),
        ],
        "shape": [
            Operation(name="aten::mm", calls=3, self_ns=HUGE, total_ns=HUGE, device_ns=HUGE, shapes=[[2, 3], [], None]),
            Operation(name="aten::add", calls=1, self_ns=5, total_ns=7),
            Operation(name="aten::mm", calls=1, self_ns=1, total_ns=1, shapes=[]),
        ],
        "layer": [Operation(name="", calls=1, self_ns=5, total_ns=HUGE)],
        "kernel": [Operation(name="gemm<float>", calls=2, self_ns=0, total_ns=0, device_ns=3, device_total_ns=3)],
    },
    devices=[
        DeviceTime(
            device=number,
            total_ns=50,
            busy_ns=40,
            compute_ns=30,
            communication_ns=5,
            exposed_communication_ns=4,
            copy_ns=7,
            exposed_copy_ns=6,
            idle_ns=HUGE - 9,
            waiting_for_host_ns=8,
            gap_ns=2,
        )
        for number in range(2)
    ],
    peak_bytes={"cpu": 7, "gpu 0": 2**40},
    flops=FlopCount(flops=2**50, counted_calls=3, calls=4, uncounted={"aten::add": 1}),
    overhead=Overhead(before_ns=[10, 12], after_ns=[14], profiled_ns=30.0),
    verdict="degraded",
    reasons=["2 events overlap."],
)


def take(store: Store, **options: Any) -> Claim:
    claim = store.claim(["cpu", "gpu"], **{"worker": "w1", "lease_s": 30.0, **options})
    assert claim is not None
    return claim


def submit_and_take(store: Store, spec: JobSpec = SPEC) -> Claim:
    return take(store, job_id=store.submit(spec))


def let_lease_run_out(store: Store, job_id: int) -> None:
    with writing(store.engine) as connection:
        connection.execute(update(tables.jobs).where(tables.jobs.c.id == job_id).values(lease_until=db_now(-1)))


def lose(store: Store, job_id: int) -> Claim:
    claim = take(store, job_id=job_id)
    let_lease_run_out(store, job_id)
    assert store.reap() == [job_id]
    return claim


def count(store: Store, table: str) -> int:
    with reading(store.engine) as connection:
        return connection.scalar(select(func.count()).select_from(tables.metadata.tables[table])) or 0


def contents(store: Store) -> dict[str, Any]:
    """All rows of all tables."""
    with reading(store.engine) as connection:
        return {
            name: sorted(map(repr, connection.execute(select(table)))) for name, table in tables.metadata.tables.items()
        }


def race(*racers: Callable[[], Any]) -> list[Any]:
    """Call all at once, each in a thread of its own; return what they returned, in order."""
    start = threading.Barrier(len(racers))
    results: dict[int, Any] = {}
    errors: list[BaseException] = []

    def run(number: int, racer: Callable[[], Any]) -> None:
        start.wait()
        try:
            results[number] = racer()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=item) for item in enumerate(racers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    return [results[number] for number in range(len(racers))]
