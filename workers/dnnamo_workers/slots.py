"""Slots: each a place to run one job at a time, with the cores, the GPU and the keepers that belong to it."""

import logging
import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from dnnamo.errors import InfrastructureError, Unsupported
from dnnamo.records import JobSpec, Outcome
from dnnamo.runner.environment import CACHE_VARIABLES, THREAD_VARIABLES
from dnnamo.runner.wire import Request
from dnnamo.settings import Settings
from dnnamo_workers.devices import GpuGuard, Place
from dnnamo_workers.keeper import Keeper, KeeperFailed, Kind
from dnnamo_workers.locks import try_lock
from dnnamo_workers.process import RunnerProcess
from dnnamo_workers.scratch import Scratch

__all__ = ["RunnerUnavailable", "Slot"]

_SECRETS = ("DNNAMO_DATABASE_URL", "DNNAMO_BROKER_URL")

_START_S = 120.0
"""How long an interpreter may take to import a framework, from a slow network disk for example."""

_EVERYWHERE = ("numpy",)
"""Libraries that every runner has imported, whatever the model."""

_MOST_KEEPERS = 3
_MOST_MODELS = 1000

_logger = logging.getLogger(__name__)


class RunnerUnavailable(InfrastructureError):
    """Raised when this machine cannot start a runner, whatever the job; nothing was run."""


class Slot:
    """A place to run one job at a time. Not thread-safe: whoever runs the job has it alone.

    It remembers what each model imported, and has a process ready that has imported that already.

    Args:
        place: The device that jobs compute on here.
        worker: Name that other processes see while a job runs here.
        settings: Limits, and what jobs may name.
        scratch: Where the scratch folders of its attempts go.
        any_python: Whether a job may name any interpreter, rather than those of the settings.

    Raises:
        DeviceLost: If its GPU does not answer.
    """

    def __init__(
        self, place: Place, *, worker: str, settings: Settings, scratch: Scratch, any_python: bool = False
    ) -> None:
        self.place = place
        self.settings = settings
        self._worker = worker
        self._scratch = scratch
        self._guard = GpuGuard(place.gpu) if place.gpu else None
        self._any_python = any_python
        self._locks: list[int] = []
        self._keepers: dict[Kind, Keeper] = {}
        self._imported: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Have the device to itself, host-wide, during the block; then it is free once the job's last process has gone.

        Raises:
            DeviceBusy: If somebody else uses it.
            DeviceLost: If the GPU cannot be used any more, or was left in a state that spoils what comes next.
        """
        self._locks = try_lock(self.place, worker=self._worker, folder=self.settings.locks)
        try:
            if self._guard:
                self._guard.check_free()
            yield
            if self._guard:
                self._guard.check_clean()
        finally:
            for fd in self._locks:
                os.close(fd)
            self._locks = []

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Yield a scratch folder for an attempt."""
        with self._scratch.folder() as folder:
            yield folder

    def environment(self, spec: JobSpec, *, temporary: Path) -> dict[str, str]:
        """Return the environment of a job's processes; `temporary` is the folder for their temporary files."""
        environment = self._environment() | {"TMPDIR": str(temporary)}
        if spec.bundle is not None:  # that folder is gone after the job, and read-only until then
            environment |= {"PYTHONDONTWRITEBYTECODE": "1"}
        if spec.threads is not None:
            environment |= dict.fromkeys(THREAD_VARIABLES, str(spec.threads))
        return environment

    def _environment(self) -> dict[str, str]:
        # One thread for each core, since a library's own choice would depend on when it was imported.
        threads = dict.fromkeys(THREAD_VARIABLES, str(self.place.threads))
        caches = {name: str(self.settings.home / "cache" / name.lower()) for name in CACHE_VARIABLES}
        # Else sets of strings have another order in each interpreter, and it is too late to seed that once one runs.
        hashes = {"PYTHONHASHSEED": "0"}
        inherited = {name: value for name, value in os.environ.items() if name not in _SECRETS}
        # Unbuffered, so that the log of a crash is whole.
        return threads | caches | hashes | inherited | self.place.environment | {"PYTHONUNBUFFERED": "1"}

    @contextmanager
    def run(self, request: Request) -> Iterator[RunnerProcess]:
        """Start a runner for a request; end it, and what it started, at the end of the block.

        Raises:
            Unsupported: If the job names an interpreter that it may not name, or that cannot run it.
            RunnerUnavailable: If no job can be run here now.
        """
        self._check_python(request.spec)
        keeper, runner = self._start(request)
        try:
            with runner:
                yield runner
        finally:
            if not keeper.forks or runner.is_orphaned:
                self._drop(keeper)

    def _check_python(self, spec: JobSpec) -> None:
        allowed = self.settings.pythons
        if spec.python is None or self._any_python or Path(spec.python) in allowed:
            return
        may = ", ".join(map(str, allowed)) or "none"
        raise Unsupported(
            f"This worker does not run jobs with {spec.python}. It allows: {may}; its setting DNNAMO_PYTHONS says so."
        )

    def _start(self, request: Request) -> tuple[Keeper, RunnerProcess]:
        kind = self._kind(request.spec)
        failure = None
        # A keeper may have died since the last job, so a new one of its kind comes next; then one that does not fork.
        for candidate in (kind, kind, replace(kind, forks=False)):
            keeper = None
            try:
                keeper = self._ready(candidate)
                return keeper, RunnerProcess(keeper, request, locks=self._locks)
            except KeeperFailed as error:
                failure = error
                _logger.info("no runner by %s: %s", candidate, error)
                if keeper is not None:
                    self._drop(keeper)
        if request.spec.python is not None:
            raise Unsupported(f"{failure} Dnnamo must be installed there, in this version.")
        raise RunnerUnavailable(f"No runner can be started on this machine: {failure}")

    def _kind(self, spec: JobSpec) -> Kind:
        if spec.python is not None:
            return Kind(preload=self._imported.get(spec.model, ()), python=spec.python)
        # Nothing may touch CUDA before the fork, and not every library is known not to.
        forks = self.place.gpu is None
        if spec.model in self._imported:
            return Kind(preload=self._imported[spec.model], forks=forks)
        # For a model that is new here, any zygote is as good as a new one, and better if it has the right framework.
        return next((kind for kind, keeper in self._keepers.items() if keeper.forks), Kind(forks=forks))

    def _ready(self, kind: Kind) -> Keeper:
        if kind not in self._keepers:
            if len(self._keepers) == _MOST_KEEPERS:
                self._drop(next(iter(self._keepers.values())))
            self._keepers[kind] = Keeper(kind, environment=self._environment(), cores=self.place.cores)
        keeper = self._keepers[kind]
        try:
            keeper.wait_ready(_START_S)
        except KeeperFailed:
            self._drop(keeper)
            raise
        return keeper

    def _drop(self, keeper: Keeper) -> None:
        self._keepers.pop(keeper.kind, None)
        keeper.close()

    def learn(self, spec: JobSpec, outcome: Outcome) -> None:
        """Remember what a model imported."""
        if outcome.environment is None:
            return
        self._imported[spec.model] = tuple(name for name in outcome.environment.libraries if name not in _EVERYWHERE)
        self._imported.move_to_end(spec.model)
        if len(self._imported) > _MOST_MODELS:
            self._imported.popitem(last=False)

    def get_ready(self, spec: JobSpec) -> None:
        """Have a process ready for another job like this one; returns when it is, as it takes the slot's cores.

        Raises:
            RunnerUnavailable: If none can be started.
        """
        if spec.python is not None:
            return
        try:
            self._ready(self._kind(spec))
        except KeeperFailed as error:
            raise RunnerUnavailable(f"No runner can be started on this machine: {error}") from error

    def close(self) -> None:
        """End its processes."""
        for keeper in list(self._keepers.values()):
            self._drop(keeper)
        if self._guard:
            self._guard.close()
