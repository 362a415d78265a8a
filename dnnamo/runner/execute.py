"""Carry out one request: load the model, call its method, and put what it returned into an `Outcome` and files."""

import os
import shutil
import statistics
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from dnnamo.arrays import Array, write_arrays
from dnnamo.errors import DnnamoError, ModelError, Unsupported, UsageError, WeightsError
from dnnamo.frameworks import in_use, read_graph, render_graph
from dnnamo.loaders import find_loader
from dnnamo.model import Capturing, capabilities, listen_for_losses, offer
from dnnamo.records import (
    EVENTS_NAME,
    WEIGHTS_NAME,
    Artifact,
    Cause,
    Evidence,
    JobSpec,
    Outcome,
    Overhead,
    Predictions,
    Profile,
    Result,
    Steps,
)
from dnnamo.runner import measure
from dnnamo.runner.arrays import as_array, weights_in, weights_of
from dnnamo.runner.code import entered, readable
from dnnamo.runner.environment import describe
from dnnamo.runner.evidence import Watch
from dnnamo.runner.intermediates import take_intermediates
from dnnamo.runner.preload import preload_profiles
from dnnamo.runner.progress import Counter
from dnnamo.runner.seeds import seed_all, seeding
from dnnamo.runner.wire import MAX_FRAME_BYTES, Request
from dnnamo.sizes import as_size

if TYPE_CHECKING:
    from dnnamo.graphs import Graph
    from dnnamo.intermediates.records import Intermediate
    from dnnamo.profiles.flops import CountedOperation
    from dnnamo.profiles.recording import Recording

__all__ = ["execute"]

MAX_GRAPH_BYTES = MAX_FRAME_BYTES // 2
"""Graphs are stored up to this size as JSON: the rest of what a runner reports is far smaller."""

PREDICTION_BYTES = 2**20
"""Predictions are kept up to this size in total, first step first."""

_MESSAGE_CHARACTERS = 2000
_NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"
_DNNAMO = Path(__file__).parents[1]

_MEDIA_TYPES = {
    ".gz": "application/gzip",
    ".json": "application/json",
    ".parquet": "application/vnd.apache.parquet",
    ".pb": "application/x-protobuf",
    ".pt2": "application/zip",
    ".py": "text/x-python",
    ".safetensors": "application/vnd.safetensors",
}


class _Returned:
    """Collects what a method gave: result, profile, graph, intermediates, and files in the scratch folder."""

    def __init__(self, scratch: Path, counter: Counter, gpu: str | None) -> None:
        self.scratch = scratch
        self.counter = counter
        self.gpu = gpu
        self.result: Result | None = None
        self.evidence: Evidence | None = None
        self.profile: Profile | None = None
        self.graph: Graph | None = None
        self.intermediates: list[Intermediate] = []
        self.artifacts: list[Artifact] = []

    def keep(self, name: str, content: bytes | Path) -> None:
        if isinstance(content, Path):
            shutil.copyfile(content, self.scratch / name)
        else:
            (self.scratch / name).write_bytes(content)
        self.add(name)

    def keep_arrays(self, name: str, arrays: Mapping[str, Array]) -> None:
        write_arrays(self.scratch / name, arrays)
        self.add(name)

    def add(self, name: str) -> None:
        media_type = _MEDIA_TYPES.get(Path(name).suffix, "application/octet-stream")
        self.artifacts.append(Artifact(name=name, media_type=media_type))


def execute(request: Request, counter: Counter | None = None) -> Outcome:
    """Carry out a request in this process.

    Args:
        request: What to do.
        counter: Told each step and loss.

    Returns:
        The outcome, `succeeded` or `failed`. An exception of the user's code ends here: its traceback goes to standard
        error, which is the job's log, and its message into the outcome.
    """
    returned = _Returned(request.folder, counter or Counter(), request.gpu)
    spec = request.spec
    doing, model = "loader", None
    try:
        model = _load(request)
        _set_threads(spec)
        _check_device(spec)
        _check_method(model, spec)
        doing = "configure"
        _configure(model, spec)
        if request.weights is not None:
            doing = "set_weights"
            model.set_weights(weights_in(request.weights))
        doing = spec.method
        with listen_for_losses(returned.counter.keep_loss):
            _METHODS[spec.method](model, spec, returned)
    except BaseException as error:  # user code may raise SystemExit or worse; all of it is an outcome
        _log_traceback(error, request)
        said = readable(_message(error, doing, spec, made_of=getattr(model, "made_of", "")), request)
        message = said.encode(errors="replace").decode()
        return Outcome(state="failed", cause=_cause(error, spec), message=message, environment=describe())
    return Outcome(
        state="succeeded",
        result=msgspec.structs.replace(returned.result or Result(), capabilities=capabilities(model)),
        profile=returned.profile,
        graph=returned.graph,
        intermediates=returned.intermediates,
        environment=describe(),
        artifacts=returned.artifacts,
    )


def _load(request: Request) -> Any:
    spec = request.spec
    with seeding(spec.seed), entered(request) as model:
        make = find_loader(model.reference, model.params, roots=request.roots)
        if spec.seed is not None:  # again, as imports may draw numbers, and those of a forked process were done before
            seed_all(spec.seed)
        return make()


def _configure(model: Any, spec: JobSpec) -> None:
    """Have the model compute as the job asks, if it does."""
    asked = spec.setup.asked
    if not asked:
        return
    options = ", ".join(f"{name}={value}" for name, value in asked.items())
    configure = getattr(model, "configure", None)
    if configure is None:
        raise Unsupported(
            f"The job asks for {options}, and the model {spec.model} has no method configure that could set it up so. "
            "Leave that out, or have the model's loader see to it."
        )
    try:
        configure(spec.setup)
    except Unsupported as error:
        raise Unsupported(f"The model {spec.model} cannot be set up with {options}: {error}") from error


def _set_threads(spec: JobSpec) -> None:
    """Have the frameworks compute with as many threads as the job asks for, if it does."""
    if spec.threads is not None:
        for framework in in_use():
            framework.set_threads(spec.threads)


def _check_device(spec: JobSpec) -> None:
    """Refuse a device that no framework in use can compute on; a model without any of them computes as it likes."""
    refusals = []
    for framework in in_use():
        try:
            framework.check_device(spec.device)
        except Unsupported as refusal:
            refusals.append(refusal)
        else:
            return
    if refusals:
        raise refusals[0]


def _check_method(model: Any, spec: JobSpec) -> None:
    able = capabilities(model)
    for method in [spec.method] + ["set_weights"] * (spec.weights is not None):
        if method not in able:
            raise Unsupported(f"The model {spec.model} does not implement {method}. {offer(model, method)}")


def _cause(error: BaseException, spec: JobSpec) -> Cause:
    # The frameworks' names for what went wrong; naming the class avoids importing any of them.
    names = {kind.__name__ for kind in type(error).__mro__}
    # An operation that is not there for a number type, or that cannot be compiled, is missing for what the job asks.
    if isinstance(error, Unsupported) or (spec.setup.asked and names & {"NotImplementedError", "UnimplementedError"}):
        return "unsupported"
    if "OutOfMemoryError" in names or ("ResourceExhaustedError" in names and "/device:GPU" in str(error)):
        return "oom_device"
    # PyTorch raises a plain RuntimeError where the machine's memory ends (c10/core/impl/alloc_cpu.cpp).
    if isinstance(error, MemoryError) or "ResourceExhaustedError" in names or _NO_MEMORY in _text(error):
        return "oom_host"
    return "user_error"


def _log_traceback(error: BaseException, request: Request | None = None) -> None:
    """Write a traceback to the log, whatever the user's code has done to `sys.stderr`."""
    text = "".join(traceback.format_exception(error))
    with suppress(OSError):  # closed too: then there is no log
        os.write(2, (readable(text, request) if request else text).encode(errors="replace"))


def _message(error: BaseException, doing: str, spec: JobSpec, *, made_of: str) -> str:
    if isinstance(error, WeightsError):
        return f"{error} A get_weights job of {spec.model} keeps the names and shapes that it has."
    if isinstance(error, DnnamoError):
        return str(error)
    told = f"{made_of} " if made_of else ""
    return (
        f"The {doing} of {spec.model} raised {_text(error)}{_at(error)}. {told}The whole traceback is in the job's log."
    )


def _text(error: BaseException) -> str:
    """Return type and message of an exception as one paragraph."""
    try:
        message = " ".join(str(error).split())
    except Exception:  # an exception of the user's that cannot say what it is
        message = ""
    name = type(error).__name__
    return f"{name}: {message[:_MESSAGE_CHARACTERS]}" if message else name


def _at(error: BaseException) -> str:
    """Return where it was raised: the innermost line that is neither Dnnamo's nor a library's, if there is one."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    own = [frame for frame in frames if not frame.filename.startswith((sys.prefix, sys.base_prefix, str(_DNNAMO)))]
    return f" at {own[-1].filename}:{own[-1].lineno}" if own else ""


def _run_inference(model: Any, spec: JobSpec, returned: _Returned) -> None:
    warmup = measure.warm_up(model, spec.method, count=spec.fixed_warmup, on_step=returned.counter.warmed_up)
    predictions, durations = _measure(measure.run, model, spec, returned)
    steps = Steps(count=spec.n_steps, duration_ns=durations, warmup=warmup)
    kept = _keep_predictions(predictions, returned)
    returned.result = Result(steps=steps, predictions=kept, evidence=returned.evidence)


Measured = TypeVar("Measured")


def _measure(how: Callable[..., Measured], model: Any, spec: JobSpec, returned: _Returned) -> Measured:
    """Do the counted steps while the machine is watched; do them again if it was disturbed and the job asks for that.

    A model that is trained goes on from where it is, as after the warm-up.
    """
    for repeated in range(spec.repeats + 1):
        returned.counter.recount()
        with Watch(returned.gpu) as watch:
            measured = how(model, spec.method, n_steps=spec.n_steps, on_step=returned.counter.counted)
        returned.evidence = msgspec.structs.replace(watch.evidence, repeated=repeated)
        if returned.evidence.verdict == "clean":
            break
    return measured


def _keep_predictions(predictions: list[Any], returned: _Returned) -> Predictions | None:
    """Keep the predictions that are arrays, up to `PREDICTION_BYTES`; None if they are something else."""
    arrays = [value for value in map(as_array, predictions) if value is not None]
    if not arrays or len(arrays) < len(predictions):
        return None
    kept: dict[str, Array] = {}
    room = PREDICTION_BYTES
    for number, array in enumerate(arrays):
        room -= array.nbytes
        if room < 0:
            break
        kept[str(number)] = array
    if kept:
        returned.keep_arrays("predictions.safetensors", kept)
    return Predictions(kept=len(kept), total=len(arrays), total_bytes=sum(array.nbytes for array in arrays))


def _run_training(model: Any, spec: JobSpec, returned: _Returned) -> None:
    warmup = measure.warm_up(model, spec.method, count=spec.fixed_warmup, on_step=returned.counter.warmed_up)
    values, durations = _measure(measure.run, model, spec, returned)
    losses, scores = measure.losses_and_scores(values, phase="training")
    steps = Steps(count=spec.n_steps, duration_ns=durations, warmup=warmup)
    returned.result = Result(steps=steps, loss=losses, score=scores, evidence=returned.evidence)


def _profile(model: Any, spec: JobSpec, returned: _Returned) -> None:
    preload_profiles()
    warmup = measure.warm_up(model, spec.method, count=spec.fixed_warmup, on_step=returned.counter.warmed_up)
    with Capturing(spec.capture) as capturing:
        profiled = _measure(measure.paired_profile if spec.paired else measure.profile, model, spec, returned)
        counted = _count_flops(model, spec, capturing)
    unprofiled = [*profiled.before_ns, *profiled.after_ns]
    steps = Steps(count=len(unprofiled) or spec.n_steps, duration_ns=unprofiled, warmup=warmup)
    returned.result = Result(steps=steps, evidence=returned.evidence)
    recording = _with_limits(_read(profiled.native, spec), spec, capturing)
    profiled = replace(profiled, native=None)  # the profiler's own memory goes before more is taken
    _keep_profile(recording, profiled, counted, returned)


def _read(native: object, spec: JobSpec) -> "Recording":
    from dnnamo.profiles import readers

    try:
        return readers.read(native)
    except UsageError as error:  # of the model's code, not of whoever asked for the job
        raise ModelError(f"What {spec.method} of {spec.model} returned is no profile: {error}") from error


def _keep_profile(
    recording: "Recording", profiled: measure.Profiled, counted: "list[CountedOperation]", returned: _Returned
) -> None:
    from dnnamo.profiles import build

    returned.profile, events = build.stored_form(
        recording, overhead=_overhead(recording, profiled), counted=counted, evidence=returned.evidence
    )
    returned.keep(EVENTS_NAME, events)
    for name, content in recording.native.items():
        returned.keep(name, content)


def _overhead(recording: "Recording", profiled: measure.Profiled) -> Overhead | None:
    """Compare profiled and unprofiled steps, by Dnnamo's own clock where it has both."""
    from dnnamo.profiles.links import steps_of

    steps = steps_of(recording.events)
    durations = profiled.duration_ns or (steps.end_ns - steps.start_ns).tolist()
    if not (durations and profiled.before_ns):
        return None
    return Overhead(before_ns=profiled.before_ns, after_ns=profiled.after_ns, profiled_ns=statistics.median(durations))


def _count_flops(model: Any, spec: JobSpec, capturing: Capturing) -> "list[CountedOperation]":
    """Have the model count in one more step, after all that was measured, if the job asks for that.

    What goes wrong there leaves the profile as it is, and is said in it.
    """
    if "flops" not in spec.capture:
        return []
    count = getattr(model, "count_flops", None)
    if count is None:
        capturing.limits.append("This model counts no floating-point operations: it has no count_flops.")
        return []
    try:
        return _counted(count(spec.method.removeprefix("profile_")))
    except Exception as error:  # of the user's code, or of a network that cannot be counted
        _log_traceback(error)
        capturing.limits.append(f"The model's floating-point operations could not be counted: {_text(error)}.")
        return []


def _counted(returned: Any) -> "list[CountedOperation]":
    from dnnamo.profiles.flops import CountedOperation

    if not (isinstance(returned, list) and all(isinstance(item, CountedOperation) for item in returned)):
        raise ModelError("count_flops must return a list of dnnamo.profiles.flops.CountedOperation")
    return returned


def _with_limits(recording: "Recording", spec: JobSpec, capturing: Capturing) -> "Recording":
    """Add what the profile lacks of what the job asked for to what its source says."""
    events = recording.events
    found = {
        "shapes": (events.shapes.codes >= 0).any(),
        "memory": events.name.equal("[memory]").any(),
        "stacks": events.category.equal("python_function").any(),
    }
    limits = [*recording.header.get("limits", []), *capturing.limits]
    limits += [
        f"The job asked for {_CAPTURES[option]}, which the model's profiler did not record."
        for option in spec.capture
        if not found.get(option, True)
    ]
    return replace(recording, header=recording.header | {"limits": limits}) if limits else recording


_CAPTURES = {"shapes": "input shapes", "memory": "allocations and releases", "stacks": "Python's calls"}


def _graph(model: Any, spec: JobSpec, returned: _Returned) -> None:
    native = getattr(model, spec.method)()
    returned.keep(*render_graph(native))
    returned.graph = read_graph(native)
    size = 0 if returned.graph is None else len(returned.graph.to_json())
    if size > MAX_GRAPH_BYTES:
        raise ModelError(
            f"The graph of {spec.model} is {as_size(size)} of names, shapes and edges, more than the "
            f"{as_size(MAX_GRAPH_BYTES)} that are stored. Take the graph of a part of the model."
        )


def _get_weights(model: Any, spec: JobSpec, returned: _Returned) -> None:
    returned.keep_arrays(WEIGHTS_NAME, weights_of(model, spec.keys))


def _intermediates(model: Any, spec: JobSpec, returned: _Returned) -> None:
    taken = take_intermediates(model, spec, returned.scratch)
    returned.intermediates = list(taken.described.values())
    for name in taken.files:
        returned.add(name)


def _set_weights(model: Any, spec: JobSpec, returned: _Returned) -> None:
    """The weights are set by now, as for every job that has some."""


_METHODS: dict[str, Callable[[Any, JobSpec, _Returned], None]] = {
    "get_inference_graph": _graph,
    "get_training_graph": _graph,
    "get_weights": _get_weights,
    "set_weights": _set_weights,
    "run_inference": _run_inference,
    "run_training": _run_training,
    "profile_inference": _profile,
    "profile_training": _profile,
    "get_intermediates": _intermediates,
}
