"""The schema's version: making it, upgrading it, and refusing what this Dnnamo does not know.

Alembic does the work and is imported only for it: 0.3 s that opening a current database must not cost. To write the
next revision, change `schema.py` and `SCHEMA_REVISION`, then let
`alembic.command.revision(config(connection), autogenerate=True)` draft a file in `migrations/versions`.
"""

from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import OperationalError, ProgrammingError

from dnnamo.errors import SchemaMismatch
from dnnamo_storage.engine import describe, reading, writing
from dnnamo_storage.schema import SCHEMA_REVISION, VERSION_TABLE

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = ["check", "config", "prepare", "upgrade"]

_LOCK = 0x646E6E616D6F  # "dnnamo"
_REVISION = text(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608


def prepare(engine: Engine) -> None:
    """Make the schema if the database is empty; otherwise only `check` it.

    Raises:
        SchemaMismatch: If the database is in use with another schema; nothing was touched.
        DatabaseUnavailable: If the database does not answer.
    """
    if not check(engine):
        upgrade(engine)


def check(engine: Engine) -> bool:
    """Return whether the schema is this Dnnamo's; False for an empty database. One query if it is.

    Raises:
        SchemaMismatch: If the database is in use with another schema.
        DatabaseUnavailable: If the database does not answer.
    """
    if _current(engine):
        return True
    with reading(engine) as connection:
        revision = _revision(connection)
        if revision is None:
            return False
        _refuse_unknown(connection, revision)
    if revision == SCHEMA_REVISION:
        return True
    raise SchemaMismatch(
        f"The database {describe(engine.url)} has the schema {revision} of an older Dnnamo; this one needs "
        f"{SCHEMA_REVISION}. Make a copy, stop the workers that use it, and run `dnnamo db upgrade`."
    )


def upgrade(engine: Engine) -> None:
    """Bring an empty or older database to the newest schema; processes that do it at once wait for each other.

    Raises:
        SchemaMismatch: If the tables are another application's or a newer Dnnamo's; nothing was touched.
        DatabaseUnavailable: If the database does not answer.
    """
    with writing(engine) as connection:
        _lock(connection)
        revision = _revision(connection)
        if revision is not None:
            _refuse_unknown(connection, revision)
        if revision != SCHEMA_REVISION:
            _run_migrations(connection)


def _lock(connection: Connection) -> None:
    # SQLite's writing transaction is a lock on the file already.
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def _current(engine: Engine) -> bool:
    try:
        with reading(engine) as connection:
            return bool(connection.scalar(_REVISION) == SCHEMA_REVISION)
    except (OperationalError, ProgrammingError):
        # No such table: the slow path finds out why.
        return False


def _revision(connection: Connection) -> str | None:
    tables = inspect(connection).get_table_names()
    if VERSION_TABLE in tables:
        return str(connection.scalar(_REVISION))
    if not tables:
        return None
    raise SchemaMismatch(
        f"The database {describe(connection.engine.url)} holds somebody else's tables ({', '.join(tables[:3])}). "
        "Nothing was touched; give Dnnamo a database of its own."
    )


def _refuse_unknown(connection: Connection, revision: str) -> None:
    if revision == SCHEMA_REVISION or revision in _known_revisions():
        return
    raise SchemaMismatch(
        f"The database {describe(connection.engine.url)} has the schema {revision}, which this Dnnamo does not know "
        f"(its own is {SCHEMA_REVISION}). A newer Dnnamo made it: install that version here. Nothing was touched."
    )


def _known_revisions() -> set[str]:
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()}


def _run_migrations(connection: Connection) -> None:
    from alembic import command

    command.upgrade(config(connection), "head")


def config(connection: Connection | None = None) -> "Config":
    """Return Alembic's configuration for these migrations, which run in the connection's transaction."""
    from alembic.config import Config

    settings = Config(attributes={"connection": connection})
    settings.set_main_option("script_location", "dnnamo_storage:migrations")
    settings.set_main_option("path_separator", "os")
    return settings
