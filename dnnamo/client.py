"""Submit, run, profile, find and cancel jobs: the door where core, store and workers meet.

Jobs live in the database that the settings name. With a broker configured they are run by workers; without one, on a
thread of the calling process.
"""

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import msgspec

from dnnamo.errors import UsageError
from dnnamo.records import (
    EVENTS_NAME,
    Artifact,
    Capture,
    CompileMode,
    Device,
    JobSpec,
    Method,
    Outcome,
    Precision,
    Setup,
    State,
    Task,
)
from dnnamo.sizes import parse_size
from dnnamo.stored import JobHandle, StoredProfile

if TYPE_CHECKING:
    from dnnamo.settings import Settings
    from dnnamo_storage import Cancellation
    from dnnamo_workers.embedded import Embedded

__all__ = [
    "JobHandle",
    "Session",
    "StoredProfile",
    "cancel",
    "graph",
    "import_trace",
    "job",
    "jobs",
    "method_of",
    "profile",
    "run",
    "session",
    "submit",
]

Mode = Literal["inference", "training"]
Size = int | str
"""Bytes, or a number with its unit: `2GiB`, `500 MB`."""


class _Backend(Protocol):
    """Where the jobs of a session run: `Embedded` or `Hinted`."""

    def check(self) -> None: ...
    def launch(self, job_id: int, device: Device) -> None: ...
    def launch_many(self, job_ids: Sequence[int], devices: Sequence[Device]) -> None: ...


class Session:
    """One database, and what runs the jobs that are submitted to it. Thread-safe.

    Args:
        settings: Where the database is, which broker there is (without one, jobs run in this process), and what jobs
            may take that run here.

    Raises:
        InfrastructureError: If the database does not answer or holds a schema of another version.
    """

    def __init__(self, settings: "Settings") -> None:
        from dnnamo_storage import Store

        self.is_embedded = settings.broker is None
        self.store: Store = Store.open(settings.database)
        self._settings = settings
        if self.is_embedded:
            self.store.reap()  # no worker does it here

    @cached_property
    def backend(self) -> _Backend:
        """What runs the jobs; made when the first is submitted, as a look at the database does without."""
        return self._backend(self._settings)

    def _backend(self, settings: "Settings") -> _Backend:
        if settings.broker is None:
            from dnnamo_workers.embedded import Embedded

            return Embedded(self.store, settings)
        from dnnamo_workers.hinted import Hinted

        return Hinted(self.store, settings.broker)

    def attend(self, job_id: int, device: Device) -> None:
        """Do for a job that somebody waits for what workers do where there are some."""
        if self.is_embedded:
            cast("Embedded", self.backend).attend(job_id, device)

    def with_code(self, spec: JobSpec) -> JobSpec:
        """Return a spec that brings its model's code along, which is stored now; one that needs none as it is.

        Jobs of one model may share what this returns for one of them.

        Raises:
            UsageError: If the model's files are too many or too large, or cannot be read.
        """
        if self.is_embedded:  # it runs where the files are
            return spec
        from dnnamo.bundles.sources import bundle
        from dnnamo.loaders import references

        settings = self._settings
        packed = bundle(
            references(spec.model, spec.params), limit_bytes=settings.bundle_limit, private=settings.own_files
        )
        if packed is None:
            return spec
        self.store.put_artifact(packed.content)
        return msgspec.structs.replace(spec, bundle=packed.bundle)

    def submit(self, spec: JobSpec, *, key: str | None = None) -> JobHandle:
        """Store a job and have it run."""
        self.backend.check()
        job_id = self.store.submit(spec, key=key)
        self.backend.launch(job_id, spec.device)
        return JobHandle(job_id, self)

    def submit_many(self, specs: Sequence[JobSpec], *, keys: Sequence[str | None] | None = None) -> list[JobHandle]:
        """Store jobs in one transaction, all of them or none, and have them run.

        Args:
            specs: What the jobs do.
            keys: The key of each, as for `submit`; None gives none of them one.
        """
        self.backend.check()
        job_ids = self.store.submit_many(specs, keys=keys)
        self.backend.launch_many(job_ids, [spec.device for spec in specs])
        return [JobHandle(job_id, self) for job_id in job_ids]


_sessions: dict[tuple[Any, ...], Session] = {}


def session() -> Session:
    """Return the session of the settings as they are now; the same object for the same settings.

    Raises:
        UsageError: If a setting cannot be used.
        InfrastructureError: If the database cannot be used.
    """
    from dnnamo.settings import load_settings

    settings = load_settings()
    values = tuple(settings.model_dump().values())
    if values not in _sessions:
        _sessions[values] = Session(settings)
    return _sessions[values]


def submit(
    model: str | PathLike[str],
    method: Method,
    *,
    n_steps: int = 10,
    device: Device = "cpu",
    params: Mapping[str, Any] | None = None,
    warmup: int | None = None,
    threads: int | None = None,
    priority: int = 0,
    timeout_s: float | None = None,
    memory: Size | None = None,
    output_limit: Size | None = None,
    scratch: Size | None = None,
    weights: str | PathLike[str] | None = None,
    pickled: bool = False,
    keys: Sequence[str] = (),
    values: bool = False,
    budget: Size | None = None,
    python: str | PathLike[str] | None = None,
    repeats: int = 0,
    capture: Sequence[Capture] = (),
    paired: bool = True,
    precision: Precision | None = None,
    compile: CompileMode | None = None,  # noqa: A002
    jit_compile: bool = False,
    channels_last: bool = False,
    accumulate: int = 1,
    seed: int | None = None,
    tags: Sequence[str] = (),
    bundle: bool = True,
    key: str | None = None,
) -> JobHandle:
    """Submit a job and return at once.

    Args:
        model: Model reference: a file, a module, or `scheme:name`.
        method: Method of the wrapped-model interface to call.
        n_steps: Steps to run or profile.
        device: `cpu` or `gpu`; also the queue.
        params: Keyword arguments of the model's loader, JSON values.
        warmup: Steps before the counted ones; by default until the step time is steady.
        threads: Compute threads of the framework; by default one for each core that the job has.
        priority: Of two queued jobs the one with the greater number starts first.
        timeout_s: Wall time that an attempt may take, in seconds.
        memory: Memory that its processes may have together, in bytes or with a unit (`2GiB`).
        output_limit: How much it may write to standard output and error, likewise.
        scratch: How large its scratch folder may become, likewise. Without these four the worker's limits hold.
        weights: Safetensors file; its weights are set before the method is called.
        pickled: Whether that file may be a pickle too, which is read here and runs whatever code it holds.
        keys: Names or patterns of the weights or intermediates to get; all without any.
        values: Whether intermediates are kept in full, and not only what their numbers come to.
        budget: What they may have together then, in bytes or with a unit; by default 1 GiB.
        python: Path of another interpreter to run it with, one that the worker allows.
        repeats: How often a measurement that was disturbed is made again, at most.
        capture: What a profile records besides: `shapes`, `memory`, `stacks`, `flops`.
        paired: Whether a profile also times unprofiled steps, before and after.
        precision: Number type of weights, inputs and computation (`float32`, `bfloat16`, `float16`), or of the
            operations that bear it (`mixed_bfloat16`, `mixed_float16`); by default as the model is.
        compile: Mode of `torch.compile`; by default not compiled.
        jit_compile: Whether TensorFlow compiles the step with XLA.
        channels_last: Whether images are laid out with their channels innermost.
        accumulate: Minibatches of a training step, which ends with one update by the mean of their gradients.
        seed: What random numbers begin with, for the same losses again; by default left to chance.
        tags: Words to find the job by.
        bundle: Whether the model's own folder, or package, goes with the job where a broker is configured, so that a
            worker needs not have it. Without it the worker must have it at the same path.
        key: Makes a submit that is repeated with the same key the same job.

    Raises:
        UsageError: If an argument is out of its range or names something that does not exist.
        InfrastructureError: If database or broker cannot be used; then nothing was stored.
    """
    from dnnamo.loaders import locate, locate_data
    from dnnamo.weight_files import read_weights

    must_exist = bundle or session().is_embedded
    content = None if weights is None else read_weights(Path(weights), pickled=pickled)
    spec = _spec(
        model=locate(fspath(model), must_exist=must_exist),
        method=method,
        params=locate_data(fspath(model), params or {}, must_exist=must_exist),
        n_steps=n_steps,
        warmup=warmup,
        device=device,
        threads=threads,
        priority=priority,
        timeout_s=timeout_s,
        memory_bytes=_size("memory", memory),
        output_bytes=_size("output limit", output_limit),
        scratch_bytes=_size("scratch", scratch),
        python=None if python is None else _interpreter(fspath(python)),
        repeats=repeats,
        keys=_listed("keys", keys),
        values=values,
        budget_bytes=_size("budget", budget),
        capture=_words("capture", capture),
        paired=paired,
        setup=_setup(precision, compile, jit_compile=jit_compile, channels_last=channels_last, accumulate=accumulate),
        seed=seed,
        tags=_words("tags", tags),
        weights=None if content is None else sha256(content).hexdigest(),
    )
    here = session()
    if content is not None:
        here.store.put_artifact(content)
    return here.submit(here.with_code(spec) if bundle else spec, key=key)


def _size(name: str, given: Size | None) -> int | None:
    """Return a size in bytes."""
    if not isinstance(given, str):
        return given
    try:
        return parse_size(given)
    except ValueError as error:
        raise UsageError(f"{name}: {error}.") from None


def _interpreter(path: str) -> str:
    if "/" not in path:
        raise UsageError(f"python is {path!r}; give the path of an interpreter, such as /opt/venv/bin/python.")
    # Links stay as they are: the one in a virtual environment is what makes an interpreter use it.
    return os.path.abspath(Path(path).expanduser())  # noqa: PTH100 (Path.absolute keeps the ..)


def _words(name: str, given: Sequence[str]) -> list[str]:
    """Return words as they are stored: sorted, each once."""
    return sorted(set(_listed(name, given)))


def _listed(name: str, given: Sequence[str]) -> list[str]:
    """Return texts as a list; a text alone is a sequence of texts too, and never meant so."""
    if isinstance(given, str):
        raise UsageError(f"{name} is {given!r}; give a list of words: [{given!r}].")
    return list(given)


def _spec(**fields: Any) -> JobSpec:
    """Return the spec with these fields, their types checked."""
    try:
        return JobSpec.from_dict(fields)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, UsageError):
            raise error.__cause__ from None
        raise UsageError(f"A job cannot be made of that: {error}.") from error


def _setup(precision: Precision | None, mode: CompileMode | None, **others: bool | int) -> dict[str, Any]:
    """Return the fields of a `Setup`; those with few values are checked here, so that an error says what there is."""
    Setup(precision=precision, compile=mode)
    return {"precision": precision, "compile": mode, **others}


def run(model: str | PathLike[str], *, mode: Mode = "inference", **options: Any) -> JobHandle:
    """Submit `run_inference` or `run_training`, wait, and return the job; options as for `submit`."""
    return submit(model, method_of("run", mode), **options).wait()


def profile(model: str | PathLike[str], *, mode: Mode = "inference", **options: Any) -> JobHandle:
    """Submit `profile_inference` or `profile_training`, wait, and return the job; options as for `submit`."""
    return submit(model, method_of("profile", mode), **options).wait()


def import_trace(path: str | PathLike[str], *, tags: Sequence[str] = (), key: str | None = None) -> JobHandle:
    """Store the profile in a file from elsewhere, as a job that has succeeded.

    Args:
        path: A trace file of any kind that `dnnamo.profiles.readers` knows, or a TensorFlow log folder.
        tags: Words to find the job by.
        key: Makes an import that is repeated with the same key the same job.

    Raises:
        UsageError: If there is no such file, or no profile in it.
        InfrastructureError: If the database cannot be used.
    """
    from dnnamo.profiles.collector import paused_collector

    place = os.path.abspath(path)  # noqa: PTH100 (Path.absolute keeps the ..)
    if not os.path.exists(place):  # noqa: PTH110
        raise UsageError(f"There is no file {place}.")
    with paused_collector():
        return _imported(place, _words("tags", tags), key)


def _imported(place: str, words: list[str], key: str | None) -> JobHandle:
    from dnnamo.profiles.build import stored_form
    from dnnamo.profiles.readers import read

    recording = read(place)
    profile, events = stored_form(recording)
    files: dict[str, bytes | Path] = {EVENTS_NAME: events, **recording.native}
    spec = _spec(model=place, method="import_trace", n_steps=max(1, len(profile.steps)), tags=words)
    artifacts = [Artifact(name=name, media_type=_media_type(name)) for name in files]
    outcome = Outcome(state="succeeded", profile=profile, artifacts=artifacts)
    here = session()
    return JobHandle(here.store.import_profile(spec, outcome, files=files, key=key), here)


def _media_type(name: str) -> str:
    return "application/vnd.apache.parquet" if name.endswith(".parquet") else "application/octet-stream"


def graph(model: str | PathLike[str], *, mode: Mode = "inference", **options: Any) -> JobHandle:
    """Submit `get_inference_graph` or `get_training_graph`, wait, and return the job; options as for `submit`."""
    return submit(model, method_of("graph", mode), **options).wait()


def method_of(verb: Literal["run", "profile", "graph"], mode: Mode) -> Method:
    """Return the interface's method for a verb and a mode.

    Raises:
        UsageError: If the mode is neither `inference` nor `training`.
    """
    if mode not in ("inference", "training"):
        raise UsageError(f"mode is {mode!r}; it must be inference or training.")
    return cast("Method", f"get_{mode}_graph" if verb == "graph" else f"{verb}_{mode}")


def job(job_id: int) -> JobHandle:
    """Return a handle on a stored job.

    Raises:
        JobNotFound: If the database has no such job.
    """
    handle = JobHandle(job_id, session())
    handle.record  # noqa: B018 (looks the job up)
    return handle


def jobs(
    *,
    state: State | None = None,
    model: str | None = None,
    method: Task | None = None,
    tags: Sequence[str] = (),
    limit: int = 100,
) -> list[JobHandle]:
    """Return handles on stored jobs, newest first, at most `limit`; those with all of the tags."""
    here = session()
    found = here.store.jobs(state=state, model=model, method=method, tags=_words("tags", tags), limit=limit)
    return [JobHandle(record.id, here) for record in found]


def cancel(
    *,
    state: State | None = None,
    model: str | None = None,
    method: Task | None = None,
    tags: Sequence[str] = (),
    everything: bool = False,
) -> "Cancellation":
    """Cancel all jobs that match: queued ones at once, running ones within seconds. One job has its own `cancel`.

    Args:
        state: Only jobs in this state, `queued` or `running`.
        model: Only jobs of this model reference, as it is stored.
        method: Only jobs that call this method.
        tags: Only jobs with all of these tags.
        everything: Needed in order to cancel without any of these.

    Returns:
        How many have ended by that, and how many were told to stop.

    Raises:
        UsageError: If nothing says which jobs, or both a filter and `everything` do.
    """
    is_filtered = any(value is not None for value in (state, model, method)) or bool(tags)
    if is_filtered == everything:
        raise UsageError("Say which jobs to cancel: by state, model, method or tags, or else everything.")
    return session().store.cancel_matching(state=state, model=model, method=method, tags=_words("tags", tags))
