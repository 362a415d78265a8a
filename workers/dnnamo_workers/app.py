"""The Celery app: what is set, and why.

Celery carries hints and nothing else. A hint says "there may be work for this device class" and has no other content:
whoever takes it asks the database for the best queued job. So a hint that is lost, doubled, or reordered can delay work
or find none, and that is all it can do. Whatever else lies in a queue never reaches Celery, see `gate`.
"""

from collections.abc import Callable, Iterable

from dnnamo.errors import BrokerUnavailable, MissingExtra, UsageError
from dnnamo.records import Device
from dnnamo.settings import masked

try:
    from celery import Celery
    from kombu import Queue
    from kombu.exceptions import OperationalError
    from redis.exceptions import RedisError

    from dnnamo_workers.gate import Amqp, Gate
except ModuleNotFoundError as error:
    raise MissingExtra("Celery with Redis", extra="worker") from error

__all__ = ["BROKER_ERRORS", "TASK", "check_broker", "make_app", "queue_name", "serve", "unavailable"]

TASK = "dnnamo.work"
"""Name of the one task; its one argument is the device class."""

BROKER_ERRORS = (OperationalError, RedisError)
"""What is raised when the broker does not do what it is asked: by kombu for messages, by the client for the rest."""

_SETTINGS = {
    # JSON only: a message can never be made to run code while it is read.
    "accept_content": ["json"],
    "task_serializer": "json",
    # The database holds results. A result backend would leak keys and be a second truth.
    "result_backend": None,
    "task_ignore_result": True,
    # Acknowledge before running: the lease recovers a lost attempt. A late acknowledgement has the broker deliver
    # long jobs a second time after its visibility timeout (celery#5935).
    "task_acks_late": False,
    # A job that kills its worker would come back for ever (celery#6103); attempts are counted in the database.
    "task_reject_on_worker_lost": False,
    # A hint waits in the broker until a slot is free, not in a busy worker (celery#1933, #6500).
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
    # Logging and standard output stay as the process set them up.
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
    # Remote control would let whoever writes to the broker stop workers and cancel tasks.
    "worker_enable_remote_control": False,
    "worker_send_task_events": False,
    # This touches late-acknowledged tasks alone, of which there are none; leaving it out warns at each lost connection.
    "worker_cancel_long_running_tasks_on_connection_loss": True,
    # The broker may come back at any time; no restart is needed.
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    # Neither does it end a worker that the broker refuses something, as when it holds something else under a queue's
    # name; the next dispatch puts that right.
    "broker_channel_error_retry": True,
}

# Notice a connection that is dead without a word, instead of waiting on it deaf (celery#8030).
_CONNECTION = {
    "health_check_interval": 10,
    "socket_keepalive": True,
    "socket_connect_timeout": 5,
    # A hint is gone once it was read: nothing is kept in Redis to be delivered a second time.
    "ack_emulation": False,
    # Read from the queue itself and not from nine more, one for each priority.
    "priority_steps": [0],
}

_SUBMITTER_TIMEOUT_S = 5
_WORKER_TIMEOUT_S = 30
"""Longer than a worker's wait for the next hint, which is a read like any other."""


def queue_name(device: Device) -> str:
    """Return the Celery queue of a device class."""
    return f"dnnamo.{device}"


def make_app(broker_url: str) -> "Celery":
    """Return an app on a broker, to publish hints with.

    Raises:
        UsageError: If the URL is not one of a Redis server, the only broker whose failure modes Dnnamo knows.
    """
    if not broker_url.startswith(("redis://", "rediss://", "redis+socket://")):
        raise UsageError(
            f"The broker {masked(broker_url)} is no Redis. Set DNNAMO_BROKER_URL to redis://HOST:PORT/DB, or unset it "
            "to run jobs in the calling process."
        )
    app = Celery("dnnamo", broker=broker_url, set_as_current=False, amqp=Amqp)
    # A submit does not wait long for a broker: workers publish hints too.
    options = {**_CONNECTION, "socket_timeout": _SUBMITTER_TIMEOUT_S, "max_retries": 1, "interval_start": 0.2}
    app.conf.update(_SETTINGS, broker_transport_options=options)
    return app


def serve(app: "Celery", devices: Iterable[Device], work: Callable[[Device], None], *, key: bytes) -> None:
    """Have a worker with this app consume the queues of device classes, and call `work` for each hint.

    Args:
        app: As `make_app` returns it, with no connection open yet.
        devices: Device classes to serve.
        work: The only task there is then: Celery's own, which call others (chain, group, chord), are taken out.
        key: The database's key for hints.
    """
    queues = {device: queue_name(device) for device in devices}
    app.conf.task_queues = [Queue(name) for name in queues.values()]
    gate = Gate(TASK, key, queues)
    app.conf.broker_transport_options = {**_CONNECTION, "socket_timeout": _WORKER_TIMEOUT_S, "gate": gate}
    app.finalize()  # adds Celery's own tasks, now and never again
    app.tasks.clear()
    app.task(name=TASK, shared=False)(work)


def check_broker(app: "Celery") -> None:
    """Ask the broker for an answer.

    Raises:
        BrokerUnavailable: If there is none.
        UsageError: If its URL cannot be read.
    """
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0.2, timeout=5)
            # Redis answers a connect before it looks at the password; asking something settles it.
            connection.default_channel.client.ping()
    except BROKER_ERRORS as error:
        raise unavailable(app, error) from error
    except (ValueError, TypeError):
        # Without the cause, which may quote a part of the password.
        raise UsageError(
            f"The broker {masked(app.conf.broker_url)} cannot be read as redis://:PASSWORD@HOST:PORT/DB. Quote special "
            "characters of the password (%2F for a slash, %3F for a question mark)."
        ) from None


def unavailable(app: "Celery", error: Exception) -> BrokerUnavailable:
    """Return the error for a broker that does not answer, its URL without the password."""
    why = str(error).rstrip(".")
    return BrokerUnavailable(
        f"The broker {masked(app.conf.broker_url)} does not answer: {why}. Start Redis there, set "
        "DNNAMO_BROKER_URL to where it is, or unset it to run jobs in the calling process."
    )
