"""The peer of `benchmarks.queue`: a Celery app with a PostgreSQL result backend and a task that does nothing."""

import os

from celery import Celery

app = Celery("bare", broker=os.environ["BARE_BROKER"], backend=os.environ["BARE_BACKEND"])


@app.task
def nothing() -> None:
    """Do nothing."""
