"""The options that every verb has which makes a job: each is declared once, and read into one record."""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

from dnnamo import records
from dnnamo.errors import UsageError

__all__ = ["ModelOptions", "Options", "ProfileOptions", "with_options"]

_LIMITS = "Limits of an attempt, by default the worker's"
_SETUP = "How the model computes, by default as its loader made it"
_PROFILE = "What a profile holds besides operations, at a cost"


def _limit(help: str, metavar: str = "SIZE") -> Any:  # noqa: A002
    return typer.Option(help=help, metavar=metavar, rich_help_panel=_LIMITS)


def _set_up(help: str, flag: str, **more: Any) -> Any:  # noqa: A002
    return typer.Option(flag, help=help, rich_help_panel=_SETUP, **more)


def _recorded(help: str, flag: str) -> Any:  # noqa: A002
    return typer.Option(flag, help=help, rich_help_panel=_PROFILE)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What a job is made of besides its method and its model; a field is an option of the command line."""

    device: Annotated[records.Device, typer.Option(help="Device class, which is also the queue.")] = "cpu"
    param: Annotated[
        list[str] | None, typer.Option("-p", "--param", metavar="KEY=VALUE", help="Option of the model; repeatable.")
    ] = None
    threads: Annotated[
        int | None, typer.Option(help="Compute threads; by default one for each core that the job has.")
    ] = None
    weights: Annotated[str | None, typer.Option(metavar="FILE", help="Safetensors file of weights to set first.")] = (
        None
    )
    pickled_weights: Annotated[
        bool,
        typer.Option(
            "--pickled-weights", help="Unpickle that file here, which runs what it says, if it is no safetensors file."
        ),
    ] = False
    python: Annotated[
        str | None, typer.Option(metavar="PATH", help="Another interpreter to run it with, which the worker allows.")
    ] = None
    priority: Annotated[int, typer.Option(help="The greater starts first.")] = 0
    tag: Annotated[list[str] | None, typer.Option(metavar="WORD", help="To find the job by; repeatable.")] = None
    seed: Annotated[int | None, typer.Option(help="What random numbers begin with, for the same losses again.")] = None
    precision: Annotated[
        records.Precision | None, _set_up("Number type; mixed: of the operations that bear it.", "--precision")
    ] = None
    compile: Annotated[
        records.CompileMode | None, _set_up("Compile it with torch.compile, in a mode such as default.", "--compile")
    ] = None
    jit_compile: Annotated[bool, _set_up("Compile it with XLA (TensorFlow).", "--jit-compile")] = False
    channels_last: Annotated[bool, _set_up("Lay images out channels innermost.", "--channels-last")] = False
    accumulate: Annotated[
        int, _set_up("Minibatches of a training step, with one update.", "--accumulate", metavar="N")
    ] = 1
    bundle: Annotated[
        bool,
        typer.Option("--bundle/--no-bundle", help="Send the model's folder along, if a worker is to run the job."),
    ] = True
    timeout: Annotated[float | None, _limit("Wall time.", metavar="SECONDS")] = None
    memory: Annotated[str | None, _limit("Memory of its processes together, as in 2GiB.")] = None
    output_limit: Annotated[str | None, _limit("What it may print, as in 10MiB.")] = None
    scratch: Annotated[str | None, _limit("Size that its scratch folder may reach, as in 5GiB.")] = None

    def arguments(self) -> dict[str, Any]:
        """Return these options as `dnnamo.submit` takes them.

        Raises:
            UsageError: If an option of the model is not KEY=VALUE.
        """
        return {
            "device": self.device,
            "params": dict(map(_param, self.param or [])),
            "threads": self.threads,
            "weights": self.weights,
            "pickled": self.pickled_weights,
            "python": self.python,
            "seed": self.seed,
            **{name: getattr(self, name) for name in records.Setup.__struct_fields__},
            "priority": self.priority,
            "tags": self.tag or [],
            "bundle": self.bundle,
            "timeout_s": self.timeout,
            "memory": self.memory,
            "output_limit": self.output_limit,
            "scratch": self.scratch,
        }


@dataclass(frozen=True, kw_only=True)
class Options(ModelOptions):
    """What a job is made of that does steps."""

    steps: Annotated[int, typer.Option(help="Steps to count.")] = 10
    warmup: Annotated[
        int | None, typer.Option(help="Steps before those; by default until the step time is steady.")
    ] = None
    repeat: Annotated[int, typer.Option(metavar="N", help="Measure again, at most N times, what was disturbed.")] = 0

    def arguments(self) -> dict[str, Any]:
        """Return these options as `dnnamo.submit` takes them; raises `UsageError` as `ModelOptions` does."""
        return {**super().arguments(), "n_steps": self.steps, "warmup": self.warmup, "repeats": self.repeat}


@dataclass(frozen=True, kw_only=True)
class ProfileOptions(Options):
    """What a job is made of that may take a profile."""

    shapes: Annotated[bool, _recorded("Shapes and types of each operation's inputs.", "--shapes")] = False
    allocations: Annotated[bool, _recorded("Memory: allocations and releases, peaks.", "--allocations")] = False
    stacks: Annotated[bool, _recorded("Calls of Python functions.", "--stacks")] = False
    flops: Annotated[bool, _recorded("Floating-point operations, counted in one more step.", "--flops")] = False
    paired: Annotated[bool, _recorded("Also time unprofiled steps, before and after.", "--paired/--no-paired")] = True

    def arguments(self) -> dict[str, Any]:
        """Return these options as `dnnamo.submit` takes them; raises `UsageError` as `Options` does."""
        asked = {"shapes": self.shapes, "memory": self.allocations, "stacks": self.stacks, "flops": self.flops}
        capture = [name for name, is_asked in asked.items() if is_asked]
        return {**super().arguments(), "capture": capture, "paired": self.paired}


def _param(text: str) -> tuple[str, Any]:
    """Split KEY=VALUE; the value is JSON if it reads as JSON, else the text as it stands."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"-p {text!r} is no option of a model: write KEY=VALUE, as in -p batch=32.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def with_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the fields of its `options` in their place, for typer to read from its signature."""
    own = inspect.signature(verb, eval_str=True).parameters
    kind = own["options"].annotation
    hints = get_type_hints(kind, include_extras=True)
    own_first = [name for base in kind.__mro__ for name in vars(base).get("__annotations__", ())]
    defaults = {field.name: field.default for field in fields(kind)}
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=hints[name])
        for name in own_first
    ]

    @wraps(verb)
    def wrapped(**given: Any) -> None:
        options = kind(**{parameter.name: given.pop(parameter.name) for parameter in added})
        verb(**given, options=options)

    kept = [it.replace(kind=inspect.Parameter.KEYWORD_ONLY) for name, it in own.items() if name != "options"]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in (*kept, *added)}
    wrapped.__signature__ = inspect.Signature([*kept, *added])  # type: ignore[attr-defined]
    return wrapped
