"""A worker: a Celery consumer with a thread a slot, each of which claims and supervises one job at a time."""

import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from dnnamo.errors import InfrastructureError
from dnnamo.records import Device
from dnnamo.settings import Settings
from dnnamo_storage import Store
from dnnamo_workers.app import TASK, check_broker, make_app, queue_name
from dnnamo_workers.dispatch import dispatch
from dnnamo_workers.supervisor import LEASE_S, Drain, supervise

__all__ = ["run_worker"]

TICK_S = 5.0
"""Seconds between two reports of a worker to the database, each with a reap and a dispatch."""

_JOIN_S = 5.0

_logger = logging.getLogger(__name__)


class _Slots:
    """What the Celery task and the ticking thread of one worker share."""

    def __init__(self, store: Store, app: Any, devices: Sequence[Device], *, slots: int, drain: Drain) -> None:
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._store = store
        self._app = app
        self._devices = list(devices)
        self._slots = slots
        self._drain = drain
        self._ignores_hangup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # as under nohup
        self._stopped = threading.Event()
        self._ticking = threading.Thread(target=self._tick, name="dnnamo-tick", daemon=True)

    def work(self, device: Device) -> None:
        """Take a hint: claim the best queued job of this device class, if there is one, and see it through."""
        if self._drain.has_begun or device not in self._devices:
            return
        try:
            claim = self._store.claim([device], worker=self.name, lease_s=LEASE_S)
            if claim is None:
                return
            supervise(self._store, claim, drain=self._drain)
            dispatch(self._store, self._app, device)
        except InfrastructureError as error:
            # Nothing is lost: the job is queued still, or its lease runs out; the ticking thread dispatches again.
            _logger.warning("%s", error)

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
        """Celery was told to stop."""
        self._drain.begin()

    def _tick(self) -> None:
        while True:
            try:
                self._store.report_worker(self.name, queues=self._devices, slots=self._slots)
                self._store.reap()
                for device in self._devices:
                    dispatch(self._store, self._app, device)
            except InfrastructureError as error:
                _logger.warning("%s", error)
            except Exception:  # whatever it was, a worker that no longer looks after its queues would be worse
                _logger.exception("the worker's look after its queues failed; the next one is in %g s", TICK_S)
            if self._stopped.wait(TICK_S):
                return

    def stop(self) -> None:
        """End the ticking, and with it this worker's place in the database."""
        self._stopped.set()
        if self._ticking.is_alive():
            self._ticking.join(_JOIN_S)  # it may wait for a broker that does not answer
        try:
            self._store.retire_worker(self.name)
        except InfrastructureError as error:
            _logger.warning("%s", error)


def run_worker(settings: Settings, devices: Sequence[Device], *, slots: int) -> int:
    """Serve queues until SIGTERM or SIGINT.

    On the signal no further job is claimed; running ones get `settings.drain_s` seconds to end and are then handed
    back for other workers.

    Returns:
        The exit code, 0 after a drain.

    Raises:
        InfrastructureError: If database or broker do not answer at the start. Later on they may go away and come back.
    """
    from celery import signals  # not above, where it would come before `app`, which says how to install it

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)  # until Celery puts its own handlers there
    app = make_app(settings.broker or "", devices)
    with Store.open(settings.database) as store:
        check_broker(app)
        drain = Drain(limit_s=settings.drain_s)
        shared = _Slots(store, app, devices, slots=slots, drain=drain)
        app.task(name=TASK)(shared.work)
        signals.setup_logging.connect(_leave_logging_alone)
        signals.worker_ready.connect(shared.on_ready)
        signals.worker_shutting_down.connect(shared.on_shutdown)
        try:
            return _consume(app, devices, slots)
        finally:
            shared.stop()


def _exit(*_: object) -> NoReturn:
    sys.exit(0)


def _leave_logging_alone(**_: object) -> None:
    """Keep Celery from configuring the root logger, which it does unless somebody listens here."""


def _consume(app: Any, devices: Sequence[Device], slots: int) -> int:
    from celery.platforms import SecurityWarning

    # It tells root to use an option that `dnnamo worker` does not have; the images run as another user.
    warnings.simplefilter("ignore", SecurityWarning)
    worker = app.Worker(
        # Threads: the slots only wait for runner processes, and a pool process would be one more thing to lose.
        pool="threads",
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
