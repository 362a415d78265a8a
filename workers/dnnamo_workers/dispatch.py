"""Tell the workers, by way of the broker, that there are jobs to claim."""

from typing import TYPE_CHECKING, Any

from dnnamo.records import Device
from dnnamo_storage import Store
from dnnamo_workers.app import BROKER_ERRORS, TASK, queue_name, unavailable

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["dispatch"]

_LEAST_HINTS = 4


def dispatch(store: Store, app: "Celery", device: Device) -> int:
    """Publish hints for a device class, so that as many wait as there are queued jobs, and a few a slot at most.

    It keeps no memory of what it published: it compares the queued jobs in the database with the hints that wait in
    the broker. So it may be called by anyone, at any time, and whatever the broker lost comes back at the next call.
    Called after each submit, after each job, and on a timer in every worker.

    Returns:
        The number of hints published.

    Raises:
        BrokerUnavailable: If the broker does not answer.
        DatabaseUnavailable: If the database does not.
    """
    window = max(_LEAST_HINTS, 2 * _slots(store, device))
    wanted = store.queued(device, limit=window)
    if not wanted:
        return 0
    try:
        with app.pool.acquire(block=True) as connection:
            missing = max(0, wanted - _waiting(connection, queue_name(device)))
            for _ in range(missing):
                app.send_task(TASK, args=[device], queue=queue_name(device), connection=connection, retry=False)
    except BROKER_ERRORS as error:
        raise unavailable(app, error) from error
    return missing


def _slots(store: Store, device: Device) -> int:
    return sum(worker.slots for worker in store.workers() if device in worker.queues)


def _waiting(connection: Any, queue: str) -> int:
    return int(connection.default_channel.client.llen(queue))
