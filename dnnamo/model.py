"""The wrapped-model interface.

The names and meanings come from the Dnnamo research project (github.com/rdadolf/dnnamo). A model implements any
subset of the interface; a tool that needs more says so with `Unsupported`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter_ns
from types import MappingProxyType, TracebackType
from typing import Any, ClassVar, NoReturn

from dnnamo.errors import Unsupported
from dnnamo.records import METHODS, Capture

__all__ = [
    "Capturing",
    "Model",
    "StepClock",
    "capabilities",
    "listen_for_losses",
    "offer",
    "report_limit",
    "report_loss",
    "requested_capture",
    "step",
]


class Model:
    """A user's network behind the wrapped-model interface; override what it can do.

    A model may also have `count_flops(mode)`, which does one step, `mode` being "inference" or "training", and returns
    a list of `dnnamo.profiles.flops.CountedOperation`; a profile with the option `flops` calls it. And it may have
    `configure(setup)`, which has it compute as a `dnnamo.records.Setup` says from then on. A job that asks for any of
    that calls it before all other methods; it raises `Unsupported` for what the model cannot do.

    Class attributes:
        marks_steps: True if `run_*` and `profile_*` put each step inside `with dnnamo.step():`, so that one call does
            all steps. False, the default, has Dnnamo call `run_*` once a step and time the calls.

    Attributes:
        reasons: Why the model lacks a method that models of its kind may have, a sentence by method.
        made_of: How its loader made the network's inputs, a sentence; it is added to an error of the framework, which
            knows nothing of the loader's options.
    """

    marks_steps: ClassVar[bool] = False
    reasons: Mapping[str, str] = MappingProxyType({})
    made_of: str = ""

    def get_inference_graph(self) -> Any:
        """Return the framework's own graph of an inference step."""
        self._lacks("get_inference_graph")

    def get_training_graph(self) -> Any:
        """Return the framework's own graph of a training step; may be the inference graph's object."""
        self._lacks("get_training_graph")

    def get_weights(self, keys: Iterable[str] | None = None) -> dict[str, Any]:
        """Return the weights as arrays by unique identifier, only those in `keys` if given.

        Raises:
            WeightsError: If a key is unknown.
        """
        self._lacks("get_weights")

    def set_weights(self, kv: Mapping[str, Any]) -> None:
        """Update the named weights and leave the others as they are.

        Raises:
            WeightsError: If a key is unknown or a shape is wrong; then no weight is changed.
        """
        self._lacks("set_weights")

    def run_inference(self, n_steps: int = 1) -> list[Any]:
        """Return the predictions of `n_steps` inputs."""
        self._lacks("run_inference")

    def run_training(self, n_steps: int = 1) -> list[Any]:
        """Train for `n_steps` minibatches; return `n_steps` tuples (loss, score), the score None if there is none."""
        self._lacks("run_training")

    def profile_inference(self, n_steps: int = 1) -> Any:
        """Return the framework's own profiling data of `n_steps` inference steps."""
        self._lacks("profile_inference")

    def profile_training(self, n_steps: int = 1) -> Any:
        """Return the framework's own profiling data of `n_steps` training steps."""
        self._lacks("profile_training")

    def get_intermediates(
        self, keys: Iterable[str] | None = None, receive: Callable[[str, Any], None] | None = None
    ) -> dict[str, Any]:
        """Return the arrays on the dataflow edges for one input, by identifier; the model stays as it is.

        An edge is what a layer puts out, and its identifier the layer's path as in profiles and graphs; the network
        itself goes by the name of its class. A second array of one identifier is `identifier#2`; parts of a tuple or
        dict are `identifier.0` and `identifier.key`.

        A model may take neither of the arguments, as in the original interface, or only one: a job then chooses among
        the arrays that it returns.

        Args:
            keys: Only these: identifiers, or patterns as a shell has them. A key that is an identifier stands for that
                one alone.
            receive: Called with identifier and array as soon as the array is there, so that not all have to be there
                at once. It may look at the array until it returns, and must not change it. The returned dict is empty.

        Raises:
            NoSuchIntermediate: If a key stands for no array.
        """
        self._lacks("get_intermediates")

    def _lacks(self, method: str) -> NoReturn:
        raise Unsupported(f"{type(self).__name__} does not implement {method}. {offer(self, method)}")


def offer(model: object, method: str) -> str:
    """Say why a model lacks a method, where it is known, and which ones it implements."""
    reason = getattr(model, "reasons", {}).get(method, "")
    able = capabilities(model)
    implements = f"It implements {', '.join(able)}." if able else "It implements no method of the interface."
    return f"{reason} {implements}".lstrip()


def capabilities(model: object) -> list[str]:
    """Return the methods of the interface that a model implements, in the interface's order.

    A subclass of `Model` implements what it overrides. Any other object implements what it has: the interface is
    names and meanings, not a base class.
    """
    return [method for method in METHODS if _implements(model, method)]


def _implements(model: object, method: str) -> bool:
    own = getattr(type(model), method, None) if isinstance(model, Model) else getattr(model, method, None)
    return callable(own) and own is not getattr(Model, method)


class StepClock:
    """Collects the wall times of the steps marked while it is entered; the runner's side of `step`.

    Args:
        on_step: Called after each step.

    Attributes:
        duration_ns: Time of each step that ended without an exception, in order.
    """

    def __init__(self, on_step: Callable[[], None] = lambda: None) -> None:
        self.duration_ns: list[int] = []
        self.on_step = on_step

    def __enter__(self) -> "StepClock":
        _clocks.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _clocks.remove(self)


_clocks: list[StepClock] = []


class step:  # noqa: N801 (used as `with dnnamo.step():`, and a class is the fastest context manager)
    """Mark one step of a model: `with dnnamo.step(): ...`.

    The block must end when the step's work has ended: synchronise the device inside it. Outside of a Dnnamo job the
    mark does nothing.
    """

    __slots__ = ("_start",)

    def __enter__(self) -> None:
        self._start = perf_counter_ns()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        duration = perf_counter_ns() - self._start
        if kind is None:
            for clock in _clocks:
                clock.duration_ns.append(duration)
                clock.on_step()


_loss_listeners: list[Callable[[float], None]] = []


def report_loss(loss: float) -> None:
    """Tell the loss of the step that has just ended to those who watch the job; call it outside of the step.

    Only a model that marks its steps needs it: of the others Dnnamo sees each loss. Outside of a job it does nothing.
    """
    for listener in _loss_listeners:
        listener(loss)


@contextmanager
def listen_for_losses(listener: Callable[[float], None]) -> Iterator[None]:
    """Have a function called with each loss that is reported meanwhile; the runner's side of `report_loss`."""
    _loss_listeners.append(listener)
    try:
        yield
    finally:
        _loss_listeners.remove(listener)


class Capturing:
    """Asks the model that profiles meanwhile for what the job wants; the runner's side of `requested_capture`.

    Args:
        options: What to record beside the operations.

    Attributes:
        limits: What the model said its profile lacks, one sentence each.
    """

    def __init__(self, options: Iterable[Capture] = ()) -> None:
        self.options = frozenset(options)
        self.limits: list[str] = []

    def __enter__(self) -> "Capturing":
        _capturings.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _capturings.remove(self)


_capturings: list[Capturing] = []


def requested_capture() -> frozenset[Capture]:
    """Return what the job asks a profile to record beside the operations, for `profile_*` to act on.

    `shapes` are those of each operation's inputs, `memory` is allocations and releases, `stacks` are Python's; `flops`
    asks nothing of `profile_*`. Outside of a job that profiles the set is empty.
    """
    return _capturings[-1].options if _capturings else frozenset()


def report_limit(sentence: str) -> None:
    """Tell, as a sentence, what the profile that is being recorded lacks; outside of a job it does nothing."""
    for capturing in _capturings:
        if sentence not in capturing.limits:
            capturing.limits.append(sentence)
