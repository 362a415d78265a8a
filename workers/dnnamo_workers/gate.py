"""What a worker lets in from the broker: hints that verify, and of those nothing but the device class.

A Celery message says much more than what to call: when, what to call afterwards, how to decode and decompress it.
Celery believes all of it, and ends at what it cannot read. So a worker's queue holds bare hints; where one is read
from Redis it is verified, and the message that Celery gets to see is made here. Anything else is dropped there.
"""

import json
import logging
import time
import uuid
from collections.abc import Mapping
from typing import Any

from celery.app.amqp import AMQP
from kombu import Connection
from kombu.transport import redis

from dnnamo.records import Device
from dnnamo_workers.hints import verify

__all__ = ["Amqp", "Gate"]

_QUIET_S = 60.0
"""Seconds between two log lines about what was dropped, as there may be any amount of it."""

_logger = logging.getLogger(__name__)


class Gate:
    """Turns what lies in a queue into the task's message, or into nothing. For one thread.

    Args:
        task: Name of the task.
        key: The database's key for hints.
        queues: Queues by device class.
    """

    def __init__(self, task: str, key: bytes, queues: Mapping[Device, str]) -> None:
        self._task = task
        self._key = key
        self._queues = queues
        self._dropped = 0
        self._quiet_until = float("-inf")

    def admit(self, queue: str, item: bytes) -> bytes | None:
        """Return the message for a hint from a queue, as Redis would hold it; None for anything else."""
        device = verify(item, self._key, now=time.time())
        if device is None or self._queues.get(device) != queue:
            self._drop(queue)
            return None
        return self._message(device, queue)

    def _message(self, device: Device, queue: str) -> bytes:
        tag = uuid.uuid4().hex
        return json.dumps(
            {
                "headers": {"task": self._task, "id": tag},
                "content-type": "application/json",
                "content-encoding": "utf-8",
                "body": json.dumps([[device], {}, {}]),
                "properties": {"delivery_tag": tag, "delivery_info": {"exchange": "", "routing_key": queue}},
            }
        ).encode()

    def _drop(self, queue: str) -> None:
        self._dropped += 1
        if time.monotonic() < self._quiet_until:
            return
        _logger.warning(
            "dropped from the queue %s: %d that were no hints of this database, or hints that had expired; nothing is "
            "lost, as hints of queued jobs are made again",
            queue,
            self._dropped,
        )
        self._dropped = 0
        self._quiet_until = time.monotonic() + _QUIET_S


class _Channel(redis.Channel):  # type: ignore[misc]  # kombu has no types
    """Reads queues through the gate that the connection's transport options name, if they do."""

    from_transport_options = (*redis.Channel.from_transport_options, "gate")
    do_restore = False  # a hint that was taken and not looked at is made again
    gate: Gate | None = None

    def close(self) -> None:
        """Close without a wait for the answer to a read that is under way, which would take up to a second."""
        self._in_poll = False
        super().close()

    def _create_client(self, asynchronous: bool = False) -> Any:
        client = super()._create_client(asynchronous)
        if self.gate is not None:
            client.set_response_callback("BRPOP", self._admit)
        return client

    def _admit(self, response: list[bytes] | None, **_: object) -> tuple[bytes, bytes] | None:
        """Return the reply with the message in place of the hint; None, as if nothing had come, for what is no hint."""
        if response is None or self.gate is None:
            return None
        queue, item = response
        message = self.gate.admit(queue.decode(errors="replace"), item)
        return None if message is None else (queue, message)


class _Transport(redis.Transport):  # type: ignore[misc]
    Channel = _Channel


class _Connection(Connection):  # type: ignore[misc]
    def get_transport_cls(self) -> type[_Transport]:
        """Return the same for every form of a Redis URL."""
        return _Transport


class Amqp(AMQP):  # type: ignore[misc]
    """Celery's way to the broker, for an app whose transport options may name a `gate`."""

    Connection = _Connection
