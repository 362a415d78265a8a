"""See one claimed attempt through: start its runner, keep its lease, stop it when it must end, record what came out.

The supervisor never runs user code and never unpickles anything. The same function serves Celery workers and the
embedded mode.
"""

import errno
import logging
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from time import monotonic
from typing import NamedTuple

import msgspec
from tenacity import RetryCallState, retry, retry_if_exception_type, stop_after_delay, wait_exponential

from dnnamo.bundles.archive import seal, unpack
from dnnamo.errors import BundleError, DatabaseUnavailable, Unsupported, UsageError
from dnnamo.records import LOG_NAME, Artifact, Claim, JobSpec, Outcome
from dnnamo.runner.wire import Request
from dnnamo.sizes import as_size
from dnnamo_storage import Store
from dnnamo_workers.limits import Breach, Limits, Meter, oom_kills
from dnnamo_workers.process import RunnerProcess
from dnnamo_workers.slots import RunnerUnavailable, Slot

__all__ = ["HEARTBEAT_S", "LEASE_S", "Drain", "supervise"]

LEASE_S = 30.0
HEARTBEAT_S = 2.0
"""Seconds between renewals of the lease, which also bring the news of a cancellation."""

GRACE_S = 3.0
"""Seconds between SIGTERM and SIGKILL."""

_LOOK_S = 0.5
"""Longest wait between two looks at the drain."""

_OUTPUTS = "outputs"
"""Where in the scratch folder the runner leaves what is to be kept."""

_FULL = (errno.ENOSPC, errno.EDQUOT)

_logger = logging.getLogger(__name__)


@dataclass
class Drain:
    """Tells supervisors that their process is to stop, and how long their jobs may still take."""

    limit_s: float = 0.0
    _begun: Event = field(default_factory=Event)
    _deadline: float = float("inf")

    def begin(self) -> None:
        """Start draining; safe to call from a signal handler, and again."""
        if not self._begun.is_set():
            self._deadline = monotonic() + self.limit_s
            self._begun.set()

    @property
    def has_begun(self) -> bool:
        """Whether no new job should be claimed."""
        return self._begun.is_set()

    @property
    def is_over(self) -> bool:
        """Whether running jobs must be handed back now."""
        return self._begun.is_set() and monotonic() >= self._deadline


def supervise(store: Store, claim: Claim, *, slot: Slot, drain: Drain) -> None:
    """Run a claimed attempt to its end and record it.

    Nothing is recorded when the claim is no longer current, or when the attempt was handed back for another worker.

    Args:
        store: Where the claim is from.
        claim: The right to the attempt.
        slot: Where to run it; locked.
        drain: Tells when it must be handed back.

    Raises:
        DatabaseUnavailable: If the outcome could not be recorded for a minute. The attempt's lease then runs out and
            the job is run again.
        RunnerUnavailable: If no job can be run here now; the attempt was handed back.
    """
    _logger.info("job %d attempt %d: %s of %s", claim.job_id, claim.attempt, claim.spec.method, claim.spec.model)
    with slot.folder() as folder:
        try:
            ended = _run(store, claim, slot, drain, folder)
        except Unsupported as error:
            ended = _Ended(_failed("unsupported", str(error)))
        except BundleError as error:
            ended = _Ended(_failed("bad_bundle", str(error)))
        except RunnerUnavailable:
            store.hand_back(claim)
            raise
        if ended.why == "handed_back":
            store.hand_back(claim)
        elif ended.why != "stale":
            slot.learn(claim.spec, ended.outcome)
            _record_with_files(store, claim, ended.outcome, folder / _OUTPUTS, ended.log)
    _logger.info("job %d attempt %d: %s", claim.job_id, claim.attempt, ended.why or ended.outcome.state)


class _Ended(NamedTuple):
    """How an attempt ended: `why` it was made to, None if it ended by itself or by a limit."""

    outcome: Outcome
    log: bytes = b""
    why: str | None = None


def _run(store: Store, claim: Claim, slot: Slot, drain: Drain, folder: Path) -> _Ended:
    kills = oom_kills()
    with _code(store, claim.spec, slot) as code, slot.run(_request(store, claim.spec, slot, folder, code)) as runner:
        meter = Meter(Limits.of(claim.spec, slot.settings), runner, folder)
        why = _watch(runner, store, claim, drain, meter)
    ended_by = why if isinstance(why, str) else None
    if isinstance(why, Breach):
        outcome = _failed(why.cause, why.message)
    elif why == "cancelled":
        outcome = Outcome(state="cancelled", cause="cancelled", message="Cancelled while it ran.")
    else:
        outcome = _outcome(runner, claim.spec, oom_killed=oom_kills() > kills)
    return _Ended(outcome, runner.log, ended_by)


@contextmanager
def _code(store: Store, spec: JobSpec, slot: Slot) -> Iterator[Path | None]:
    """Have the code that a job brought along in a folder of its own, read-only, during the block."""
    if spec.bundle is None:
        yield None
        return
    if roots := slot.settings.model_roots:
        raise Unsupported(
            f"This worker takes models from {', '.join(map(str, roots))} alone, and not from what a job brings along; "
            "its setting DNNAMO_MODEL_ROOTS says so. Submit the job with --no-bundle, and its model as it lies there."
        )
    with slot.folder() as folder:
        _unpack(store, spec.bundle.digest, folder)
        yield folder


def _unpack(store: Store, digest: str, folder: Path) -> None:
    try:
        content = store.read_artifact(digest)
    except UsageError as error:
        raise BundleError(f"The code of this job is no longer stored: {error} Submit the job again.") from error
    try:
        unpack(content, digest, folder)
        seal(folder)
    except OSError as error:
        if error.errno in _FULL:  # for another worker, or for later
            raise RunnerUnavailable(f"The code of a job cannot be unpacked in {folder}: {error.strerror}.") from error
        raise BundleError(f"The code of this job cannot be unpacked: {error}.") from error


def _request(store: Store, spec: JobSpec, slot: Slot, folder: Path, code: Path | None) -> Request:
    outputs, temporary = folder / _OUTPUTS, folder / "tmp"
    outputs.mkdir()
    temporary.mkdir()
    weights = None
    if spec.weights is not None:
        weights = folder / "weights.safetensors"
        weights.write_bytes(store.read_artifact(spec.weights))
    return Request(
        spec=spec,
        scratch=str(outputs),
        environment=slot.environment(spec, temporary=temporary),
        weights=None if weights is None else str(weights),
        code=None if code is None else str(code),
        roots=[str(root) for root in slot.settings.model_roots],
        gpu=None if slot.place.gpu is None else slot.place.gpu.uuid,
    )


def _watch(runner: RunnerProcess, store: Store, claim: Claim, drain: Drain, meter: Meter) -> str | Breach | None:
    """Keep the lease until the runner has ended; return why it was made to, None if it ended by itself."""
    next_beat = monotonic() + HEARTBEAT_S
    while runner.pump(max(0.0, min(next_beat - monotonic(), meter.wait_s, _LOOK_S))):
        breach = meter.breach()
        if breach is not None:
            runner.stop(GRACE_S if breach.cause == "timeout" else 0.0)
            return breach
        why = "handed_back" if drain.is_over else None
        if why is None and monotonic() >= next_beat:
            next_beat = monotonic() + HEARTBEAT_S
            why = _renew(store, claim, runner)
        if why is not None:
            runner.stop(GRACE_S)
            return why
    return meter.breach_at_end()


def _renew(store: Store, claim: Claim, runner: RunnerProcess) -> str | None:
    try:
        renewal = store.renew(claim, lease_s=LEASE_S, progress=runner.progress)
    except DatabaseUnavailable as error:
        # The fence keeps a rerun's result apart from ours; stopping now would only lose the measurement.
        _logger.warning("job %d: lease not renewed: %s", claim.job_id, error)
        return None
    if not renewal.current:
        return "stale"
    return "cancelled" if renewal.cancel_requested else None


def _outcome(runner: RunnerProcess, spec: JobSpec, *, oom_killed: bool) -> Outcome:
    try:
        reported = runner.outcome
    except ValueError as error:
        return _failed("user_error", f"The runner's report cannot be read: {error}. User code wrote to its pipe.")
    return reported or _died(runner, spec, oom_killed=oom_killed)


def _died(runner: RunnerProcess, spec: JobSpec, *, oom_killed: bool) -> Outcome:
    doing = f"while it ran {spec.method} of {spec.model}"
    returncode = runner.returncode or 0
    if returncode >= 0:
        return _failed(
            "user_error",
            f"The runner exited with code {returncode} {doing}, without a report. Either something called os._exit, or "
            "the end of the job's log says what went wrong.",
        )
    name = _signal_name(-returncode)
    if name == "SIGKILL" and oom_killed:
        had = f" at {as_size(runner.peak_bytes)} of resident memory" if runner.peak_bytes else ""
        return _failed("oom_host", f"The machine ran out of memory, and its kernel ended the job{had}, {doing}.")
    return _failed("signal", f"The runner was killed by {name} {doing}. The job's log has its last words.")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have none
        return f"signal {number}"


def _failed(cause: str, message: str) -> Outcome:
    return Outcome.from_dict({"state": "failed", "cause": cause, "message": message})


def _record_with_files(store: Store, claim: Claim, outcome: Outcome, folder: Path, log: bytes) -> None:
    """Record an outcome with its files and the log; one whose files cannot be stored is recorded as failed."""
    log_artifact = Artifact(name=LOG_NAME, media_type="text/plain")
    try:
        files = {artifact.name: _plain_file(folder, artifact.name) for artifact in outcome.artifacts}
        complete = msgspec.structs.replace(outcome, artifacts=[*outcome.artifacts, log_artifact])
        _record(store, claim, complete, {**files, LOG_NAME: log})
    except DatabaseUnavailable:  # an OSError too, and nothing that the files are to blame for
        raise
    except (UsageError, OSError) as error:
        failed = _failed("user_error", f"What the runner left cannot be stored: {error}")
        _record(store, claim, msgspec.structs.replace(failed, artifacts=[log_artifact]), {LOG_NAME: log})


def _plain_file(folder: Path, name: str) -> Path:
    """Return the path of a file that the runner reported, which user code may have made up."""
    path = folder / name
    if path.parent != folder or path.is_symlink() or not path.is_file():
        raise UsageError(f"it reported a file {name!r}, which is no plain file in its folder.")
    return path


def _say_again(attempt: RetryCallState) -> None:
    if attempt.outcome is not None:
        _logger.warning("an outcome is not recorded yet, trying again: %s", attempt.outcome.exception())


@retry(
    retry=retry_if_exception_type(DatabaseUnavailable),
    wait=wait_exponential(multiplier=0.2, max=5),
    stop=stop_after_delay(60),
    before_sleep=_say_again,
    reraise=True,
)
def _record(store: Store, claim: Claim, outcome: Outcome, files: Mapping[str, bytes | Path]) -> None:
    if not store.record(claim, outcome, files=files):
        _logger.warning("job %d attempt %d is no longer current; its outcome is dropped", claim.job_id, claim.attempt)
