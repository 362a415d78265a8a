"""From spans on host threads to an operation table: nesting, self time, coverage of the steps.

Every reader of a native format ends here, so that self time means the same for all of them.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
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
    calls = [call for _, thread in groupby(counted, key=lambda span: span.thread) for call in _calls(list(thread))]
    return Profile(
        source=source,
        step_ns=[end - start for start, end in steps],
        covered_ns=_covered(counted, steps),
        operations=_table(calls),
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
            outlasts the one it starts in takes the time up to that one's end from it, and the rest from the next outer
            one. So the self times add up to the time during which any of the spans ran.
    """
    return _self_times(spans, _parents(spans))


def _parents(spans: Sequence[Span]) -> list[int | None]:
    """Index of the innermost span that each span starts in."""
    parents: list[int | None] = []
    open_spans: list[int] = []
    for index, span in enumerate(spans):
        while open_spans and spans[open_spans[-1]].end_ns <= span.start_ns:
            open_spans.pop()
        parents.append(open_spans[-1] if open_spans else None)
        open_spans.append(index)
    return parents


def _self_times(spans: Sequence[Span], parents: Sequence[int | None]) -> list[int]:
    own = [span.end_ns - span.start_ns for span in spans]
    for span, parent in zip(spans, parents, strict=True):
        taken = span.start_ns
        while parent is not None and taken < span.end_ns:
            end = min(span.end_ns, spans[parent].end_ns)
            if end > taken:
                own[parent] -= end - taken
                taken = end
            parent = parents[parent]
    return own


class _Call(NamedTuple):
    span: Span
    self_ns: int
    device_ns: int


def _calls(spans: Sequence[Span]) -> Iterator[_Call]:
    """Yield the calls on one thread, taking an operation that only dispatches to its namesake and that one as one call.

    PyTorch does so for its own tables (`torch.autograd.profiler_util.EventList._remove_dup_nodes`): `aten::mean` goes
    through several dispatch keys, each of which records it.
    """
    parents = _parents(spans)
    own = _self_times(spans, parents)
    on_device = [span.device_ns for span in spans]
    children = [0] * len(spans)
    for parent in parents:
        if parent is not None:
            children[parent] += 1
    outermost = list(range(len(spans)))
    for index, parent in enumerate(parents):
        if parent is None:
            continue
        caller = outermost[parent]
        if children[caller] == 1 and spans[caller].name == spans[index].name:
            outermost[index] = caller
            own[caller] += own[index]
            on_device[caller] += on_device[index]
            children[caller] = children[index]
    for index, span in enumerate(spans):
        if outermost[index] == index:
            yield _Call(span, own[index], on_device[index])


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


def _table(calls: Iterable[_Call]) -> list[Operation]:
    rows: dict[tuple[str, str], list[int]] = {}
    shapes: dict[tuple[str, str], list[Any] | None] = {}
    for span, self_ns, device_ns in calls:
        key = (span.name, repr(span.shapes))
        row = rows.setdefault(key, [0, 0, 0, 0])
        shapes[key] = span.shapes
        row[0] += 1
        row[1] += self_ns
        row[2] += span.end_ns - span.start_ns
        row[3] += device_ns
    table = [
        Operation(name=key[0], calls=row[0], self_ns=row[1], total_ns=row[2], device_ns=row[3], shapes=shapes[key])
        for key, row in rows.items()
    ]
    return sorted(table, key=lambda operation: (-operation.self_ns, operation.name))
