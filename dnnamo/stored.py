"""What is stored: a job, read afresh at each look, and the profile that it took."""

import re
from collections.abc import Callable, Iterator
from functools import cached_property
from os import PathLike
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, BinaryIO, Literal, get_args, overload

from dnnamo.errors import JobFailed, UsageError
from dnnamo.files import replacing
from dnnamo.intermediates import Intermediate
from dnnamo.records import (
    EVENTS_NAME,
    LOG_NAME,
    WEIGHTS_NAME,
    Artifact,
    Cause,
    DeviceTime,
    Environment,
    FlopCount,
    Grain,
    Job,
    JobSpec,
    Operation,
    Overhead,
    Profile,
    ProfiledStep,
    Progress,
    Quality,
    Result,
    State,
)
from dnnamo.stored_graph import StoredGraph
from dnnamo.tables import Table

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from dnnamo.arrays import Array
    from dnnamo.client import Session
    from dnnamo.profiles.events import Events
    from dnnamo.profiles.flame import Frame

__all__ = ["By", "JobHandle", "StoredProfile"]

By = Literal["name", "shape", "layer", "step", "kernel"]
"""What the calls in one row of a profile's table have in common."""

_BY: tuple[By, ...] = get_args(By)

_VALUES = re.compile(r"intermediates(-\d+)?\.safetensors")

_FIRST_LOOK_S = 0.01
_SLOWEST_LOOK_S = 0.25

_MISSING: dict[By, str] = {
    "shape": "no input shapes; for a PyTorch model `dnnamo profile --shapes` records them",
    "layer": "nothing that says which layer an operation ran in; the base wrappers of Dnnamo record it",
    "kernel": "no kernels and no copies: nothing ran on a device",
    "step": "no marked steps; docs/models.md says how a model marks them",
}


class JobHandle:
    """A stored job, read afresh at each look. Thread-safe."""

    def __init__(self, job_id: int, owner: "Session") -> None:
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
    def profile(self) -> "StoredProfile":
        """The profile that the job took; waits for the job first.

        Raises:
            JobFailed: If the job failed or was cancelled.
            UsageError: If its method takes no profile.
        """
        found = self._session.store.profile_summary(self._succeeded()) if self.spec.gives_profile else None
        if found is None:
            raise UsageError(
                f"Job {self.id} has no profile: its method is {self.spec.method}. Profiles come from profile_inference "
                "and profile_training, that is from `dnnamo profile`, and from `dnnamo import`."
            )
        return StoredProfile(self, found, self._session)

    @property
    def graph(self) -> StoredGraph:
        """The graph that the job took; waits for the job first.

        Raises:
            JobFailed: If the job failed or was cancelled.
            UsageError: If its method takes no graph, or it was stored before graphs were.
        """
        found = self._session.store.graph_summary(self._succeeded()) if self.spec.gives_graph else None
        if found is not None:
            return StoredGraph(self, found, self._session)
        if not self.spec.gives_graph:
            raise UsageError(
                f"Job {self.id} has no graph: its method is {self.spec.method}. Graphs come from get_inference_graph "
                "and get_training_graph, that is from `dnnamo graph MODEL`."
            )
        files = ", ".join(it.name for it in self.artifacts if it.name.startswith("graph.")) or "none"
        raise UsageError(
            f"Of job {self.id} only the framework's own graph was kept ({files}; `job.read` gives it back): an older "
            "version stored it, or its framework does not tell operations and tensors. `dnnamo graph` takes it anew."
        )

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

    def weights(self) -> dict[str, "Array"]:
        """Return the weights that a get_weights job kept, by identifier; waits for the job first.

        Raises:
            JobFailed: If the job failed or was cancelled.
            UsageError: If its method gets no weights.
        """
        from dnnamo.arrays import read_arrays

        return read_arrays(self.weights_file())

    def weights_file(self) -> bytes:
        """Return the safetensors file with the weights that a get_weights job kept; errors as for `weights`."""
        self._succeeded()
        if self.spec.method != "get_weights":
            raise UsageError(
                f"Job {self.id} has no weights: its method is {self.spec.method}. A get_weights job has them, that is "
                "one of `dnnamo weights MODEL`."
            )
        return self.read(WEIGHTS_NAME)

    def unbundle(self, folder: str | PathLike[str]) -> None:
        """Write the code that the job brought along into a new or empty folder.

        Raises:
            UsageError: If it brought none, or the folder has something in it.
        """
        bundle = self.spec.bundle
        if bundle is None:
            raise UsageError(f"Job {self.id} brought no code along; its model is {self.spec.model}.")
        from dnnamo.bundles.archive import unpack

        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise UsageError(f"The folder {target} has something in it; give a new or an empty one.")
        unpack(self._session.store.read_artifact(bundle.digest), bundle.digest, target)

    @property
    def intermediates(self) -> Table[Intermediate]:
        """What the intermediates of a get_intermediates job come to, in order; waits for the job first.

        Raises:
            JobFailed: If the job failed or was cancelled.
            UsageError: If its method gets none.
        """
        self._succeeded()
        if self.spec.method != "get_intermediates":
            raise UsageError(
                f"Job {self.id} has no intermediates: its method is {self.spec.method}. A get_intermediates job has "
                "them, that is one of `dnnamo intermediates MODEL`."
            )
        return Table(self._session.store.intermediates(self.id), Intermediate)

    def values(self) -> Iterator[tuple[str, "Array"]]:
        """Yield identifier and array of the intermediates that were kept in full; errors as for `intermediates`.

        No more than one of the job's files of arrays is in memory at once.

        Raises:
            UsageError: If only what they come to was kept.
        """
        from dnnamo.arrays import read_arrays

        place = {it.name: number for number, it in enumerate(self.intermediates)}
        names = [it.name for it in self.artifacts if _VALUES.fullmatch(it.name)]
        if not names:
            raise UsageError(
                f"Job {self.id} kept of its intermediates what their numbers come to, and not the arrays. Take them "
                "again with --values, or values=True."
            )
        for name in sorted(names, key=lambda name: (len(name), name)):
            yield from sorted(read_arrays(self.read(name)).items(), key=lambda item: place.get(item[0], 0))

    @property
    def log(self) -> str:
        """What the model printed, standard output and error together; empty until an attempt has ended."""
        has_log = any(artifact.name == LOG_NAME for artifact in self.artifacts)
        return self.read(LOG_NAME).decode(errors="replace") if has_log else ""

    def cancel(self) -> State:
        """Cancel the job: at once if it is queued, within seconds if it runs; return its state now."""
        return self._session.store.cancel(self.id).state


class StoredProfile:
    """The profile of a job: its figures come from the database, its events are read when they are asked for.

    Attributes:
        record: All figures but the tables of operations.
    """

    def __init__(self, job: JobHandle, record: Profile, owner: "Session") -> None:
        self.record = record
        self._job = job
        self._session = owner

    def __repr__(self) -> str:
        return f"<profile of job {self._job.id}: {self.record.events:,} events, {self.verdict}>"

    @property
    def source(self) -> str:
        """What recorded it."""
        return self.record.source

    @property
    def verdict(self) -> Quality:
        """`ok`, `degraded` or `bad`: how far its figures can be trusted."""
        return self.record.verdict

    @property
    def reasons(self) -> list[str]:
        """Why they cannot be trusted fully, one sentence each."""
        return self.record.reasons

    @property
    def steps(self) -> Table[ProfiledStep]:
        """The marked steps, in order."""
        return Table(self.record.steps, ProfiledStep)

    @property
    def coverage(self) -> float | None:
        """Fraction of the steps' wall time during which an operation ran; None without marked steps."""
        return self.record.coverage

    @property
    def overhead(self) -> Overhead | None:
        """What profiling did to the steps; None where none ran unprofiled."""
        return self.record.overhead

    @property
    def devices(self) -> list[DeviceTime]:
        """What the time of each device went to."""
        return self.record.devices

    @property
    def peak_bytes(self) -> dict[str, int]:
        """Most memory that was allocated at once, by kind of device; empty where it was not recorded."""
        return self.record.peak_bytes

    @property
    def flops(self) -> FlopCount | None:
        """Floating-point operations of one step; None where they were not counted."""
        return self.record.flops

    @overload
    def ops(self, by: Grain = "name", *, top: int | None = None) -> Table[Operation]: ...
    @overload
    def ops(self, by: Literal["step"], *, top: int | None = None) -> Table[ProfiledStep]: ...
    def ops(self, by: By = "name", *, top: int | None = None) -> Table[Operation] | Table[ProfiledStep]:
        """Return the rows of a table: of operations, greatest self time first, or of steps in their order.

        Args:
            by: What the calls of a row have in common: the operation's `name`; its `shape`, that is name and input
                shapes; the `layer` that it ran in; the `step`; or the `kernel`, of what ran on a device.
            top: Only the first so many.

        Raises:
            UsageError: If the profile says nothing of that.
        """
        if by not in _BY:
            raise UsageError(f"by is {by!r}; it must be one of {', '.join(_BY)}.")
        if by == "step":
            found: Table[Operation] | Table[ProfiledStep] = self.steps[:top]
        else:
            found = Table(self._session.store.operations(self._job.id, by, limit=top), Operation)
        if not found and by in _MISSING:
            raise UsageError(f"The profile of job {self._job.id} ({self.source}) has {_MISSING[by]}.")
        return found

    def to_arrow(self, by: By = "name") -> "pa.Table":
        """Return a table of operations as Arrow; see `ops`."""
        return self.ops(by).to_arrow()

    def to_pandas(self, by: By = "name") -> "pd.DataFrame":
        """Return a table of operations as a pandas data frame; see `ops`."""
        return self.ops(by).to_pandas()

    def to_polars(self, by: By = "name") -> "pl.DataFrame":
        """Return a table of operations as a Polars data frame; see `ops`."""
        return self.ops(by).to_polars()

    def events(self, *, start_ns: int | None = None, end_ns: int | None = None, resolution_ns: int = 0) -> "Events":
        """Return the events, or those that overlap a stretch of time.

        Args:
            start_ns: Where the stretch begins, on the clock of the events; by default with the first.
            end_ns: Where it ends; by default after the last.
            resolution_ns: Events shorter than this are merged with their neighbours, see `dnnamo.profiles.window`.

        Raises:
            UsageError: If the events were not kept.
        """
        from dnnamo.profiles.window import window

        return window(self.file, start_ns=start_ns, end_ns=end_ns, resolution_ns=resolution_ns)

    def flame(self) -> list["Frame"]:
        """Return the call tree of each thread, with host and device times: what a flame graph is drawn of."""
        from dnnamo.profiles.file import read_events
        from dnnamo.profiles.flame import call_trees

        return call_trees(*read_events(self.file))

    def export(self, to: str, file: str | PathLike[str] | BinaryIO) -> None:
        """Write the profile in the form of another tool.

        Args:
            to: `chrome`, `perfetto`, `speedscope`, `parquet`, `folded`, `csv`, or what a plug-in adds.
            file: A path, or a file that is open for bytes. What goes to a path that ends with `.gz` is gzipped.

        Raises:
            UsageError: If there is no such form, or the events were not kept.
            OSError: If the file cannot be written; what was there before is left as it was.
        """
        from dnnamo.profiles.exports import exporter
        from dnnamo.profiles.file import read_events

        write = exporter(to)
        events, metadata = read_events(self.file)
        if isinstance(file, str | PathLike):
            with replacing(Path(file)) as opened:
                write(events, metadata, opened)
        else:
            write(events, metadata, file)

    @cached_property
    def file(self) -> bytes:
        """The stored event table, a Parquet file for `dnnamo.profiles.file`.

        Raises:
            UsageError: If the events were not kept.
        """
        if all(artifact.name != EVENTS_NAME for artifact in self._job.artifacts):
            raise UsageError(
                f"The events of job {self._job.id} were not kept: it was stored by an older version. Its operations "
                f"are there; for a time line or an export take the profile again."
            )
        return self._job.read(EVENTS_NAME)
