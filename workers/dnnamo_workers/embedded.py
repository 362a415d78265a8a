"""No broker: the same claim and the same supervisor, on a thread of the calling process."""

import os
import socket
from concurrent.futures import Future, ThreadPoolExecutor

from dnnamo.records import DEVICES, Device
from dnnamo_storage import Store
from dnnamo_workers.supervisor import LEASE_S, Drain, supervise

__all__ = ["Embedded"]


class Embedded:
    """Runs jobs one after the other in this process, in the order in which they were launched.

    The interpreter waits for launched jobs before it exits, so a script that submits and ends loses nothing.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        store.reap()  # no worker does it here
        self._name = f"{socket.gethostname()}:{os.getpid()}:embedded"
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dnnamo-embedded")
        self._launched: dict[int, Future[None]] = {}

    def check(self) -> None:
        """Nothing can be out of reach: this process is the worker."""

    def launch(self, job_id: int, device: Device) -> None:
        """Have a queued job run, once; one that somebody else claimed in the meantime is left to them."""
        if job_id not in self._launched:
            self._launched[job_id] = self._thread.submit(self._run, job_id)

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

    def _run(self, job_id: int) -> None:
        claim = self._store.claim(DEVICES, worker=self._name, lease_s=LEASE_S, job_id=job_id)
        if claim is not None:
            supervise(self._store, claim, drain=Drain())
