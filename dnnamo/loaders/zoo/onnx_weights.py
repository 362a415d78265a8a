"""Which other files an ONNX file keeps its weights in, read without ONNX: where a job is submitted, it may be missing.

What is read is `onnx/onnx.proto` of onnx/onnx, in the wire format of Protocol Buffers ("Encoding", Google): fields of a
number, a kind, and for most kinds the length of what follows, so that whole weights are passed over.
"""

from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path

__all__ = ["other_files"]

_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_FIXED = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}

# In each message the fields that lead to tensors, by number, with the message that they are.
_LEADS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_KEY, _VALUE = 1, 2

_Field = tuple[int, int, int]
"""Number of a field, and where its content begins and ends; both are 0 for a number."""


class _Broken(Exception):
    """Raised when bytes are no message."""


def other_files(path: Path) -> list[str]:
    """Return the paths of other files that an ONNX file names, as it does; none for what is no ONNX file."""
    if not path.stat().st_size:
        return []
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        try:
            return list(dict.fromkeys(_locations(data, 0, len(data), "model")))
        except (_Broken, UnicodeDecodeError, RecursionError):
            return []


def _locations(data: mmap, begin: int, end: int, message: str) -> Iterator[str]:
    for number, start, stop in _fields(data, begin, end):
        found = _LEADS[message].get(number)
        if found == "entry":
            yield from _location(data, start, stop)
        elif found is not None:
            yield from _locations(data, start, stop, found)


def _location(data: mmap, begin: int, end: int) -> Iterator[str]:
    entry = {number: bytes(data[start:stop]) for number, start, stop in _fields(data, begin, end)}
    if entry.get(_KEY) == b"location":
        yield entry.get(_VALUE, b"").decode()


def _fields(data: mmap, at: int, end: int) -> Iterator[_Field]:
    while at < end:
        key, at = _number(data, at, end)
        kind = key & 7
        if kind == _VARINT:
            _, at = _number(data, at, end)
            yield key >> 3, 0, 0
            continue
        size, at = _number(data, at, end) if kind == _BYTES else (_FIXED.get(kind, end), at)
        if at + size > end:
            raise _Broken
        yield key >> 3, at, at + size
        at += size


def _number(data: mmap, at: int, end: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, the last one below 128, and where the next thing begins."""
    value = shift = 0
    while at < end:
        byte = data[at]
        at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, at
    raise _Broken
