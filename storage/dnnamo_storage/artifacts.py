"""Content-addressed bytes, kept in the database.

Functions take a connection in a transaction; `Store` opens it.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

from sqlalchemy import Connection, func, select

from dnnamo.errors import UsageError
from dnnamo.records import Artifact, Claim
from dnnamo_storage.columns import db_now
from dnnamo_storage.inserts import insert_or_ignore
from dnnamo_storage.schema import artifacts, attempt_artifacts, attempts

__all__ = ["MAX_ARTIFACT_BYTES", "attach", "digest_of", "keep", "of_job", "read", "read_contents", "refuse_too_large"]

MAX_ARTIFACT_BYTES = 512 * 2**20
"""Size of the largest artifact; both databases have their own limit at 1 GB for a row with everything around it."""


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
        data = by_digest[digest]
        row = {"digest": digest, "size": len(data), "data": data, "created": db_now()}
        connection.execute(insert_or_ignore(connection, artifacts).values(row))


def attach(connection: Connection, claim: Claim, named: Sequence[Artifact], contents: Mapping[str, bytes]) -> None:
    """Store the contents and name them as the attempt's."""
    if not named:
        return
    keep(connection, contents.values())
    attempt = {"job_id": claim.job_id, "attempt": claim.attempt}
    connection.execute(
        attempt_artifacts.insert(),
        [{**attempt, "name": a.name, "media_type": a.media_type, "digest": digest_of(contents[a.name])} for a in named],
    )


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
