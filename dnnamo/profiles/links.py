"""What belongs to what: which event ran in which, in which step and layer, who launched it, what it is the backward of.

Sources of the rules: a kernel and the operation that launched it share Kineto's External id, and a kernel and the
runtime call share the correlation id (`GenericTraceActivity` in pytorch/kineto); a backward operation belongs to the
last forward one with its sequence number (`generateForwardBackwardLink` in `torch/csrc/profiler/kineto_shim` and
`torch/csrc/autograd/profiler_kineto.cpp`).
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnnamo.profiles.events import NONE, Events, Ints, Texts
from dnnamo.profiles.nesting import Nesting

__all__ = ["DEVICE_WORK", "RUNTIME", "STEP_MARK", "Steps", "is_step", "last_with", "link", "steps_of"]

DEVICE_WORK = ("kernel", "gpu_memcpy", "gpu_memset")
"""Categories of what a device did."""

RUNTIME = ("cuda_runtime", "cuda_driver")
"""Categories of what a host thread asked a device's runtime for."""

STEP_MARK = "ProfilerStep#"
"""Prefix of a step's annotation: the one that PyTorch's scheduler writes and that trace viewers look for."""

_IS_KINETO_STEP = re.compile(rf"{STEP_MARK}\d{{1,18}}$").match

_MODULE_MARK = "nn.Module: "

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Steps:
    """The marked steps of a profile, by their starts.

    Attributes:
        number: Number of each.
        start_ns: Start of each.
        end_ns: End of each, and no later than the next one's start.
    """

    number: Ints
    start_ns: Ints
    end_ns: Ints

    def of(self, moments: Ints) -> Ints:
        """Return the position of the step that each moment lies in, -1 for those outside of all."""
        at = np.searchsorted(self.start_ns, moments, side="right") - 1
        return np.where((at >= 0) & (moments < self.end_ns[at]), at, -1) if len(self.number) else at


def steps_of(events: Events) -> Steps:
    """Return the steps that are marked in a table, on whatever thread."""
    marks = events.only("name", "start_ns", "duration_ns").take(is_step(events))
    numbers = {code: _number(marks.name.values[code]) for code in np.unique(marks.name.codes).tolist()}
    order = np.argsort(marks.start_ns, kind="stable")
    start, end = marks.start_ns[order], marks.end_ns[order]
    until = np.minimum(end, np.append(start[1:], end[-1:])) if len(end) else end
    number = [numbers[code] for code in marks.name.codes[order].tolist()]
    return Steps(np.array(number, np.int64), start, until)


def is_step(events: Events) -> Mask:
    """Return which rows mark a step."""
    is_annotation = events.category.equal("user_annotation")
    return events.category.equal("step") | (is_annotation & events.name.where(_IS_KINETO_STEP))


def _number(name: str) -> int:
    digits = re.search(r"\d{1,18}$", name)
    return int(digits[0]) if digits else 0


def link(events: Events, nesting: Nesting | None = None) -> Events:
    """Fill in `parent`, `step`, `launcher`, `forward` and `layer`; a layer that the source gave is kept.

    Args:
        events: The table.
        nesting: How its events lie within each other, if that is known already.
    """
    nesting = nesting or events.nest()
    events = events.replace(parent=nesting.parent)
    caller = _callers(events)
    launcher = _launchers(events, nesting, caller)
    forward = _forwards(events)
    return events.replace(
        launcher=launcher,
        forward=forward,
        step=_steps(events, caller, launcher),
        layer=_layers(events, nesting, launcher, forward),
    )


def _callers(events: Events) -> Ints:
    """Return for work of a device the row of the runtime call with its correlation id."""
    calls = np.flatnonzero(events.category.equal(*RUNTIME) & (events.correlation != NONE))
    return _find(events.correlation, events.category.equal(*DEVICE_WORK), calls, events.correlation[calls])


def _launchers(events: Events, nesting: Nesting, caller: Ints) -> Ints:
    """Return for work of a device the row of the operation with its id; else of the one around the runtime call."""
    is_work, is_operation = events.category.equal(*DEVICE_WORK), events.category.equal("cpu_op", "user_annotation")
    operations = np.flatnonzero(is_operation & (events.operation != NONE))
    launcher = _find(events.operation, is_work, operations, events.operation[operations])
    around = nesting.inherited(np.where(is_operation, np.arange(len(events)), -1))
    by_call = (launcher == NONE) & (caller != NONE)
    launcher[by_call] = around[caller[by_call]]
    launcher[launcher < 0] = NONE
    return launcher


def _find(ids: Ints, wanted: Mask, rows: NDArray[np.intp], keys: Ints) -> Ints:
    """Return for each wanted row the one of `rows` that has its id as a key; of several, the last."""
    found = np.full(len(ids), NONE)
    sought = np.flatnonzero(wanted)
    at = last_with(keys, ids[sought])
    found[sought[at != NONE]] = rows[at[at != NONE]]
    return found


def last_with(keys: Ints, ids: Ints) -> Ints:
    """Return for each id the position of the last key that equals it, NONE where there is none or the id is NONE."""
    found = np.full(len(ids), NONE)
    order = np.argsort(keys, kind="stable")
    sought = np.flatnonzero(ids != NONE)
    if len(order) and len(sought):
        at = np.searchsorted(keys[order], ids[sought], side="right") - 1
        hit = (at >= 0) & (keys[order][at] == ids[sought])
        found[sought[hit]] = order[at[hit]]
    return found


def _steps(events: Events, caller: Ints, launcher: Ints) -> Ints:
    """Return the number of the step that each event, or what launched it, started in."""
    steps = steps_of(events)
    origin = np.where(caller != NONE, caller, launcher)
    origin = np.where(origin != NONE, origin, np.arange(len(events)))
    at = steps.of(events.start_ns[origin])
    return np.where(at >= 0, steps.number[at] if len(steps.number) else NONE, NONE)


def _forwards(events: Events) -> Ints:
    """Return for backward operations the row of the forward one: the last to start with its sequence number."""
    found = np.full(len(events), NONE)
    is_op = events.category.equal("cpu_op") & (events.sequence != NONE)
    is_backward = is_op & (events.forward_thread > 0)
    forward = np.flatnonzero(is_op & ~is_backward)
    for thread in np.unique(events.forward_thread[is_backward]).tolist():
        backward = is_backward & (events.forward_thread == thread)
        rows = _rows_of_forward_thread(events, forward, backward)
        rows = rows[np.argsort(events.start_ns[rows], kind="stable")]
        linked = _find(events.sequence, backward, rows, events.sequence[rows])
        found = np.where(linked != NONE, linked, found)
    return found


def _rows_of_forward_thread(events: Events, forward: NDArray[np.intp], backward: Mask) -> NDArray[np.intp]:
    """Return the forward operations that one number of a forward thread may mean.

    The number is PyTorch's own, which no event carries as its thread. Sequence numbers are counted for each thread, so
    of several threads it is the one that has most of the backward operations' numbers.
    """
    threads = events.thread.codes[forward]
    numbers = np.unique(events.sequence[backward])
    counts = {
        thread: len(np.intersect1d(numbers, events.sequence[forward[threads == thread]]))
        for thread in np.unique(threads).tolist()
    }
    return forward[threads == max(counts, key=lambda thread: counts[thread])] if counts else forward


def _layers(events: Events, nesting: Nesting, launcher: Ints, forward: Ints) -> Texts:
    if (events.layer.codes >= 0).any():
        codes, values = nesting.inherited(events.layer.codes), events.layer.values
    else:
        marks, values = _layer_marks(events, nesting)
        codes = nesting.inherited(marks)
        # What runs in a backward operation belongs to the layer of the forward one.
        codes = nesting.inherited(_filled(codes, forward))
    return Texts(_filled(codes, launcher).astype(np.int32), values)


def _filled(codes: NDArray[Any], rows: Ints) -> NDArray[Any]:
    """Return the codes, and where there is none (below 0) that of the row which `rows` names."""
    filled = codes.copy()
    missing = np.flatnonzero((codes < 0) & (rows != NONE))
    filled[missing] = codes[rows[missing]]
    return filled


def _layer_marks(events: Events, nesting: Nesting) -> tuple[NDArray[np.int32], list[str]]:
    """Return the code of each event that is itself a call of a layer, and the paths."""
    is_mark = events.category.equal("layer")
    if is_mark.any():
        return np.where(is_mark, events.name.codes, np.int32(-1)), events.name.values
    is_mark = events.category.equal("python_function") & events.name.where(lambda name: name.startswith(_MODULE_MARK))
    return _module_paths(events, nesting, np.flatnonzero(is_mark))


def _module_paths(events: Events, nesting: Nesting, marks: NDArray[np.intp]) -> tuple[NDArray[np.int32], list[str]]:
    """Return codes and paths of calls of modules that a Python trace names by class and number, the outermost first."""
    codes = np.full(len(events), -1, np.int32)
    within = np.full(len(events), -1)
    within[marks] = marks
    within = nesting.inherited(within)
    parent = nesting.parent[marks]
    outer = np.where(parent == NONE, -1, within[np.maximum(parent, 0)])
    names = [name.removeprefix(_MODULE_MARK) for name in events.name.values]
    path_of, paths = {-1: ""}, dict[tuple[str, int], str]()
    # Sorted, so that what is around a call comes before it.
    for row, around, name in zip(marks.tolist(), outer.tolist(), events.name.codes[marks].tolist(), strict=True):
        call = path_of[around], name
        if call not in paths:
            paths[call] = f"{call[0]}.{names[name]}".removeprefix(".")
        path_of[row] = paths[call]
    found = Texts.of(path_of[row] for row in marks.tolist())
    codes[marks] = found.codes
    return codes, found.values
