"""A database with many profiles, and the questions that are asked of it."""

import random
import time
from collections.abc import Sequence
from math import ceil
from typing import Any

from msgspec.structs import replace
from sqlalchemy import text

from dnnamo.client import Session
from dnnamo.records import EVENTS_NAME, Artifact, JobSpec, Operation, Outcome, Profile, ProfiledStep
from dnnamo.stored import JobHandle
from dnnamo_storage.engine import reading

__all__ = ["ask", "fill"]

NAMES, SHAPES, LAYERS, STEPS = 80, 160, 32, 20
"""Rows of each table: what a capture of demo:transformer comes to."""

TWO = text("""
    SELECT name, a.calls, a.self_ns, a.total_ns, a.device_ns, b.calls, b.self_ns, b.total_ns, b.device_ns
    FROM (SELECT * FROM operations WHERE job_id = :first AND grain = 'name') AS a
    FULL JOIN (SELECT * FROM operations WHERE job_id = :second AND grain = 'name') AS b USING (name)
    ORDER BY coalesce(b.self_ns, 0) - coalesce(a.self_ns, 0) DESC
""")


def fill(session: Session, count: int) -> list[int]:
    """Store so many profiles of different models and times; return their jobs' ids."""
    chance = random.Random(count)
    jobs = []
    for number in range(count):
        spec = JobSpec(model=f"demo:model{number % 100}", method="import_trace", tags=[f"run{number}"])
        artifacts = [Artifact(name=EVENTS_NAME, media_type="application/vnd.apache.parquet")]
        outcome = Outcome(state="succeeded", profile=_profile(chance, number), artifacts=artifacts)
        jobs.append(session.store.import_profile(spec, outcome, files={EVENTS_NAME: chance.randbytes(512)}))
    return jobs


def ask(session: Session, jobs: list[int], times: int) -> dict[str, list[float]]:
    """Return the seconds that the table of one profile took, and that of two joined, each time of other profiles."""
    chance = random.Random(0)
    seconds: dict[str, list[float]] = {"one": [], "two": []}
    for _ in range(times):
        first, second = chance.sample(jobs, 2)
        start = time.perf_counter()
        one = JobHandle(first, session).profile.ops()
        between = time.perf_counter()
        two = _joined(session, first, second)
        seconds["one"].append(between - start)
        seconds["two"].append(time.perf_counter() - between)
        if not len(one) == NAMES <= len(two) <= 2 * NAMES:
            raise SystemExit(f"one table has {len(one)} rows and two joined have {len(two)}")
    return seconds


def _joined(session: Session, first: int, second: int) -> Sequence[Any]:
    with reading(session.store.engine) as connection:
        return connection.execute(TWO, {"first": first, "second": second}).all()


def _profile(chance: random.Random, number: int) -> Profile:
    by_name = [_operation(chance, f"aten::operation_{(row + number) % (2 * NAMES)}") for row in range(NAMES)]
    by_shape = [
        replace(row, shapes=[[8, 16 * (number % 40 + 1), 128], [128, 128], []])
        for row in by_name * ceil(SHAPES / NAMES)
    ]
    by_layer = [_operation(chance, f"1.layers.{row}.linear") for row in range(LAYERS)]
    steps = [
        ProfiledStep(number=step, wall_ns=10**7, covered_ns=9 * 10**6, calls=2_000, self_ns=9 * 10**6)
        for step in range(STEPS)
    ]
    return Profile(
        source="kineto",
        events=STEPS * 2_000,
        span_ns=STEPS * 10**7,
        steps=steps,
        covered_ns=STEPS * 9 * 10**6,
        operations={"name": by_name, "shape": by_shape[:SHAPES], "layer": by_layer},
        verdict="ok",
    )


def _operation(chance: random.Random, name: str) -> Operation:
    own = chance.randrange(10**4, 10**9)
    return Operation(name=name, calls=chance.randrange(1, 5_000), self_ns=own, total_ns=own + chance.randrange(10**8))
