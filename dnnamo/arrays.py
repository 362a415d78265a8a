"""Arrays by name in safetensors files, in all types that frameworks compute in; nothing in such a file is code.

The format (github.com/huggingface/safetensors) is the length of a header as eight bytes, little-endian, the header as
JSON, then the arrays' bytes without gaps. Types that NumPy lacks, such as bfloat16, are those of `ml_dtypes`.
"""

import json
from collections.abc import Iterable, Mapping
from io import BytesIO
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, BinaryIO, NamedTuple, Self

import ml_dtypes
import msgspec
import numpy as np

__all__ = ["Array", "ArrayFileError", "ArrayWriter", "Entry", "entries", "packed", "read_arrays", "write_arrays"]

Array = np.ndarray[Any, Any]
Source = bytes | str | PathLike[str]

_BY_NAME: dict[str, np.dtype[Any]] = {
    name: np.dtype(kind)
    for name, kind in {
        "BOOL": np.bool_,
        "U8": np.uint8,
        "I8": np.int8,
        "U16": np.uint16,
        "I16": np.int16,
        "U32": np.uint32,
        "I32": np.int32,
        "U64": np.uint64,
        "I64": np.int64,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "F32": np.float32,
        "F64": np.float64,
        "C64": np.complex64,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    }.items()
}
_METADATA = "__metadata__"
_PIECE = 1 << 20
_NAMES = {kind: name for name, kind in _BY_NAME.items()}


class ArrayFileError(ValueError):
    """Raised when a file is no safetensors file, or an array is of a type that such files do not hold."""


class Entry(NamedTuple):
    """One array of a file.

    Attributes:
        name: What it is found by.
        dtype: Type of its numbers.
        shape: Length of each axis.
        begin: Where its bytes begin, from the end of the header.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def write_arrays(path: str | PathLike[str], arrays: Mapping[str, Array]) -> None:
    """Write arrays that are all there to a file.

    Raises:
        ArrayFileError: If one is of a type that such files do not hold.
    """
    plain = {name: _plain(name, array) for name, array in arrays.items()}
    with Path(path).open("wb") as file:
        _write(file, plain)


def packed(arrays: Mapping[str, Array]) -> bytes:
    """Return what `write_arrays` writes; errors likewise."""
    file = BytesIO()
    _write(file, {name: _plain(name, array) for name, array in arrays.items()})
    return file.getvalue()


def _write(file: BinaryIO, plain: Mapping[str, Array]) -> None:
    wanted = _in_order(Entry(name, array.dtype, array.shape, 0) for name, array in plain.items())
    file.write(_header(wanted))
    file.writelines(_bytes(plain[entry.name]) for entry in wanted)


class ArrayWriter:
    """Writes arrays to a file one after the other, so that no more than one has to be held in memory.

    The file is there once the block has ended without an exception. Until then the bytes stand beside it.

    Args:
        path: Where to.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self._path = Path(path)
        self._draft = self._path.with_name(f"{self._path.name}.draft")
        self._file: BinaryIO
        self._entries: list[Entry] = []

    def __enter__(self) -> Self:
        self._file = self._draft.open("w+b")
        return self

    def add(self, name: str, array: Array) -> None:
        """Write an array.

        Raises:
            ArrayFileError: If it is of a type that such files do not hold.
        """
        plain = _plain(name, array)
        self._entries.append(Entry(name, plain.dtype, plain.shape, self._file.tell()))
        self._file.write(_bytes(plain))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if kind is None:
                self._finish()
        self._draft.unlink()

    def _finish(self) -> None:
        wanted = _in_order(self._entries)
        with self._path.open("wb") as file:
            file.write(_header(wanted))
            for entry in wanted:
                self._file.seek(entry.begin)
                _copy(self._file, file, entry.nbytes)


def _copy(source: BinaryIO, target: BinaryIO, size: int) -> None:
    while size:
        piece = source.read(min(size, _PIECE))
        target.write(piece)
        size -= len(piece)


def _plain(name: str, array: Array) -> Array:
    """Return an array as its bytes are to stand in a file: of a known type, contiguous, little-endian."""
    array = np.asarray(array)
    array = np.ascontiguousarray(array).reshape(array.shape)  # which makes a scalar a vector
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    if array.dtype not in _NAMES:
        raise ArrayFileError(
            f"{name} is of type {array.dtype}; safetensors files hold {', '.join(str(kind) for kind in _NAMES)}."
        )
    return array


def _bytes(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _in_order(arrays: Iterable[Entry]) -> list[Entry]:
    """Return the entries as they stand in a file: the widest types first, so that all are aligned."""
    return sorted(arrays, key=lambda entry: -entry.dtype.itemsize)


def _header(arrays: Iterable[Entry]) -> bytes:
    said: dict[str, Any] = {}
    end = 0
    for entry in arrays:
        begin, end = end, end + entry.nbytes
        said[entry.name] = {"dtype": _NAMES[entry.dtype], "shape": entry.shape, "data_offsets": (begin, end)}
    text = json.dumps(said, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def entries(source: Source) -> list[Entry]:
    """Return what arrays a file holds, in alphabetical order.

    Args:
        source: Path of the file, or its bytes.

    Raises:
        ArrayFileError: If it is no safetensors file, or has a type that is not known here.
        OSError: If it cannot be read.
    """
    return sorted(_parse(_buffer(source), _called(source))[0])


def read_arrays(source: Source) -> dict[str, Array]:
    """Return the arrays of a file by name, as views of it; what stands on the disk is read when it is looked at.

    Arguments and errors as for `entries`.
    """
    buffer = _buffer(source)
    found, start = _parse(buffer, _called(source))
    return {
        entry.name: buffer[start + entry.begin :][: entry.nbytes].view(entry.dtype).reshape(entry.shape)
        for entry in found
    }


def _buffer(source: Source) -> Array:
    if isinstance(source, bytes):
        return np.frombuffer(source, np.uint8)
    # Copied where it is written to, so that frameworks take it; an empty file cannot be mapped.
    return np.memmap(source, np.uint8, mode="c") if Path(source).stat().st_size else np.empty(0, np.uint8)


def _called(source: Source) -> str:
    return "What should be a safetensors file" if isinstance(source, bytes) else str(source)


def _parse(buffer: Array, called: str) -> tuple[list[Entry], int]:
    """Return the entries of a file, and where the arrays begin."""
    length = int.from_bytes(buffer[:8].tobytes(), "little")
    if len(buffer) < 8 or length > len(buffer) - 8:
        raise ArrayFileError(f"{called} is no safetensors file, or is cut short: it has {len(buffer):,} bytes.")
    try:
        said = msgspec.json.decode(buffer[8 : 8 + length].tobytes(), type=dict[str, msgspec.Raw])
        found = [
            _entry(name, msgspec.json.decode(about, type=_Said)) for name, about in said.items() if name != _METADATA
        ]
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise ArrayFileError(f"{called} is no safetensors file: its header cannot be read ({error}).") from error
    except ArrayFileError as error:
        raise ArrayFileError(f"{called} holds {error}") from None
    _check_layout(found, len(buffer) - 8 - length, called)
    return found, 8 + length


class _Said(msgspec.Struct):
    """What a header says of one array."""

    dtype: str
    shape: list[Annotated[int, msgspec.Meta(ge=0)]]
    data_offsets: tuple[int, int]


def _entry(name: str, about: _Said) -> Entry:
    if about.dtype not in _BY_NAME:
        raise ArrayFileError(f"{name!r} as {about.dtype}, a type that Dnnamo does not know.")
    entry = Entry(name, _BY_NAME[about.dtype], tuple(about.shape), about.data_offsets[0])
    if entry.begin + entry.nbytes != about.data_offsets[1]:
        raise ArrayFileError(f"{name!r} of shape {about.shape} in the bytes {about.data_offsets}, which do not fit.")
    return entry


def _check_layout(found: list[Entry], size: int, called: str) -> None:
    """Refuse a file whose arrays overlap, leave gaps or end elsewhere than it does, as the format does."""
    end = 0
    for entry in sorted(found, key=lambda entry: (entry.begin, entry.nbytes)):
        if entry.begin != end:
            raise ArrayFileError(f"{called} is damaged: {entry.name!r} begins at byte {entry.begin}, not at {end}.")
        end += entry.nbytes
    if end != size:
        raise ArrayFileError(f"{called} is damaged or cut short: its arrays take {end:,} bytes, and it has {size:,}.")
