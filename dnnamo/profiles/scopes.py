"""Layers of frameworks that name an operation by its path: the scope that it stands in is its layer."""

__all__ = ["scope_of"]


def scope_of(name: str) -> str | None:
    """Return the scope in an operation's full name, None if it stands in none."""
    return name.rpartition("/")[0] or None
