"""A broker is configured: jobs are run by workers, which are told through it."""

import logging

from dnnamo.errors import BrokerUnavailable
from dnnamo.records import Device
from dnnamo_storage import Store
from dnnamo_workers.app import check_broker, make_app
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
        check_broker(self._app)

    def launch(self, job_id: int, device: Device) -> None:
        """Publish hints for a device class. If that fails the job waits for the workers' own timers to do it."""
        try:
            dispatch(self._store, self._app, device)
        except BrokerUnavailable as error:
            _logger.warning("job %d is stored and queued, and starts once the broker is back: %s", job_id, error)

    def attend(self, job_id: int, device: Device) -> None:
        """Nothing to do for a job that workers run."""
