"""PyTorch's raw Kineto events -> `Profile`.

The raw events (`torch.profiler.profile.profiler.kineto_results.events()`) hold what `prof.events()` is built from, at a
tenth of the time. What counts as an operation, and which kernels belong to it, follows
`torch.autograd.profiler.profile._parse_kineto_results`, so that calls and times agree with `key_averages()`.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from dnnamo.profiles.timeline import Span, profile_of
from dnnamo.records import Profile

__all__ = ["STEP_MARK", "profile_from_events"]

STEP_MARK = "ProfilerStep#"
"""Prefix of a step's annotation: the one that PyTorch's scheduler writes and that trace viewers look for."""

_NOT_OPERATIONS = frozenset(
    {
        "[memory]",
        "[OutOfMemory]",
        "profiler::_record_function_enter",
        "profiler::_record_function_enter_new",
        "profiler::_record_function_exit",
        "aten::is_leaf",
        "aten::output_nr",
        "aten::_version",
    }
)
_IS_STEP = re.compile(rf"{STEP_MARK}\d+$").match


def profile_from_events(events: Iterable[Any]) -> Profile:
    """Build a profile from raw Kineto events; only what ran within marked steps counts, if there are any."""
    events = [event for event in events if event.name() not in _NOT_OPERATIONS and not event.is_hidden_event()]
    on_host = [event for event in events if event.device_type().name == "CPU"]
    steps = sorted((event.start_ns(), event.end_ns()) for event in on_host if _IS_STEP(event.name()))
    launched = _launched_ns(event for event in events if event.device_type().name != "CPU")
    return profile_of(_spans(on_host, launched), steps, source="kineto")


def _launched_ns(device_events: Iterable[Any]) -> dict[int, int]:
    """Device time in nanoseconds by the correlation id of the operation that launched it."""
    launched: dict[int, int] = {}
    for event in device_events:
        if event.is_user_annotation():  # spans kernels that are counted themselves
            continue
        operation = event.linked_correlation_id()
        launched[operation] = launched.get(operation, 0) + event.duration_ns()
    return launched


def _spans(events: list[Any], launched: dict[int, int]) -> Iterator[Span]:
    threads = {event.correlation_id(): event.start_thread_id() for event in events if not event.linked_correlation_id()}
    for event in events:
        if event.is_python_function() or _is_async(event) or _IS_STEP(event.name()):
            continue
        # A runtime call carries its own thread numbering; it belongs on the thread of the operation that made it.
        caller = event.linked_correlation_id()
        thread = threads.get(caller, event.start_thread_id()) if caller else event.start_thread_id()
        yield Span(
            name=event.name(),
            start_ns=event.start_ns(),
            end_ns=event.end_ns(),
            thread=str(thread),
            shapes=event.shapes() or None,
            device_ns=0 if caller else launched.get(event.correlation_id(), 0),
        )


def _is_async(event: Any) -> bool:
    return bool(event.is_async()) or event.start_thread_id() != event.end_thread_id()
