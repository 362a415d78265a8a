"""What the database says happened, read by plain SQL: the code under test has no part in it."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
from sqlalchemy import make_url

__all__ = ["Attempt", "History", "Job", "Result", "read_history", "select"]


@dataclass(frozen=True)
class Job:
    """A row of `jobs`; `number` is the one that the test gave it, times are seconds since 1970."""

    id: int
    number: int | None
    state: str
    cause: str | None
    attempt: int
    created: float
    ended: float | None


@dataclass(frozen=True)
class Attempt:
    """A row of `attempts`."""

    job_id: int
    number: int
    worker: str
    state: str
    cause: str | None
    started: float
    ended: float | None


@dataclass(frozen=True)
class Result:
    """A row of `results`; `run` is the execution that returned it."""

    job_id: int
    attempt: int
    run: int | None


@dataclass(frozen=True)
class History:
    """All rows, attempts by job and number."""

    jobs: Sequence[Job]
    attempts: Sequence[Attempt]
    results: Sequence[Result]


def read_history(url: str) -> History:
    """Return everything that a database holds on jobs, as of one moment."""
    jobs, attempts, results = select(
        url,
        "SELECT id, params, state, cause, attempt, created, ended FROM jobs ORDER BY id",
        "SELECT job_id, number, worker, state, cause, started, ended FROM attempts ORDER BY job_id, number",
        "SELECT job_id, attempt, final_loss FROM results ORDER BY job_id",
    )
    return History(
        jobs=[Job(row[0], _number(row[1]), *row[2:5], *map(_seconds, row[5:])) for row in jobs],
        attempts=[Attempt(*row[:5], *map(_seconds, row[5:])) for row in attempts],
        results=[Result(*row[:2], None if row[2] is None else int(row[2])) for row in results],
    )


def select(url: str, *queries: str) -> list[list[tuple[Any, ...]]]:
    """Return the rows of each query, all as of one moment."""
    parsed = make_url(url)
    if parsed.drivername.startswith("sqlite"):
        with closing(sqlite3.connect(f"file:{parsed.database}?mode=ro", uri=True, isolation_level=None)) as file:
            file.execute("BEGIN")
            return [file.execute(query).fetchall() for query in queries]
    plain = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, connect_timeout=10) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        return [connection.execute(query.encode()).fetchall() for query in queries]


def _number(params: Any) -> int | None:
    given = json.loads(params) if isinstance(params, str) else params
    number: int | None = given.get("number")
    return number


def _seconds(time: Any) -> float | None:
    if isinstance(time, str):  # SQLite, in UTC
        return datetime.fromisoformat(time).replace(tzinfo=UTC).timestamp()
    return None if time is None else float(time.timestamp())
