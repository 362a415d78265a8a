"""Tell the workers, by way of the broker, that there are jobs to claim."""

import time
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from dnnamo.records import Device
from dnnamo_storage import Store
from dnnamo_workers.app import BROKER_ERRORS, queue_name, unavailable
from dnnamo_workers.hints import sign

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["dispatch", "hint_key"]

_LEAST_HINTS = 4

_REPLACE = """
redis.call('UNLINK', KEYS[1])
for _ = 1, tonumber(ARGV[1]) do redis.call('LPUSH', KEYS[1], ARGV[2]) end
"""

_keys: "WeakKeyDictionary[Store, bytes]" = WeakKeyDictionary()


def dispatch(store: Store, app: "Celery", device: Device) -> int:
    """Have as many hints wait for a device class as there are queued jobs, and a few a slot at most.

    It keeps no memory of what it published, and puts fresh hints in place of all that wait. So it may be called by
    anyone, at any time, by many at once; whatever the broker lost or somebody put there is set right at the next call,
    and no hint waits until it expires while there is a worker. (Where there is none, expired hints wait for the first
    one, which drops them and then calls this.) Called after each submit, after each job, and on a timer in every
    worker.

    Returns:
        The number of hints that wait now.

    Raises:
        BrokerUnavailable: If the broker does not answer.
        DatabaseUnavailable: If the database does not.
    """
    wanted = store.queued(device, limit=max(_LEAST_HINTS, 2 * _slots(store, device)))
    if not wanted:
        return 0
    hint = sign(device, hint_key(store), now=time.time())
    try:
        with app.pool.acquire(block=True) as connection:
            # A script, because nobody must see a moment without hints, or two callers' hints together.
            connection.default_channel.client.eval(_REPLACE, 1, queue_name(device), wanted, hint)
    except BROKER_ERRORS as error:
        raise unavailable(app, error) from error
    return wanted


def hint_key(store: Store) -> bytes:
    """Return the key that hints of this database are signed with; it is read once."""
    if store not in _keys:
        _keys[store] = store.hint_key()
    return _keys[store]


def _slots(store: Store, device: Device) -> int:
    return sum(worker.slots for worker in store.workers() if device in worker.queues)
