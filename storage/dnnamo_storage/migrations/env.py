"""What Alembic runs: the migrations, in the transaction of the connection that `dnnamo_storage.migrate` hands over."""

from alembic import context

from dnnamo_storage.schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    # SQLite changes a column by copying its table.
    render_as_batch=True,
)
context.run_migrations()
