"""The one door to the database."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import Engine

from dnnamo.errors import JobNotFound, UsageError
from dnnamo.graphs import Graph
from dnnamo.graphs.summary import Summary
from dnnamo.intermediates import Intermediate
from dnnamo.records import (
    Artifact,
    Backlog,
    Claim,
    Device,
    Environment,
    Grain,
    Job,
    JobSpec,
    Operation,
    Outcome,
    Profile,
    ProfiledStep,
    Progress,
    Result,
    State,
    Task,
    Worker,
)
from dnnamo_storage import (
    artifacts,
    graphs,
    imports,
    intermediates,
    life,
    migrate,
    outcomes,
    profiles,
    queries,
    registry,
    submissions,
)
from dnnamo_storage.engine import describe, open_engine, reading, writing
from dnnamo_storage.life import Cancellation, Renewal

__all__ = ["Store"]

_ENDINGS: tuple[State, ...] = ("succeeded", "failed", "cancelled")


class Store:
    """Jobs, attempts, results and workers in one database.

    Each method is one transaction: when it returns, what it did is on disk; when it raises, it did nothing. All times
    are the database's.

    A store may be used by any number of threads at once. It must not go through a fork: a child opens its own. Any
    number of processes may use one database, from any number of machines if it is PostgreSQL. Whoever opens a store
    closes it.

    Text that comes from user code (messages, names of operations) is kept with NUL characters and lone surrogates
    replaced by U+FFFD; losses and scores that are not finite are kept as None.

    Every method raises `DatabaseUnavailable` when the database does not answer.

    Attributes:
        engine: SQLAlchemy's engine, for queries of your own on the tables of `dnnamo_storage.schema`.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the database at `url`; an empty one gets its tables.

        Raises:
            UsageError: If the URL cannot be read or names a kind of database that Dnnamo does not use.
            MissingExtra: If the database's driver is not installed.
            SchemaMismatch: If the database holds another schema than this version's; nothing was touched.
        """
        store = cls(open_engine(url))
        try:
            migrate.prepare(store.engine)
        except BaseException:
            store.close()
            raise
        return store

    @property
    def url(self) -> str:
        """The database's URL without its password."""
        return describe(self.engine.url)

    def close(self) -> None:
        """Close all connections; the store must not be used afterwards."""
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def submit(self, spec: JobSpec, *, key: str | None = None) -> int:
        """Store a job for workers to claim.

        Args:
            spec: What the job does.
            key: Idempotency key; submitting again with the same one changes nothing and gives the same id.

        Returns:
            The job's id.

        Raises:
            UsageError: If the spec holds what a database cannot keep as it is: values that are no JSON, numbers that
                are not finite, NUL characters, lone surrogates, a tag that is too long.
        """
        return self.submit_many([spec], keys=[key])[0]

    def submit_many(self, specs: Sequence[JobSpec], *, keys: Sequence[str | None] | None = None) -> list[int]:
        """Store many jobs, all of them or none.

        Args:
            specs: What the jobs do; of those with the same priority the first goes first.
            keys: Idempotency key of each, or None; as for `submit`, within the call too.

        Returns:
            The jobs' ids, in the order of the specs.

        Raises:
            UsageError: As for `submit`, or if there is not one key for each spec, or one is for no worker.
        """
        if keys is not None and len(keys) != len(specs):
            raise UsageError(f"{len(specs)} jobs were given {len(keys)} keys; give each job one, or None.")
        if any(spec.method == "import_trace" for spec in specs):
            raise UsageError(
                "No worker can do import_trace: the profile in a file is stored with `dnnamo import FILE`."
            )
        with writing(self.engine) as connection:
            return submissions.submit(connection, specs, [None] * len(specs) if keys is None else keys).ids

    def claim(
        self, devices: Sequence[Device], *, worker: str, lease_s: float, job_id: int | None = None
    ) -> Claim | None:
        """Begin an attempt at the first queued job of some device classes: greatest priority, then lowest id.

        Args:
            devices: Device classes that the worker serves.
            worker: Its name.
            lease_s: Seconds after which the attempt is lost if nobody renewed the lease.
            job_id: The only job to take; it must be queued, and for one of the devices, all the same.

        Returns:
            The right to the attempt, None if there is nothing to claim.
        """
        if job_id is not None and not _may_exist(job_id):
            return None
        with writing(self.engine) as connection:
            return life.claim_next(connection, devices, worker=worker, lease_s=lease_s, job_id=job_id)

    def renew(self, claim: Claim, *, lease_s: float, progress: Progress | None = None) -> Renewal:
        """Extend the lease to `lease_s` seconds from now, and keep how far the attempt is, if the claim still holds."""
        with writing(self.engine) as connection:
            return life.renew(connection, claim, lease_s, progress)

    def record(self, claim: Claim, outcome: Outcome, *, files: Mapping[str, bytes | Path]) -> bool:
        """Write how an attempt ended, and with it the job: all of it, or nothing.

        A job whose attempt failed by what may be chance, one of `TRIED_TWICE`, is queued again the first time: what is
        kept then is the attempt with its cause, message, environment and artifacts. If someone cancelled the job
        meanwhile, it ends as cancelled.

        Args:
            claim: The right to the attempt.
            outcome: `succeeded`, `failed` or `cancelled`, with what there is to keep.
            files: Content of each artifact that the outcome names.

        Returns:
            Whether the claim still held. If not, nothing was written but that the attempt is lost.

        Raises:
            UsageError: If the outcome is no ending, or names other artifacts than `files`, or one is larger than
                `MAX_ARTIFACT_BYTES`.
            OSError: If a file cannot be read.
        """
        state = next((ending for ending in _ENDINGS if ending == outcome.state), None)
        if state is None:
            raise UsageError(
                f"An attempt cannot be recorded as {outcome.state!r}, only as one of {', '.join(_ENDINGS)}."
            )
        contents = artifacts.read_contents(outcome.artifacts, files)
        with writing(self.engine) as connection:
            return outcomes.record(connection, claim, outcome, state=state, contents=contents)

    def import_profile(
        self, spec: JobSpec, outcome: Outcome, *, files: Mapping[str, bytes | Path], key: str | None = None
    ) -> int:
        """Store a profile from elsewhere as a job that has succeeded and that no worker ever sees queued.

        Args:
            spec: What was imported; its method is `import_trace`.
            outcome: `succeeded`, with the profile.
            files: Content of each artifact that the outcome names.
            key: Idempotency key; importing again with the same one changes nothing and gives the same id.

        Returns:
            The job's id.

        Raises:
            UsageError: As for `submit` and `record`, or if spec or outcome are of anything but an imported profile.
            OSError: If a file cannot be read.
        """
        if spec.method != "import_trace" or outcome.state != "succeeded" or outcome.profile is None:
            raise UsageError(
                f"A job that {outcome.state} at {spec.method} is no imported profile: that is one that succeeded at "
                "import_trace, with the profile."
            )
        contents = artifacts.read_contents(outcome.artifacts, files)
        with writing(self.engine) as connection:
            return imports.import_profile(connection, spec, outcome, contents=contents, key=key)

    def hand_back(self, claim: Claim) -> bool:
        """End an attempt without an outcome and queue the job again; this does not count as a loss.

        A job that someone cancelled meanwhile is not queued again but ends as cancelled.

        Returns:
            Whether the claim still held; if not, nothing changed.
        """
        with writing(self.engine) as connection:
            return life.hand_back(connection, claim)

    def cancel(self, job_id: int) -> Job:
        """End a job if it is queued, ask its worker to stop it if it is running, leave it if it is over.

        Returns:
            The job as it is now.

        Raises:
            JobNotFound: If there is no such job.
        """
        _refuse_impossible(job_id)
        with writing(self.engine) as connection:
            life.cancel(connection, job_id)
            return queries.job(connection, job_id)

    def cancel_matching(
        self,
        *,
        state: State | None = None,
        model: str | None = None,
        method: Task | None = None,
        tags: Sequence[str] = (),
    ) -> Cancellation:
        """Cancel, as `cancel` does, the jobs that have all the tags and match what is not None: by default all."""
        conditions = queries.matching(state=state, model=model, method=method, tags=tags)
        with writing(self.engine) as connection:
            return life.cancel_all(connection, conditions)

    def reap(self) -> list[int]:
        """Take back the running jobs whose lease ran out.

        Such an attempt is lost. Its job is queued again; or it ends, as cancelled if someone asked for that, or as
        failed with cause `quarantined` after `MAX_LOSSES` lost attempts. Any number of processes may do it at once.

        Returns:
            The ids of these jobs.
        """
        with writing(self.engine) as connection:
            return life.reap(connection)

    def job(self, job_id: int) -> Job:
        """Return a job with its attempts.

        Raises:
            JobNotFound: If there is no such job.
        """
        _refuse_impossible(job_id)
        with reading(self.engine) as connection:
            return queries.job(connection, job_id)

    def jobs(
        self,
        *,
        state: State | None = None,
        model: str | None = None,
        method: Task | None = None,
        tags: Sequence[str] = (),
        limit: int = 100,
    ) -> list[Job]:
        """Return at most `limit` jobs that have all the tags, newest first; None matches all."""
        conditions = queries.matching(state=state, model=model, method=method, tags=tags)
        with reading(self.engine) as connection:
            return queries.find_jobs(connection, conditions, limit=limit)

    def queued(self, device: Device, limit: int) -> int:
        """Return how many jobs wait for a device; stops counting at `limit`."""
        with reading(self.engine) as connection:
            return queries.count_queued(connection, device, limit)

    def backlog(self) -> list[Backlog]:
        """Return how many jobs wait for each device class that has any, by its name, and since when the first does."""
        with reading(self.engine) as connection:
            return queries.backlog(connection)

    def result(self, job_id: int) -> Result | None:
        """Return the recorded result, None if the job has none."""
        if not _may_exist(job_id):
            return None
        with reading(self.engine) as connection:
            return queries.result(connection, job_id)

    def profile(self, job_id: int) -> Profile | None:
        """Return the whole recorded profile, rows in the order recorded; None if the job has none."""
        if not _may_exist(job_id):
            return None
        with reading(self.engine) as connection:
            return profiles.of_job(connection, job_id)

    def profile_summary(self, job_id: int) -> Profile | None:
        """Return the recorded profile without its operations, which costs less; None if the job has none."""
        if not _may_exist(job_id):
            return None
        with reading(self.engine) as connection:
            return profiles.summary(connection, job_id)

    def operations(self, job_id: int, grain: Grain, *, limit: int | None = None) -> list[Operation]:
        """Return the first `limit` rows of a recorded profile's table of operations; none if there is no such table."""
        if not _may_exist(job_id):
            return []
        with reading(self.engine) as connection:
            return profiles.operations_of(connection, job_id, grain, limit)

    def profile_steps(self, job_id: int) -> list[ProfiledStep]:
        """Return the steps of a recorded profile; none if the job has no profile, or one without marked steps."""
        if not _may_exist(job_id):
            return []
        with reading(self.engine) as connection:
            return profiles.steps_of(connection, job_id)

    def graph(self, job_id: int) -> Graph | None:
        """Return the recorded graph, None if the job has none."""
        if not _may_exist(job_id):
            return None
        with reading(self.engine) as connection:
            return graphs.of_job(connection, job_id)

    def graph_summary(self, job_id: int) -> Summary | None:
        """Return the figures of the recorded graph, which costs less; None if the job has none."""
        if not _may_exist(job_id):
            return None
        with reading(self.engine) as connection:
            return graphs.summary(connection, job_id)

    def intermediates(self, job_id: int) -> list[Intermediate]:
        """Return what the job's intermediates come to, in the order in which they came; none if it took none."""
        if not _may_exist(job_id):
            return []
        with reading(self.engine) as connection:
            return intermediates.of_job(connection, job_id)

    def environment(self, digest: str) -> Environment | None:
        """Return the environment with this digest, None if it is unknown."""
        with reading(self.engine) as connection:
            return queries.environment(connection, digest)

    def artifacts(self, job_id: int) -> list[Artifact]:
        """Return the artifacts of the job's last ended attempt, by name."""
        if not _may_exist(job_id):
            return []
        with reading(self.engine) as connection:
            return artifacts.of_job(connection, job_id)

    def read_artifact(self, digest: str) -> bytes:
        """Return the bytes of an artifact.

        Raises:
            UsageError: If there is none with this digest.
        """
        with reading(self.engine) as connection:
            return artifacts.read(connection, digest)

    def put_artifact(self, data: bytes) -> str:
        """Store bytes that belong to no attempt yet, such as weights to set; return their digest.

        Raises:
            UsageError: If they are more than `MAX_ARTIFACT_BYTES`.
        """
        artifacts.refuse_too_large("to store", len(data))
        with writing(self.engine) as connection:
            artifacts.keep(connection, [data])
        return artifacts.digest_of(data)

    def report_worker(
        self,
        name: str,
        *,
        queues: Sequence[Device],
        slots: int,
        devices: Sequence[str] = (),
        busy: Sequence[str] = (),
        set_aside: Sequence[str] = (),
        jobs: Sequence[int] = (),
        idle_s: float = 0.0,
    ) -> None:
        """Write that a worker is alive; `started` stays that of its first report since it last retired.

        Args:
            name: Its name.
            queues: Device classes that it serves.
            slots: How many jobs it runs at once.
            devices: What each slot computes on, as people read it.
            busy: Why devices cannot be had for now.
            set_aside: Devices that it no longer uses, each with the reason.
            jobs: Ids of the jobs that it runs now.
            idle_s: Seconds since it last looked for a job, or had no slot free to look for one.
        """
        said = {"queues": queues, "devices": devices, "busy": busy, "set_aside": set_aside, "jobs": jobs}
        with writing(self.engine) as connection:
            registry.report(connection, name, idle_s=idle_s, slots=slots, **{key: list(said[key]) for key in said})

    def retire_worker(self, name: str) -> None:
        """Forget a worker that stopped."""
        with writing(self.engine) as connection:
            registry.retire(connection, name)

    def workers(self, *, seen_within_s: float = registry.GONE_AFTER_S) -> list[Worker]:
        """Return the workers that reported within the last seconds, by name; by default those that count as alive."""
        with reading(self.engine) as connection:
            return registry.seen_within(connection, seen_within_s)

    def hint_key(self) -> bytes:
        """Return the secret that hints to workers are signed with, the same for all who use this database."""
        with reading(self.engine) as connection:
            return registry.hint_key(connection)


def _may_exist(job_id: int) -> bool:
    # A greater number is an error of the driver's, not an answer.
    return 0 < job_id < 2**63


def _refuse_impossible(job_id: int) -> None:
    if not _may_exist(job_id):
        raise JobNotFound(job_id)
