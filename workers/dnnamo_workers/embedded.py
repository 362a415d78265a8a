"""No broker: the same claim and the same supervisor, on a thread of the calling process."""

import atexit
import logging
import os
import socket
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from time import monotonic, sleep

from dnnamo.records import DEVICES, Claim, Device
from dnnamo.settings import Settings
from dnnamo_storage import Store
from dnnamo_workers.devices import DeviceBusy, device_classes, plan
from dnnamo_workers.scratch import Scratch
from dnnamo_workers.slots import Slot
from dnnamo_workers.supervisor import LEASE_S, Drain, supervise

__all__ = ["Embedded"]

_PAUSE_S = 0.2
_SAY_AGAIN_S = 30.0

_logger = logging.getLogger(__name__)


class Embedded:
    """Runs jobs one after the other in this process, in the order in which they were launched.

    The interpreter waits for launched jobs before it exits, so a script that submits and ends loses nothing.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._name = f"{socket.gethostname()}:{os.getpid()}:embedded"
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dnnamo-embedded")
        self._launched: dict[int, Future[None]] = {}
        self._slots: dict[Device, Slot] = {}

    def check(self) -> None:
        """Nothing can be out of reach: this process is the worker."""

    def launch(self, job_id: int, device: Device) -> None:
        """Have a queued job run, once; one that somebody else claimed in the meantime is left to them."""
        if job_id not in self._launched:
            self._launched[job_id] = self._thread.submit(self._run, job_id, device)

    def launch_many(self, job_ids: Sequence[int], devices: Sequence[Device]) -> None:
        """Have queued jobs run, each as by `launch`."""
        for job_id, device in zip(job_ids, devices, strict=True):
            self.launch(job_id, device)

    def attend(self, job_id: int, device: Device) -> None:
        """Do for a job that somebody waits for what workers do elsewhere: take back a lost one, run a queued one.

        Raises:
            InfrastructureError: If the job was launched here, and could not be run or recorded.
        """
        future = self._launched.get(job_id)
        if future is None:
            self._store.reap()
            if self._store.job(job_id).state == "queued":
                self.launch(job_id, device)
        elif future.done():
            del self._launched[job_id]  # the next look finds out what became of it
            future.result()

    def _run(self, job_id: int, device: Device) -> None:
        slot = self._slot(device)
        quiet_until = 0.0
        while True:
            try:
                with slot.locked():
                    while claim := self._claim(job_id):  # a crash is tried twice
                        supervise(self._store, claim, slot=slot, drain=Drain())
                    return
            except DeviceBusy as busy:
                if monotonic() >= quiet_until:
                    _logger.warning("job %d waits: %s", job_id, busy)
                    quiet_until = monotonic() + _SAY_AGAIN_S
                sleep(_PAUSE_S)
                if self._store.job(job_id).is_over:  # cancelled meanwhile
                    return

    def _claim(self, job_id: int) -> Claim | None:
        return self._store.claim(DEVICES, worker=self._name, lease_s=LEASE_S, job_id=job_id)

    def _slot(self, device: Device) -> Slot:
        if device not in self._slots:
            # A GPU job where there is no GPU is tried all the same: the model's framework says what is missing.
            served: Device = device if device in device_classes() else "cpu"
            self._slots[device] = Slot(
                plan([served], 1)[0],
                worker=self._name,
                settings=self._settings,
                scratch=self._scratch,
                any_python=True,  # it is this user's own process
            )
        return self._slots[device]

    @cached_property
    def _scratch(self) -> Scratch:
        atexit.register(self._close)  # runs when no thread runs jobs any more
        return Scratch()

    def _close(self) -> None:
        for slot in self._slots.values():
            slot.close()
        self._scratch.close()
