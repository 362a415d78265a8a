"""The base of the frozen records that cross a process, wire or disk border."""

from typing import Any, Self, cast

import msgspec

__all__ = ["Record"]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all records: frozen, keyword-only, JSON in both directions."""

    def to_json(self) -> bytes:
        """Return this record as UTF-8 JSON."""
        return msgspec.json.encode(self)

    def to_dict(self) -> dict[str, Any]:
        """Return this record as JSON-compatible builtins."""
        return cast("dict[str, Any]", msgspec.to_builtins(self))

    @classmethod
    def from_json(cls, data: bytes | str) -> Self:
        """Return the record that `to_json` wrote; raises `msgspec.ValidationError` for anything else."""
        return msgspec.json.decode(data, type=cls)

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """Return the record that `to_dict` gave; raises `msgspec.ValidationError` for anything else."""
        return msgspec.convert(data, type=cls)
