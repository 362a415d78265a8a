"""What a profile can be written as, for viewers and tools of others.

An exporter is a function that writes the event table of a profile to a file that is open for bytes. Other packages add
theirs under the entry-point group `dnnamo.exporters`, as `name = "package.module:function"`.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, BinaryIO, cast

from dnnamo.errors import UsageError
from dnnamo.plugins import installed
from dnnamo.profiles.events import Events

__all__ = ["Exporter", "exporter", "exporters", "suffix"]

Exporter = Callable[[Events, Mapping[str, Any], BinaryIO], None]
"""Writes a linked table, with what belongs to its profile as a whole, to a file."""

_BUILT_IN = {
    "chrome": "dnnamo.profiles.exports.chrome:write",
    "perfetto": "dnnamo.profiles.exports.chrome:write",
    "speedscope": "dnnamo.profiles.exports.speedscope:write",
    "parquet": "dnnamo.profiles.exports.tables:write_parquet",
    "folded": "dnnamo.profiles.exports.folded:write",
    "csv": "dnnamo.profiles.exports.tables:write_csv",
}

# What viewers look for at the end of a name; TensorBoard's plug-in lists no other files than these.
_SUFFIXES = {"chrome": "pt.trace.json.gz", "perfetto": "pt.trace.json.gz", "speedscope": "speedscope.json"}


def exporters() -> dict[str, str]:
    """Return where each exporter is found, by name."""
    return {**installed("dnnamo.exporters"), **_BUILT_IN}


def exporter(name: str) -> Exporter:
    """Return the exporter of this name.

    Raises:
        UsageError: If there is none.
    """
    known = exporters()
    if name not in known:
        raise UsageError(f"A profile cannot be exported to {name!r}; it can be to one of {', '.join(known)}.")
    module, _, function = known[name].partition(":")
    return cast("Exporter", getattr(import_module(module), function))


def suffix(name: str) -> str:
    """Return how the name of a file ends that this exporter writes; with `.gz` at its end it is to be gzipped."""
    return _SUFFIXES.get(name, name)
