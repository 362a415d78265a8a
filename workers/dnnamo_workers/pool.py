"""Celery's pool for a worker: a thread for each slot, since slots only wait for runner processes."""

from typing import Any

from celery.concurrency.thread import TaskPool
from kombu.asynchronous import get_event_loop

__all__ = ["SlotPool", "wake_consumer"]


class SlotPool(TaskPool):  # type: ignore[misc]  # celery has no types
    """Threads, with the worker asking for the next message as soon as one of them is free.

    With `worker_disable_prefetch` the event loop asks the broker for nothing while all threads are busy, and does not
    hear that one has become free: it would ask again after up to a second (celery 5.6, worker/consumer/tasks.py).
    """

    def on_apply(self, *given: Any, **options: Any) -> Any:
        """Hand a message to a thread; wake the event loop when it is done with it."""
        result = super().on_apply(*given, **options)
        result.f.add_done_callback(lambda _: wake_consumer())
        return result


def wake_consumer() -> None:
    """Have the consumer's event loop see what has changed, rather than at the end of its wait; from another thread."""
    loop = get_event_loop()
    if loop is not None:
        loop.call_soon(_nothing)


def _nothing() -> None:
    """Being called is all that it is for."""
