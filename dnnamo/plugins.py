"""Plug-ins of other packages: what is registered under an entry-point group, as name -> lazy import path."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points

__all__ = ["installed"]


@cache  # to look through all installed packages takes as long as a whole small job
def installed(group: str) -> Mapping[str, str]:
    """Return the plug-ins of a group; looked up once a process, so that forked runners find it done."""
    return {entry.name: entry.value for entry in entry_points(group=group)}
