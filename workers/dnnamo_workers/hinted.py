"""A broker is configured: jobs are run by workers, which are told through it."""

import logging
from collections.abc import Sequence

from dnnamo.errors import BrokerUnavailable
from dnnamo.records import Device
from dnnamo_storage import Store
from dnnamo_workers.app import BROKER_ERRORS, check_broker, make_app
from dnnamo_workers.dispatch import dispatch

__all__ = ["Hinted"]

_logger = logging.getLogger(__name__)


class Hinted:
    """The submitting side of a broker. Thread-safe."""

    def __init__(self, store: Store, broker_url: str) -> None:
        self._store = store
        self._app = make_app(broker_url)

    def check(self) -> None:
        """Raise `BrokerUnavailable` unless the broker answers."""
        if not self._answers():
            check_broker(self._app)

    def _answers(self) -> bool:
        """Return whether the broker answers on a connection that is open already, if one is: a new one takes longer."""
        try:
            with self._app.pool.acquire(block=True) as connection:
                return bool(connection.connected and connection.default_channel.client.ping())
        except (*BROKER_ERRORS, ValueError, TypeError):  # it was closed meanwhile, or its URL makes no sense
            return False

    def launch(self, job_id: int, device: Device) -> None:
        """Publish hints for a stored job's device class."""
        self.launch_many([job_id], [device])

    def launch_many(self, job_ids: Sequence[int], devices: Sequence[Device]) -> None:
        """Publish hints for stored jobs, each with its device class; one round trip a class, however many they are.

        If that fails the jobs wait for the workers' own timers to do it.
        """
        if not job_ids:
            return
        try:
            for device in sorted(set(devices)):
                dispatch(self._store, self._app, device)
        except BrokerUnavailable as error:
            _logger.warning("%s once the broker is back: %s", _stored(job_ids), error)


def _stored(job_ids: Sequence[int]) -> str:
    if len(job_ids) == 1:
        return f"job {job_ids[0]} is stored and queued, and starts"
    return f"{len(job_ids)} jobs from {min(job_ids)} to {max(job_ids)} are stored and queued, and start"
