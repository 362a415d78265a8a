"""Warm up a model, then call `run_*` or `profile_*` and time the steps."""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from time import perf_counter_ns
from typing import Any

from dnnamo.errors import ModelError, NonFiniteLoss
from dnnamo.model import StepClock, capabilities, report_loss
from dnnamo.records import Warmup

__all__ = ["Profiled", "losses_and_scores", "paired_profile", "profile", "run", "warm_up"]

_STEADY_STEPS = 3
_STEADY_SPREAD = 1.1
_MOST_STEPS = 30
_MOST_NS = 5_000_000_000

Returned = list[Any]
OnStep = Callable[[], None]


def _nothing() -> None:
    """Nobody wants to know."""


def run(model: Any, method: str, *, n_steps: int, on_step: OnStep = _nothing) -> tuple[Returned, list[int]]:
    """Call `run_inference` or `run_training`; call `on_step` after each step.

    Returns:
        What the method returned, one item a step, and each step's wall time in nanoseconds.

    Raises:
        ModelError: If the method returns something else than a list of one item a step.
    """
    call = getattr(model, method)
    if getattr(model, "marks_steps", False):
        with StepClock(on_step) as clock:
            returned = _checked(call(n_steps=n_steps), method, n_steps)
        if len(clock.duration_ns) != n_steps:
            raise ModelError(
                f"{method} was asked for {n_steps} steps and marked {len(clock.duration_ns)}. A model with "
                "marks_steps = True must put each step inside `with dnnamo.step():`."
            )
        return returned, clock.duration_ns
    return _run_singly(call, method, n_steps, on_step)


def _run_singly(call: Callable[..., Any], method: str, n_steps: int, on_step: OnStep) -> tuple[Returned, list[int]]:
    returned, durations = [], []
    for _ in range(n_steps):
        start = perf_counter_ns()
        values = call(n_steps=1)
        durations.append(perf_counter_ns() - start)
        returned += _checked(values, method, 1)
        on_step()
        if method == "run_training":
            _report(returned[-1])
    return returned, durations


def _report(item: Any) -> None:
    with suppress(TypeError, ValueError, IndexError):  # what is wrong with it is said when all are looked at
        report_loss(float(item[0] if isinstance(item, tuple | list) else item))


def _checked(returned: Any, method: str, n_steps: int) -> Returned:
    if not isinstance(returned, list | tuple):
        raise ModelError(f"{method} must return a list of one item a step; it returned a {type(returned).__name__}.")
    if len(returned) != n_steps:
        raise ModelError(f"{method} was asked for {n_steps} steps and returned a list of {len(returned)} items.")
    return list(returned)


@dataclass(frozen=True)
class Profiled:
    """What profiling gave.

    Attributes:
        native: What the model's method returned.
        duration_ns: Wall times of the profiled steps that the model marked.
        before_ns: Wall times of the unprofiled steps that ran before.
        after_ns: Wall times of those that ran after.
    """

    native: Any
    duration_ns: list[int]
    before_ns: list[int] = field(default_factory=list)
    after_ns: list[int] = field(default_factory=list)


def profile(model: Any, method: str, *, n_steps: int, on_step: OnStep = _nothing) -> Profiled:
    """Call `profile_inference` or `profile_training` once for all steps; call `on_step` after each that is marked."""
    with StepClock(on_step) as clock:
        native = getattr(model, method)(n_steps=n_steps)
    return Profiled(native, clock.duration_ns)


def paired_profile(model: Any, method: str, *, n_steps: int, on_step: OnStep = _nothing) -> Profiled:
    """Profile as `profile` does, between two halves of `n_steps` unprofiled steps; each half has one at least.

    A model that cannot run what it profiles is profiled alone.
    """
    if _runs(method) not in capabilities(model):
        return profile(model, method, n_steps=n_steps, on_step=on_step)
    before = _unprofiled(model, method, n_steps - n_steps // 2)
    profiled = profile(model, method, n_steps=n_steps, on_step=on_step)
    after = _unprofiled(model, method, max(1, n_steps // 2))
    return replace(profiled, before_ns=before, after_ns=after)


def _unprofiled(model: Any, method: str, n_steps: int) -> list[int]:
    returned, durations = run(model, _runs(method), n_steps=n_steps)
    if method == "profile_training":
        losses_and_scores(returned, phase="unprofiled")
    return durations


def _runs(method: str) -> str:
    """Return the method that does unprofiled what a method does, or itself."""
    return method.replace("profile_", "run_")


def warm_up(model: Any, method: str, *, count: int | None, on_step: OnStep = _nothing) -> Warmup:
    """Run steps that are not counted.

    Args:
        model: A model; one that cannot run what `method` profiles is not warmed up.
        method: The method to warm up for.
        count: Number of steps. None runs until the last three times lie within 10 % of each other, and at most
            30 steps, or 5 seconds beside the longest step.
        on_step: Called after each step.

    Returns:
        How many steps were run and their wall times in nanoseconds.
    """
    runs = _runs(method)
    if runs not in capabilities(model):
        return Warmup()
    durations: list[int] = []
    while not _is_warm(durations, count):
        returned, times = run(model, runs, n_steps=1, on_step=on_step)
        if runs == "run_training":
            losses_and_scores(returned, phase="warm-up", first=len(durations))
        durations += times
    return Warmup(count=len(durations), duration_ns=durations)


def _is_warm(durations: list[int], count: int | None) -> bool:
    if count is not None:
        return len(durations) >= count
    # The longest is the one that compiles, which may take a minute.
    if len(durations) >= _MOST_STEPS or sum(durations) - max(durations, default=0) >= _MOST_NS:
        return True
    last = durations[-_STEADY_STEPS:]
    return len(last) == _STEADY_STEPS and max(last) <= _STEADY_SPREAD * min(last)


def losses_and_scores(
    returned: Returned, *, phase: str, first: int = 0
) -> tuple[list[float | None], list[float | None]]:
    """Split what `run_training` returned.

    Args:
        returned: One item a step: a tuple (loss, score) or a loss alone; None where the model has no value.
        phase: What the steps are called in an error.
        first: Number of the first step in an error.

    Raises:
        NonFiniteLoss: At the first loss that is not finite.
        ModelError: If an item is something else.
    """
    losses, scores = [], []
    for number, item in enumerate(returned, first):
        loss, score = item if isinstance(item, tuple | list) and len(item) == 2 else (item, None)
        losses.append(_number(loss, "loss", number))
        scores.append(_number(score, "score", number))
        if losses[-1] is not None and not math.isfinite(losses[-1]):
            raise NonFiniteLoss(losses[-1], step=number, phase=phase)
    return losses, scores


def _number(value: Any, name: str, step: int) -> float | None:
    if value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"run_training must return tuples (loss, score) of numbers; the {name} of step {step} is a "
            f"{type(value).__name__}."
        ) from error
