"""A graph as JSON: the record `dnnamo.graphs.Graph`, field by field."""

from typing import BinaryIO

import msgspec

from dnnamo.graphs.exports import Source

__all__ = ["write"]


def write(source: Source, file: BinaryIO) -> None:
    """Write a graph as one JSON object; `Graph.from_json` reads it."""
    file.write(msgspec.json.format(source.record.to_json(), indent=1))
    file.write(b"\n")
