"""Profiles from elsewhere: stored in one transaction, by functions that take its connection."""

from collections.abc import Mapping

from sqlalchemy import Connection

from dnnamo.records import JobSpec, Outcome
from dnnamo_storage import life, outcomes, submissions

__all__ = ["IMPORTER", "import_profile"]

IMPORTER = "import"
"""Stands for the worker in the attempts of imported jobs."""

_LEASE_S = 60.0  # ends with the transaction


def import_profile(
    connection: Connection, spec: JobSpec, outcome: Outcome, *, contents: Mapping[str, bytes], key: str | None
) -> int:
    """Store a job that ended with `outcome`, unless one has its key already; return its id.

    It passes through all states of a job, but nobody else sees any of them before the transaction ends.

    Raises:
        UsageError: If the spec holds what a database cannot keep as it is.
    """
    (job_id,), new = submissions.submit(connection, [spec], [key])
    if job_id in new:
        claim = life.claim_next(connection, [spec.device], worker=IMPORTER, lease_s=_LEASE_S, job_id=job_id)
        if claim is None or not outcomes.record(connection, claim, outcome, state="succeeded", contents=contents):
            raise AssertionError("A job that nobody else can see was taken away.")
    return job_id
