"""From spans on host threads to an operation table: nesting, self time, coverage of the steps.

Every reader of a native format ends here, so that self time means the same for all of them.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from dnnamo.records import Operation, Profile

__all__ = ["Span", "profile_of"]


class Span(NamedTuple):
    """Something that ran on a host thread; times in nanoseconds on one clock.

    Attributes:
        shapes: Shape of each input, None where unknown.
        is_operation: False for the framework's machinery around operations, which takes part in no table.
        device_ns: Time of the kernels and copies that it launched itself.
    """

    name: str
    start_ns: int
    end_ns: int
    thread: str
    shapes: list[Any] | None = None
    is_operation: bool = True
    device_ns: int = 0


Interval = tuple[int, int]


def profile_of(spans: Iterable[Span], steps: Sequence[Interval], *, source: str) -> Profile:
    """Build the profile of what ran within the marked steps.

    Args:
        spans: In any order. A span belongs to the step that it starts in; one outside of all steps is left out.
        steps: Start and end of each step in nanoseconds, disjoint. Empty: everything counts.
        source: What recorded the spans.

    Returns:
        The profile, its operations sorted by self time, greatest first.
    """
    steps = sorted(steps)
    counted = [span for span in spans if span.is_operation and _is_within(span, steps)]
    counted.sort(key=lambda span: (span.thread, span.start_ns, -span.end_ns))
    own: list[int] = []
    for _, on_thread in groupby(counted, key=lambda span: span.thread):
        own += self_times(list(on_thread))
    return Profile(
        source=source,
        step_ns=[end - start for start, end in steps],
        covered_ns=_covered(counted, steps),
        operations=_table(counted, own),
    )


def _is_within(span: Span, steps: Sequence[Interval]) -> bool:
    if not steps:
        return True
    at = bisect_right(steps, (span.start_ns, float("inf"))) - 1
    return at >= 0 and span.start_ns < steps[at][1]


def self_times(spans: Sequence[Span]) -> list[int]:
    """Return each span's time outside of the spans nested in it, in nanoseconds, in the order of the spans.

    Args:
        spans: The spans of one thread, sorted by start, and by descending end where starts are equal. A span that
            outlasts the one it starts in takes only the time up to that one's end from it.
    """
    own = [span.end_ns - span.start_ns for span in spans]
    open_spans: list[int] = []
    for index, span in enumerate(spans):
        while open_spans and spans[open_spans[-1]].end_ns <= span.start_ns:
            open_spans.pop()
        if open_spans:
            parent = open_spans[-1]
            own[parent] -= min(span.end_ns, spans[parent].end_ns) - span.start_ns
        open_spans.append(index)
    return own


def _covered(spans: Iterable[Span], steps: Sequence[Interval]) -> int:
    """Time within the steps during which at least one span ran, on any thread."""
    covered, end, at = 0, 0, 0
    for start, stop in sorted((span.start_ns, span.end_ns) for span in spans):
        while at < len(steps) and steps[at][1] <= start:
            at += 1
        limit = steps[at][1] if at < len(steps) else stop
        begin, stop = max(start, end), min(stop, limit)
        if stop > begin:
            covered += stop - begin
            end = stop
    return covered


def _table(spans: Sequence[Span], own: Sequence[int]) -> list[Operation]:
    rows: dict[tuple[str, str], list[int]] = {}
    shapes: dict[tuple[str, str], list[Any] | None] = {}
    for span, self_ns in zip(spans, own, strict=True):
        key = (span.name, repr(span.shapes))
        row = rows.setdefault(key, [0, 0, 0, 0])
        shapes[key] = span.shapes
        row[0] += 1
        row[1] += self_ns
        row[2] += span.end_ns - span.start_ns
        row[3] += span.device_ns
    table = [
        Operation(name=key[0], calls=row[0], self_ns=row[1], total_ns=row[2], device_ns=row[3], shapes=shapes[key])
        for key, row in rows.items()
    ]
    return sorted(table, key=lambda operation: (-operation.self_ns, operation.name))
