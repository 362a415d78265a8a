"""Where Dnnamo keeps jobs, attempts and results: SQLite or PostgreSQL behind `Store`.

For queries of your own take `Store.engine` and the tables of `dnnamo_storage.schema`.
"""

from dnnamo_storage.artifacts import MAX_ARTIFACT_BYTES
from dnnamo_storage.engine import open_engine
from dnnamo_storage.life import MAX_LOSSES, TRIED_TWICE, Cancellation, Renewal
from dnnamo_storage.migrate import check, upgrade
from dnnamo_storage.schema import SCHEMA_REVISION
from dnnamo_storage.store import Store
from dnnamo_storage.submissions import MAX_TAG_LENGTH

__all__ = [
    "MAX_ARTIFACT_BYTES",
    "MAX_LOSSES",
    "MAX_TAG_LENGTH",
    "SCHEMA_REVISION",
    "TRIED_TWICE",
    "Cancellation",
    "Renewal",
    "Store",
    "check",
    "open_engine",
    "upgrade",
]
