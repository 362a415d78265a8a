"""Submit, run, profile, find and cancel jobs: the door where core, store and workers meet.

Jobs live in the database that the settings name. With a broker configured they are run by workers; without one, on a
thread of the calling process.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from os import PathLike, fspath
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import msgspec

from dnnamo.errors import JobFailed, UsageError
from dnnamo.records import (
    LOG_NAME,
    Artifact,
    Cause,
    Device,
    Environment,
    Job,
    JobSpec,
    Method,
    Profile,
    Progress,
    Result,
    State,
)
from dnnamo.sizes import parse_size

if TYPE_CHECKING:
    from dnnamo.settings import Settings
    from dnnamo_storage import Cancellation
    from dnnamo_workers.embedded import Embedded

__all__ = ["JobHandle", "Session", "cancel", "job", "jobs", "method_of", "profile", "run", "session", "submit"]

Mode = Literal["inference", "training"]
Size = int | str
"""Bytes, or a number with its unit: `2GiB`, `500 MB`."""

_FIRST_LOOK_S = 0.01
_SLOWEST_LOOK_S = 0.25


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

    def submit(self, spec: JobSpec, *, key: str | None = None) -> "JobHandle":
        """Store a job and have it run."""
        self.backend.check()
        job_id = self.store.submit(spec, key=key)
        self.backend.launch(job_id, spec.device)
        return JobHandle(job_id, self)

    def submit_many(self, specs: Sequence[JobSpec], *, keys: Sequence[str | None] | None = None) -> list["JobHandle"]:
        """Store jobs in one transaction, all of them or none, and have them run.

        Args:
            specs: What the jobs do.
            keys: The key of each, as for `submit`; None gives none of them one.
        """
        self.backend.check()
        job_ids = self.store.submit_many(specs, keys=keys)
        self.backend.launch_many(job_ids, [spec.device for spec in specs])
        return [JobHandle(job_id, self) for job_id in job_ids]


class JobHandle:
    """A stored job, read afresh at each look. Thread-safe."""

    def __init__(self, job_id: int, owner: Session) -> None:
        self.id = job_id
        self._session = owner
        self._over: Job | None = None

    def __repr__(self) -> str:
        return f"<job {self.id}: {self.state}>"

    @property
    def record(self) -> Job:
        """The job as it is stored now.

        Raises:
            JobNotFound: If the database has no such job.
        """
        if self._over is not None:
            return self._over
        found = self._session.store.job(self.id)
        if found.is_over:
            self._over = found
        return found

    @property
    def spec(self) -> JobSpec:
        """What the job does."""
        return self.record.spec

    @property
    def state(self) -> State:
        """`queued`, `running`, `succeeded`, `failed` or `cancelled`."""
        return self.record.state

    @property
    def cause(self) -> Cause | None:
        """Why the job did not succeed, None while it may."""
        return self.record.cause

    @property
    def message(self) -> str | None:
        """What went wrong, in words."""
        return self.record.message

    @property
    def progress(self) -> Progress | None:
        """How far the attempt that runs now has got; None while none runs, or has said nothing yet."""
        return self.record.progress

    def wait(self, timeout: float | None = None, *, on_look: Callable[[Job], None] | None = None) -> "JobHandle":
        """Wait until the job is over, however it ends, and return this handle.

        Args:
            timeout: Seconds; None waits for ever.
            on_look: Called with the job as it is at each look, several times a second, while it is not over.

        Raises:
            TimeoutError: If the job is not over by then. It goes on.
        """
        deadline = float("inf") if timeout is None else monotonic() + timeout
        pause = _FIRST_LOOK_S
        while not (record := self.record).is_over:
            if monotonic() >= deadline:
                raise TimeoutError(f"Job {self.id} is still {record.state} after {timeout:g} s; it goes on.")
            if on_look is not None:
                on_look(record)
            self._session.attend(self.id, record.spec.device)
            sleep(max(0.0, min(pause, deadline - monotonic())))
            pause = min(pause * 1.5, _SLOWEST_LOOK_S)
        return self

    @property
    def stored_result(self) -> Result:
        """Step times, losses and scores as far as there are any now; empty for a job that did not succeed."""
        return self._session.store.result(self.id) or Result()

    @property
    def result(self) -> Result:
        """Step times, losses and scores; waits for the job first.

        Raises:
            JobFailed: If the job failed or was cancelled.
        """
        self._succeeded()
        return self.stored_result

    @property
    def profile(self) -> Profile:
        """The profile that the job took; waits for the job first.

        Raises:
            JobFailed: If the job failed or was cancelled.
            UsageError: If its method takes no profile.
        """
        method = self.spec.method
        found = self._session.store.profile(self._succeeded()) if method.startswith("profile_") else None
        if found is None:
            raise UsageError(
                f"Job {self.id} has no profile: its method is {method}. Profiles come from profile_inference and "
                "profile_training, that is from `dnnamo profile`."
            )
        return found

    def _succeeded(self) -> int:
        record = self.wait().record
        if record.state != "succeeded":
            raise JobFailed(self.id, state=record.state, cause=record.cause, message=record.message)
        return self.id

    @property
    def environment(self) -> Environment | None:
        """What the last ended attempt ran in, None if it did not get far enough to say."""
        digests = [attempt.environment for attempt in self.record.attempts if attempt.environment]
        return self._session.store.environment(digests[-1]) if digests else None

    @property
    def artifacts(self) -> list[Artifact]:
        """Files that the job left: log, native profile, graph, weights, predictions."""
        return self._session.store.artifacts(self.id)

    def read(self, name: str) -> bytes:
        """Return the content of an artifact.

        Raises:
            UsageError: If the job has none of this name.
        """
        digests = {artifact.name: artifact.digest for artifact in self.artifacts}
        if name not in digests:
            have = ", ".join(digests) or "none yet"
            raise UsageError(f"Job {self.id} has no artifact {name!r}. It has: {have}.")
        return self._session.store.read_artifact(digests[name])

    @property
    def log(self) -> str:
        """What the model printed, standard output and error together; empty until an attempt has ended."""
        has_log = any(artifact.name == LOG_NAME for artifact in self.artifacts)
        return self.read(LOG_NAME).decode(errors="replace") if has_log else ""

    def cancel(self) -> State:
        """Cancel the job: at once if it is queued, within seconds if it runs; return its state now."""
        return self._session.store.cancel(self.id).state


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
    python: str | PathLike[str] | None = None,
    repeats: int = 0,
    tags: Sequence[str] = (),
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
        python: Path of another interpreter to run it with, one that the worker allows.
        repeats: How often a measurement that was disturbed is made again, at most.
        tags: Words to find the job by.
        key: Makes a submit that is repeated with the same key the same job.

    Raises:
        UsageError: If an argument is out of its range or names something that does not exist.
        InfrastructureError: If database or broker cannot be used; then nothing was stored.
    """
    from dnnamo.loaders import locate

    content = None if weights is None else _read_weights(Path(weights))
    spec = _spec(
        model=locate(fspath(model)),
        method=method,
        params={} if params is None else params,
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
        tags=_tags(tags),
        weights=None if content is None else sha256(content).hexdigest(),
    )
    here = session()
    if content is not None:
        here.store.put_artifact(content)
    return here.submit(spec, key=key)


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


def _tags(given: Sequence[str]) -> list[str]:
    """Return tags as they are stored."""
    if isinstance(given, str):
        raise UsageError(f"tags is {given!r}; give a list of words: [{given!r}].")
    return sorted(set(given))


def _spec(**fields: Any) -> JobSpec:
    """Return the spec with these fields, their types checked."""
    try:
        return JobSpec.from_dict(fields)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, UsageError):
            raise error.__cause__ from None
        raise UsageError(f"A job cannot be made of that: {error}.") from error


def _read_weights(path: Path) -> bytes:
    from safetensors import SafetensorError, safe_open

    try:
        content = path.read_bytes()
        with safe_open(path, framework="numpy"):  # reads and checks the header
            return content
    except OSError as error:
        raise UsageError(f"The weights {path} cannot be read: {error.strerror}.") from error
    except SafetensorError as error:
        raise UsageError(
            f"The weights {path} are no safetensors file: {error}. Write one with safetensors.torch.save_file, or keep "
            "the weights.safetensors of a get_weights job."
        ) from error


def run(model: str | PathLike[str], *, mode: Mode = "inference", **options: Any) -> JobHandle:
    """Submit `run_inference` or `run_training`, wait, and return the job; options as for `submit`."""
    return submit(model, method_of("run", mode), **options).wait()


def profile(model: str | PathLike[str], *, mode: Mode = "inference", **options: Any) -> JobHandle:
    """Submit `profile_inference` or `profile_training`, wait, and return the job; options as for `submit`."""
    return submit(model, method_of("profile", mode), **options).wait()


def method_of(verb: Literal["run", "profile"], mode: Mode) -> Method:
    """Return the interface's method for a verb and a mode.

    Raises:
        UsageError: If the mode is neither `inference` nor `training`.
    """
    if mode not in ("inference", "training"):
        raise UsageError(f"mode is {mode!r}; it must be inference or training.")
    return cast("Method", f"{verb}_{mode}")


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
    method: Method | None = None,
    tags: Sequence[str] = (),
    limit: int = 100,
) -> list[JobHandle]:
    """Return handles on stored jobs, newest first, at most `limit`; those with all of the tags."""
    here = session()
    found = here.store.jobs(state=state, model=model, method=method, tags=_tags(tags), limit=limit)
    return [JobHandle(record.id, here) for record in found]


def cancel(
    *,
    state: State | None = None,
    model: str | None = None,
    method: Method | None = None,
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
    return session().store.cancel_matching(state=state, model=model, method=method, tags=_tags(tags))
