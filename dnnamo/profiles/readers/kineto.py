"""A finished `torch.profiler.profile` -> `Recording`, without PyTorch's own post-processing and without PyTorch.

The raw events of the default kind of profile, operations on host threads and nothing else, are read as they are: that
takes half the time of having them written as a trace and reading it. What else a profiler may hold (work of devices,
allocations, Python's calls, shapes) is said in full only by the trace, so such a profile is read as its file would be.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from dnnamo.errors import ModelError
from dnnamo.profiles.events import NONE, Column, Events, Ints, Texts
from dnnamo.profiles.readers import chrome
from dnnamo.profiles.recording import Recording

__all__ = ["read"]

_PROFILERS = ("torch.profiler", "torch.autograd.profiler")
_ON_HOST = ("cpu_op", "user_annotation")
_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset", "gpu_user_annotation")
_SAVED = (
    "The trace of this profile was exported before it was returned, which PyTorch does only once; so what its raw "
    "events do not say is missing: the allocators' totals, shapes, and how kernels were launched."
)


def read(source: object) -> Recording | None:
    """Return what a finished profiler of PyTorch recorded; None for anything else.

    Raises:
        ModelError: If the profiler was not run, or has not been stopped.
    """
    if not any(kind.__name__ == "profile" and kind.__module__.startswith(_PROFILERS) for kind in type(source).__mro__):
        return None
    profiler: Any = getattr(source, "profiler", source)  # `torch.profiler.profile` has one of `torch.autograd.profiler`
    results = getattr(profiler, "kineto_results", None)
    if results is None:
        raise ModelError(
            "The model returned a torch.profiler.profile that was not run, or is still running. Return it after its "
            "`with` block, or after stop()."
        )
    return _plain(profiler, results.events()) or _saved(results)


def _plain(profiler: Any, events: list[Any]) -> Recording | None:
    """Read raw events that say all there is: of operations on host threads, with no more than their times."""
    if profiler.record_shapes or profiler.profile_memory or profiler.with_stack or profiler.with_modules or not events:
        return None
    if not hasattr(events[0], "activity_type"):  # before PyTorch 2.8
        return None
    kinds = _texts(events, "activity_type")
    return _raw(events, kinds) if set(kinds.values) <= set(_ON_HOST) else None


def _saved(results: Any) -> Recording:
    """Read the trace that PyTorch writes, or the raw events if it has been written before."""
    with tempfile.TemporaryDirectory(prefix="dnnamo-trace-") as folder:
        path = Path(folder) / "trace.json"
        try:
            results.save(str(path))
        except RuntimeError as error:
            if "already saved" not in str(error):
                raise
            return _exported(results.events())
        with path.open("rb") as file:
            recording = chrome.read_stream(file, name="The trace that PyTorch wrote of its profile")
    header = {name: value for name, value in recording.header.items() if name != "traceName"}  # our path
    return replace(recording, source="kineto", header=header)


def _exported(events: list[Any]) -> Recording:
    if events and not hasattr(events[0], "activity_type"):
        raise ModelError(
            "The model returned a torch.profiler.profile whose trace had been exported, which PyTorch does only once. "
            "Return the path of the exported file instead."
        )
    return replace(_raw(events, _texts(events, "activity_type")), header={"limits": [_SAVED]})


def _raw(events: list[Any], kinds: Texts) -> Recording:
    """Build the table from the raw events, their kinds being known."""
    name, category = _with_layers(_texts(events, "name"), kinds)
    is_host = category.equal(*_ON_HOST, "layer")
    one_process = bool(is_host.all())  # device_index is then the number of the process that the profiler ran in
    number, sequence = _ints(events, "correlation_id"), _ints(events, "sequence_nr")
    has_sequence = sequence >= 0
    forward_thread = np.full(len(events), NONE)
    forward_thread[has_sequence] = _ints([*compress(events, has_sequence.tolist())], "fwd_thread_id")
    operation: Ints = np.where(is_host, number, NONE)
    columns: dict[str, Column] = {
        "name": name,
        "category": category,
        "process": Texts.same(str(events[0].device_index()), len(events))
        if one_process and events
        else _numbers(events, "device_index"),
        "thread": _numbers(events, "device_resource_id"),
        "start_ns": _ints(events, "start_ns"),
        "duration_ns": _ints(events, "duration_ns"),
        "operation": operation,
        "correlation": np.where(is_host, NONE, number),
        "sequence": np.where(has_sequence, sequence, NONE),
        "forward_thread": forward_thread,
    }
    if not one_process:
        columns |= _of_others(events, category, operation)
    return Recording(source="kineto", events=Events.of(columns, {}))


def _of_others(events: list[Any], category: Texts, operation: Ints) -> dict[str, Column]:
    """Return the columns that have values for more than operations on the host."""
    is_moment, on_device = category.equal("cpu_instant_event"), category.equal(*_ON_DEVICE)
    caller, size = _ints(events, "linked_correlation_id"), _ints(events, "nbytes")
    return {
        "phase": Texts(is_moment.astype(np.int32), ["X", "i"]),
        "operation": np.where(caller > 0, caller, operation),
        "device": np.where(on_device, _ints(events, "device_index"), NONE),
        "stream": np.where(on_device, _ints(events, "device_resource_id"), NONE),
        "bytes": np.where(size != 0, size, NONE),
    }


def _ints(events: list[Any], name: str) -> Ints:
    return np.fromiter(_each(events, name), np.int64, len(events))


def _texts(events: list[Any], name: str) -> Texts:
    return Texts.of(_each(events, name))


def _numbers(events: list[Any], name: str) -> Texts:
    """Encode numbers that identify something, which are few."""
    found, codes = np.unique(_ints(events, name), return_inverse=True)
    return Texts(codes.astype(np.int32), [str(number) for number in found.tolist()])


def _each(events: list[Any], name: str) -> Iterator[Any]:
    """Yield what a method returns of each event; asked of the class it is found once."""
    return map(getattr(type(events[0]), name), events) if events else iter(())


def _with_layers(name: Texts, category: Texts) -> tuple[Texts, Texts]:
    """Turn marks of layers into events of the category `layer`, as the reader of traces does."""
    marks = name.where(lambda text: text.startswith(chrome.LAYER_MARK))
    paths = Texts.concat([Texts(name.codes, [text.removeprefix(chrome.LAYER_MARK) for text in name.values])])
    codes = np.where(marks, len(category.values), category.codes).astype(np.int32)
    return paths, Texts(codes, [*category.values, "layer"])
