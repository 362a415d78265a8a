"""How far a profile's figures can be trusted, and why not further.

`bad`: totals may be wrong, as something is missing or makes no sense. `degraded`: the totals are right for what was
recorded, and something about the measurement or the record asks for care.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dnnamo.profiles.events import NONE, Events
from dnnamo.profiles.links import DEVICE_WORK
from dnnamo.profiles.recording import Recording
from dnnamo.records import Evidence, FlopCount, Overhead, ProfiledStep, Quality

__all__ = ["Doubt", "doubts", "worst"]

_LEAST_COVERAGE = 0.5
_MOST_OVERHEAD = 3.0
_LEAST_OVERHEAD = 0.9
_LEAST_FLOP_COVERAGE = 0.9
_MOST_DROPPED = 0.01
_SHOWN = 5


class Doubt(NamedTuple):
    """One reason not to trust a profile fully."""

    verdict: Quality
    reason: str


def worst(found: Sequence[Doubt]) -> Quality:
    """Return the verdict that some doubts come to."""
    verdicts = {doubt.verdict for doubt in found}
    return "bad" if "bad" in verdicts else "degraded" if verdicts else "ok"


def doubts(
    recording: Recording,
    events: Events,
    steps: Sequence[ProfiledStep],
    *,
    overlaps: int,
    overhead: Overhead | None,
    flops: FlopCount | None,
    evidence: Evidence | None,
) -> list[Doubt]:
    """Return all that is to be said against a profile.

    Args:
        recording: Where its events are from, and what was dropped there.
        events: The linked events.
        steps: The marked steps.
        overlaps: Number of operations that ended after the one that they began in.
        overhead: What profiling did to the steps.
        flops: The count of floating-point operations.
        evidence: What was seen of the machine meanwhile.
    """
    return [
        *_of_record(recording),
        *_of_events(events, overlaps),
        *_of_steps(events, steps),
        *_of_overhead(overhead),
        *_of_flops(flops),
        *_of_machine(evidence),
    ]


def _of_record(recording: Recording) -> Iterator[Doubt]:
    for sentence in recording.damage:
        yield Doubt("bad", sentence)
    for what, count in recording.dropped.items():
        much = count > _MOST_DROPPED * (len(recording.events) + count)
        yield Doubt("bad" if much else "degraded", f"{count:,} {what} were left out.")


def _of_events(events: Events, overlaps: int) -> Iterator[Doubt]:
    if not len(events):
        yield Doubt("bad", "It has no events.")
    if overlaps:
        yield Doubt(
            "degraded",
            f"{overlaps:,} operations ended after the one on the same thread that they began in; the time that they "
            "share counts for the inner one.",
        )
    work = events.category.equal(*DEVICE_WORK)
    lost = int((work & (events.launcher == NONE)).sum())
    if lost:
        yield Doubt(
            "degraded",
            f"{lost:,} of {int(work.sum()):,} kernels and copies belong to no operation, as the profile does not hold "
            "what launched them; their time counts for the device only.",
        )


def _of_steps(events: Events, steps: Sequence[ProfiledStep]) -> Iterator[Doubt]:
    if not steps:
        yield Doubt("degraded", "No step is marked in it, so its figures are of everything that was recorded.")
        return
    wall, covered = sum(step.wall_ns for step in steps), sum(step.covered_ns for step in steps)
    has_work = bool(events.category.equal(*DEVICE_WORK).any())
    if wall and covered < _LEAST_COVERAGE * wall and not has_work:
        yield Doubt(
            "degraded",
            f"Operations account for {covered / wall:.0%} of the steps' time (bound {_LEAST_COVERAGE:.0%}); the rest "
            "went to code that the profiler does not see, or to operations that it left out.",
        )
    numbers = np.array([step.number for step in steps])
    if len(np.unique(numbers)) < len(numbers):
        yield Doubt("degraded", "Several steps have the same number.")


def _of_overhead(overhead: Overhead | None) -> Iterator[Doubt]:
    if overhead is None:
        return
    said = f"A step took {overhead.ratio:.2f} times as long profiled as unprofiled"
    if overhead.ratio > _MOST_OVERHEAD:
        yield Doubt(
            "degraded",
            f"{said} (bound {_MOST_OVERHEAD:g}), so shares of many small operations are too great.",
        )
    elif overhead.ratio < _LEAST_OVERHEAD:
        yield Doubt(
            "degraded",
            f"{said} (bound {_LEAST_OVERHEAD:g}): something else slowed the unprofiled steps down, or the steps were "
            "not warm.",
        )


def _of_flops(flops: FlopCount | None) -> Iterator[Doubt]:
    if flops is None or flops.coverage >= _LEAST_FLOP_COVERAGE:
        return
    names = sorted(flops.uncounted, key=lambda name: -flops.uncounted[name])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    yield Doubt(
        "degraded",
        f"Floating-point operations are known for {flops.coverage:.0%} of the calls (bound "
        f"{_LEAST_FLOP_COVERAGE:.0%}); not for {', '.join(names[:_SHOWN])}{more}.",
    )


def _of_machine(evidence: Evidence | None) -> Iterator[Doubt]:
    for reason in evidence.reasons if evidence else []:
        yield Doubt("degraded", f"While it was taken, {reason}.")
