"""A worker: a Celery consumer with slots, each of which claims and supervises one job at a time."""

import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from time import monotonic
from typing import Any, NoReturn

from dnnamo.errors import InfrastructureError
from dnnamo.records import Device
from dnnamo.runner.keeper import become_subreaper
from dnnamo.runner.proc import children_of
from dnnamo.settings import Settings
from dnnamo_storage import Store
from dnnamo_workers.app import check_broker, make_app, queue_name, serve
from dnnamo_workers.devices import DeviceBusy, DeviceLost, plan
from dnnamo_workers.dispatch import dispatch, hint_key
from dnnamo_workers.keeper import end_orphans
from dnnamo_workers.pool import wake_consumer
from dnnamo_workers.scratch import Scratch
from dnnamo_workers.slots import Slot
from dnnamo_workers.supervisor import LEASE_S, Drain, supervise

__all__ = ["run_worker"]

TICK_S = 5.0
"""Seconds between two reports of a worker to the database, each with a reap, a dispatch and a look for jobs."""

_JOIN_S = 5.0
_PR_SET_DUMPABLE = 4

_logger = logging.getLogger(__name__)


class _Worker:
    """What the Celery task and the ticking thread of one worker share."""

    def __init__(
        self, name: str, store: Store, app: Any, devices: Sequence[Device], slots: Sequence[Slot], drain: Drain
    ) -> None:
        self._name = name
        self._store = store
        self._app = app
        self._devices = list(devices)
        self._slots = list(slots)
        self._free = list(slots)
        self._taking = threading.Lock()
        self._drain = drain
        self._running: dict[Slot, int] = {}
        self._looking: list[threading.Thread] = []
        self._set_aside: dict[Slot, str] = {}
        self._busy: dict[Slot, str] = {}
        self._polled = monotonic()
        self._children = children_of(os.getpid())
        self._ignores_hangup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # as under nohup
        self._stopped = threading.Event()
        self._ticking = threading.Thread(target=self._tick, name="dnnamo-tick", daemon=True)

    def work(self, device: Device) -> None:
        """Take a hint: see to the queued jobs of a device class, one after the other, if a slot is free for them."""
        slot = self._take(device)
        if slot is None:
            return
        try:
            while not self._drain.has_begun and self._run_next(slot):
                pass
        except DeviceBusy as busy:
            self._busy[slot] = str(busy)
        except InfrastructureError as error:
            # Nothing is lost: the job is queued still, or its lease runs out; the ticking thread looks again.
            _logger.warning("%s", error)
        except DeviceLost as lost:
            _logger.error("%s is set aside: %s", slot.place, lost)  # noqa: TRY400 (where it was raised says nothing)
            self._set_aside[slot] = str(lost)
        finally:
            self._give_back(slot)

    def _take(self, device: Device) -> Slot | None:
        with self._taking:
            slot = next((slot for slot in self._free if slot.place.device == device), None)
            if slot is not None:
                self._free.remove(slot)
            return slot

    def _give_back(self, slot: Slot) -> None:
        with self._taking:
            if slot not in self._set_aside:
                self._free.append(slot)

    def _run_next(self, slot: Slot) -> bool:
        """Run the best queued job of the slot's device class to its end; return False if there is none."""
        with slot.locked():
            self._busy.pop(slot, None)
            self._polled = monotonic()
            claim = self._store.claim([slot.place.device], worker=self._name, lease_s=LEASE_S)
            if claim is None:
                return False
            self._running[slot] = claim.job_id
            try:
                supervise(self._store, claim, slot=slot, drain=self._drain)
            finally:
                del self._running[slot]
            slot.get_ready(claim.spec)
        return True

    def on_ready(self, **_: object) -> None:
        """Celery consumes now: be listed as a worker, and look after the queues from time to time."""
        # Celery ends with code 1 on SIGINT, leaves running jobs behind on a second one and on SIGQUIT, and starts anew
        # on SIGHUP.
        stop = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGQUIT, stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if self._ignores_hangup else stop)
        self._ticking.start()

    def on_shutdown(self, **_: object) -> None:
        """Celery was told to stop, by a signal that came while its event loop waited, perhaps."""
        self._drain.begin()
        threading.Thread(target=wake_consumer).start()

    def _tick(self) -> None:
        while True:
            try:
                self._look_after_queues()
            except InfrastructureError as error:
                _logger.warning("%s", error)
            except Exception:  # whatever it was, a worker that no longer looks after its queues would be worse
                _logger.exception("the worker's look after its queues failed; the next one is in %g s", TICK_S)
            if self._stopped.wait(TICK_S):
                return

    def _look_after_queues(self) -> None:
        end_orphans(self._children)
        self._report()
        self._store.reap()
        for device in self._devices:
            self._look_for_jobs(device)
            dispatch(self._store, self._app, device)

    def _look_for_jobs(self, device: Device) -> None:
        """Do what hints would do: a worker that gets none, as the broker is away, works all the same."""
        self._looking = [thread for thread in self._looking if thread.is_alive()]
        queued = self._store.queued(device, limit=self._idle(device))
        if not queued:
            self._polled = monotonic()
        for _ in range(queued):
            thread = threading.Thread(target=self.work, args=[device], name=f"dnnamo-{device}")
            thread.start()
            self._looking.append(thread)

    def _idle(self, device: Device) -> int:
        if self._drain.has_begun:
            return 0
        with self._taking:
            return sum(slot.place.device == device for slot in self._free)

    def _report(self) -> None:
        with self._taking:
            if not self._free:  # it looks for no job because it has enough
                self._polled = monotonic()
        self._store.report_worker(
            self._name,
            queues=self._devices,
            slots=len(self._slots) - len(self._set_aside),
            devices=[str(slot.place) for slot in self._slots],
            busy=list(self._busy.copy().values()),
            set_aside=list(self._set_aside.values()),
            jobs=sorted(self._running.copy().values()),
            idle_s=monotonic() - self._polled,
        )

    def stop(self) -> None:
        """End the ticking, and with it this worker's place in the database; jobs end within the drain's limit."""
        self._drain.begin()
        self._stopped.set()
        if self._ticking.is_alive():
            self._ticking.join(_JOIN_S)  # it may wait for a broker that does not answer
        for thread in self._looking:
            thread.join()
        try:
            self._store.retire_worker(self._name)
        except InfrastructureError as error:
            _logger.warning("%s", error)


def run_worker(settings: Settings, devices: Sequence[Device], *, slots: int) -> int:
    """Serve queues until SIGTERM or SIGINT.

    On the signal no further job is claimed; running ones get `settings.drain_s` seconds to end and are then handed
    back for other workers.

    Args:
        settings: Database, broker, and what jobs may do.
        devices: Device classes to serve.
        slots: Jobs of class `cpu` that run side by side, each on cores of its own. Of class `gpu` it is one a GPU.

    Returns:
        The exit code, 0 after a drain.

    Raises:
        UsageError: If the machine does not have the devices.
        InfrastructureError: If database or broker do not answer at the start. Later on they may go away and come back.
    """
    from celery import signals  # not above, where it would come before `app`, which says how to install it

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)  # until Celery puts its own handlers there
    _seclude()
    places = plan(devices, slots)
    app = make_app(settings.broker or "")
    name = f"{socket.gethostname()}:{os.getpid()}"
    with ExitStack() as opened:
        store = opened.enter_context(Store.open(settings.database))
        check_broker(app)
        scratch = Scratch()
        opened.callback(scratch.close)
        drain = Drain(limit_s=settings.drain_s)
        own = [Slot(place, worker=name, settings=settings, scratch=scratch) for place in places]
        for slot in own:
            opened.callback(slot.close)
        worker = _Worker(name, store, app, devices, own, drain)
        opened.callback(worker.stop)
        serve(app, devices, worker.work, key=hint_key(store))
        signals.setup_logging.connect(_leave_logging_alone)
        signals.worker_ready.connect(worker.on_ready)
        signals.worker_shutting_down.connect(worker.on_shutdown)
        return _consume(app, devices, len(own))


def _seclude() -> None:
    """Inherit what killed keepers leave, and keep this process's memory and environment from jobs of the same user."""
    become_subreaper()
    # Then /proc/PID/environ, which has the passwords, and /proc/PID/mem belong to root; see prctl(2).
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _exit(*_: object) -> NoReturn:
    sys.exit(0)


def _leave_logging_alone(**_: object) -> None:
    """Keep Celery from configuring the root logger, which it does unless somebody listens here."""


def _consume(app: Any, devices: Sequence[Device], slots: int) -> int:
    from celery.platforms import SecurityWarning

    # It tells root to use an option that `dnnamo worker` does not have; the images run as another user.
    warnings.simplefilter("ignore", SecurityWarning)
    worker = app.Worker(
        pool="dnnamo_workers.pool:SlotPool",
        concurrency=slots,
        queues=[queue_name(device) for device in devices],
        loglevel="WARNING",
        quiet=True,
        # Gossip, mingle and heartbeat talk over remote control, which is off.
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()
    return int(worker.exitcode or 0)
