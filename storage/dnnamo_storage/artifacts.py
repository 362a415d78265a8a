"""Content-addressed bytes, kept in the database.

Functions take a connection in a transaction; `Store` opens it.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Connection, FromClause, bindparam, func, select, true

from dnnamo.errors import UsageError
from dnnamo.records import Artifact
from dnnamo_storage.columns import db_now, dump_json
from dnnamo_storage.inserts import ELEMENTS, Insert, Step, elements, insert_into, insert_or_ignore
from dnnamo_storage.life import Writes
from dnnamo_storage.schema import artifacts, attempt_artifacts, attempts

__all__ = [
    "MAX_ARTIFACT_BYTES",
    "attachment",
    "digest_of",
    "keep",
    "of_job",
    "read",
    "read_contents",
    "refuse_too_large",
]

MAX_ARTIFACT_BYTES = 512 * 2**20
"""Size of the largest artifact; both databases have their own limit at 1 GB for a row with everything around it."""

_SMALL_BYTES = {"postgresql": 64 * 2**10}
"""Size up to which to send bytes that are there already costs less than to ask whether they are; none go to SQLite."""


def digest_of(data: bytes) -> str:
    """Return the SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def read_contents(named: Sequence[Artifact], files: Mapping[str, bytes | Path]) -> dict[str, bytes]:
    """Return the bytes of each artifact by its name.

    Raises:
        UsageError: If `files` does not hold exactly the named ones, a name comes twice, or one is too large.
        OSError: If a file cannot be read.
    """
    names = [artifact.name for artifact in named]
    if sorted(names) != sorted(files):
        raise UsageError(f"An outcome names the artifacts {sorted(names)}, but the files given are {sorted(files)}.")
    return {name: _read_content(name, files[name]) for name in names}


def _read_content(name: str, content: bytes | Path) -> bytes:
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    refuse_too_large(name, size)
    return content if isinstance(content, bytes) else content.read_bytes()


def refuse_too_large(name: str, size: int) -> None:
    """Raise UsageError if an artifact of this size cannot be kept."""
    if size > MAX_ARTIFACT_BYTES:
        raise UsageError(f"The artifact {name} has {size} bytes; the database keeps at most {MAX_ARTIFACT_BYTES}.")


def keep(connection: Connection, contents: Iterable[bytes]) -> None:
    """Store what is not there yet."""
    by_digest = {digest_of(data): data for data in contents}
    known = set(connection.scalars(select(artifacts.c.digest).where(artifacts.c.digest.in_(by_digest))))
    # Sorted, because two transactions that insert the same rows in different orders wait for each other for ever.
    for digest in sorted(by_digest.keys() - known):
        row = {"digest": digest, "size": len(by_digest[digest]), "data": by_digest[digest]}
        connection.execute(insert_or_ignore(connection.dialect.name, artifacts), row)


def large(connection: Connection, contents: Iterable[bytes]) -> list[bytes]:
    """Return those that are better kept one by one."""
    return [data for data in contents if not _is_small(connection, data)]


def _is_small(connection: Connection, data: bytes) -> bool:
    return len(data) <= _SMALL_BYTES.get(connection.dialect.name, len(data))


def attachment(connection: Connection, named: Sequence[Artifact], contents: Mapping[str, bytes]) -> Writes:
    """Return what names the contents as the attempt's, and stores all but the large ones."""
    if not named:
        return {}
    dialect = connection.dialect.name
    small = {digest_of(data): data for data in contents.values() if _is_small(connection, data)}
    rows = [[artifact.name, artifact.media_type, digest_of(contents[artifact.name])] for artifact in named]
    return {
        **{_store(dialect, n): _numbered(n, *item) for n, item in enumerate(sorted(small.items()))},
        _attach(dialect): {ELEMENTS: dump_json(rows)},
    }


def _numbered(number: int, digest: str, data: bytes) -> dict[str, Any]:
    row = {"digest": digest, "size": len(data), "data": data}
    return {f"artifact_{number}_{name}": value for name, value in row.items()}


@lru_cache
def _store(dialect: str, number: int) -> Step:
    columns = [artifacts.c.digest, artifacts.c.size, artifacts.c.data]
    values = [bindparam(f"artifact_{number}_{column.name}", type_=column.type) for column in columns]

    def step(attempt: FromClause) -> Insert:
        chosen = select(*values, db_now()).select_from(attempt).where(true())
        return (
            insert_into(dialect, artifacts)
            .from_select([*columns, artifacts.c.created], chosen)
            .on_conflict_do_nothing()
        )

    return step


@lru_cache
def _attach(dialect: str) -> Step:
    def step(attempt: FromClause) -> Insert:
        row = elements(dialect)
        values = {
            "job_id": attempt.c.id,
            "attempt": attempt.c.attempt,
            **{name: row.c.value[(n,)].as_string() for n, name in enumerate(("name", "media_type", "digest"))},
        }
        chosen = select(*values.values()).join_from(attempt, row, true())
        return insert_into(dialect, attempt_artifacts).from_select(list(values), chosen)

    return step


def of_job(connection: Connection, job_id: int) -> list[Artifact]:
    """Return the artifacts of the job's last ended attempt, sorted by name."""
    last = select(func.max(attempts.c.number)).where(attempts.c.job_id == job_id, attempts.c.ended.is_not(None))
    rows = connection.execute(
        select(attempt_artifacts.c.name, attempt_artifacts.c.media_type, artifacts.c.digest, artifacts.c.size)
        .join(artifacts, artifacts.c.digest == attempt_artifacts.c.digest)
        .where(attempt_artifacts.c.job_id == job_id, attempt_artifacts.c.attempt == last.scalar_subquery())
        .order_by(attempt_artifacts.c.name)
    )
    return [Artifact(**row) for row in rows.mappings()]


def read(connection: Connection, digest: str) -> bytes:
    """Return the bytes of an artifact.

    Raises:
        UsageError: If there is none with this digest.
    """
    data = connection.scalar(select(artifacts.c.data).where(artifacts.c.digest == digest))
    if data is None:
        raise UsageError(f"There is no artifact {digest!r} in this database.")
    return cast("bytes", data)
