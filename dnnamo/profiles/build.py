"""From a recording to the profile that is stored: link the events, add them up, judge them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dnnamo.profiles.columns import sum_at
from dnnamo.profiles.devices import device_times, union_ns
from dnnamo.profiles.events import Events, Ints
from dnnamo.profiles.file import write_events
from dnnamo.profiles.flops import CountedOperation, flop_count
from dnnamo.profiles.intervals import ran_ns
from dnnamo.profiles.links import Steps, link, steps_of
from dnnamo.profiles.memory import Allocations, allocations, peaks, step_peaks
from dnnamo.profiles.nesting import Nesting
from dnnamo.profiles.operations import Calls, calls_of, tables
from dnnamo.profiles.quality import doubts, worst
from dnnamo.profiles.recording import Recording
from dnnamo.records import Evidence, Overhead, Profile, ProfiledStep

__all__ = ["events_file", "profile_of", "stored_form"]


def stored_form(
    recording: Recording,
    *,
    overhead: Overhead | None = None,
    counted: Sequence[CountedOperation] = (),
    evidence: Evidence | None = None,
) -> tuple[Profile, bytes]:
    """Build what is stored of a recording: its profile, and the file of its event table.

    Args:
        recording: The events as they were recorded.
        overhead: What profiling did to the steps, if unprofiled ones were timed as well.
        counted: Floating-point operations of one step, if they were counted.
        evidence: What was seen of the machine meanwhile.
    """
    nesting = recording.events.nest()
    events = link(recording.events, nesting)
    with ThreadPoolExecutor(1) as thread:  # NumPy and Arrow mostly hold no lock
        file = thread.submit(events_file, recording, events, nesting)
        profile = _profile(recording, events, nesting, overhead=overhead, counted=counted, evidence=evidence)
        return profile, file.result()


def profile_of(
    recording: Recording,
    *,
    overhead: Overhead | None = None,
    counted: Sequence[CountedOperation] = (),
    evidence: Evidence | None = None,
) -> tuple[Profile, Events]:
    """Build the profile of a recording; arguments as for `stored_form`.

    Returns:
        The profile, and its events with their links.
    """
    nesting = recording.events.nest()
    events = link(recording.events, nesting)
    return _profile(recording, events, nesting, overhead=overhead, counted=counted, evidence=evidence), events


def events_file(recording: Recording, events: Events, nesting: Nesting | None = None) -> bytes:
    """Return the event table of a profile as the file that is stored with it, by their nesting if it is known."""
    metadata = {"source": recording.source, "base_ns": recording.base_ns, "header": recording.header}
    return write_events(events, metadata, nesting)


def _profile(
    recording: Recording,
    events: Events,
    nesting: Nesting,
    *,
    overhead: Overhead | None,
    counted: Sequence[CountedOperation],
    evidence: Evidence | None,
) -> Profile:
    changes = allocations(events)
    calls = calls_of(events, nesting, changes)
    steps = _profiled_steps(steps_of(events), changes, calls)
    flops = flop_count(counted) if counted else None
    found = doubts(recording, events, steps, overlaps=calls.overlaps, overhead=overhead, flops=flops, evidence=evidence)
    return Profile(
        source=recording.source,
        events=len(events),
        span_ns=int(events.end_ns.max() - events.start_ns.min()) if len(events) else 0,
        steps=steps,
        covered_ns=sum(step.covered_ns for step in steps) if steps else union_ns(calls.events),
        operations=tables(calls, counted=counted, steps=len(steps) or 1),
        devices=device_times(calls.work, events),
        peak_bytes=peaks(changes),
        flops=flops,
        overhead=overhead,
        verdict=worst(found),
        reasons=[doubt.reason for doubt in found],
        notes=recording.header.get("limits", []),
    )


def _profiled_steps(bounds: Steps, changes: Allocations, calls: Calls) -> list[ProfiledStep]:
    count = len(bounds.number)
    if not count:
        return []
    at = bounds.of(calls.events.start_ns)
    kept = calls.kept[at[calls.kept] >= 0]
    order = np.argsort(bounds.number, kind="stable")
    of_work = order[np.searchsorted(bounds.number, calls.work.step, sorter=order)]
    columns = {
        "number": bounds.number,
        "wall_ns": bounds.end_ns - bounds.start_ns,
        "covered_ns": _covered_ns(bounds, calls.events, at),
        "calls": np.bincount(at[kept], minlength=count),
        "self_ns": sum_at(at[kept], calls.self_ns[kept], count),
        "device_ns": sum_at(of_work, calls.work.duration_ns, count),
    }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    peaks = step_peaks(changes, bounds)
    return [
        ProfiledStep(**dict(zip(columns, row, strict=True)), peak_bytes=peak)
        for row, peak in zip(rows, peaks, strict=True)
    ]


def _covered_ns(bounds: Steps, calls: Events, at: Ints) -> Ints:
    """Return for how long at least one operation ran in each step, on any thread."""
    rows = np.flatnonzero(at >= 0)
    rows = rows[np.argsort(calls.start_ns[rows], kind="stable")]
    start, step = calls.start_ns[rows], at[rows]
    return sum_at(step, ran_ns(start, np.minimum(calls.end_ns[rows], bounds.end_ns[step])), len(bounds.number))
