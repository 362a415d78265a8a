"""`worker` and `up`: the verbs that run until they are told to stop."""

import logging
from typing import Annotated

import typer

from dnnamo.cli.output import note
from dnnamo.errors import UsageError
from dnnamo.records import DEVICES, Device

__all__ = ["up", "worker"]

Slots = Annotated[int, typer.Option(help="CPU jobs that run side by side; of GPU jobs it is one a GPU.", min=1)]


def worker(
    queue: Annotated[list[str] | None, typer.Option(help="Queue to serve; may be given again.")] = None,
    slots: Slots = 1,
) -> None:
    """Take jobs from queues until SIGTERM or Ctrl-C; then finish or hand back what runs."""
    from dnnamo.settings import load_settings
    from dnnamo_workers.worker import run_worker

    settings = load_settings()
    if settings.broker is None:
        raise UsageError(
            "A worker needs a broker: set DNNAMO_BROKER_URL to redis://HOST:PORT/DB, or start one with `dnnamo up`. "
            "Without a broker, jobs run in the process that submits them."
        )
    devices = [_device(name) for name in queue or ["cpu"]]
    _log_to_stderr()
    note(f"Serving {', '.join(devices)}. Stop with Ctrl-C.")
    raise typer.Exit(run_worker(settings, devices, slots=slots))


def up(slots: Slots = 1) -> None:
    """Run a local cluster until Ctrl-C: a worker for what this machine has, and Redis if no broker is configured."""
    from contextlib import ExitStack
    from tempfile import TemporaryDirectory

    from pydantic import SecretStr

    from dnnamo.settings import load_settings
    from dnnamo_workers.devices import device_classes
    from dnnamo_workers.redis_server import redis_server
    from dnnamo_workers.worker import run_worker

    settings = load_settings()
    with ExitStack() as running:
        if settings.broker is None:
            from pathlib import Path

            folder = running.enter_context(TemporaryDirectory(prefix="dnnamo-redis-"))
            url = running.enter_context(redis_server(Path(folder)))
            settings = settings.model_copy(update={"broker_url": SecretStr(url)})
        devices = device_classes()
        _log_to_stderr()
        note(f"Serving {', '.join(devices)}. Stop with Ctrl-C. In another terminal:")
        typer.echo(f"export DNNAMO_BROKER_URL={settings.broker}")
        raise typer.Exit(run_worker(settings, devices, slots=slots))


def _device(name: str) -> Device:
    for device in DEVICES:
        if device == name:
            return device
    raise UsageError(f"queue is {name!r}; it must be one of {', '.join(DEVICES)}.")


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # What Celery has to say below that is about hints, not about jobs.
    for name in ("celery", "kombu", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
