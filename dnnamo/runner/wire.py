"""What supervisor and runner say to each other.

The supervisor hands over one `Request` as JSON in a file. The runner answers over a private file descriptor with
frames: the length of the payload as four bytes, big-endian, then the payload, an `Outcome` as JSON.
Large outputs are files in the scratch folder, which the outcome names. Neither side ever unpickles anything.
"""

import os
import struct
from pathlib import Path

from dnnamo.records import JobSpec, Outcome, Record

__all__ = ["MAX_FRAME_BYTES", "FrameReader", "Request", "send"]

MAX_FRAME_BYTES = 256 * 2**20
"""Longest frame that a supervisor accepts: about two million rows of an operation table."""

_HEADER = struct.Struct(">I")


class Request(Record, frozen=True, kw_only=True):
    """One attempt, as the runner needs to know it.

    Attributes:
        scratch: Folder of this attempt alone, for outputs; the supervisor removes it.
        environment: The whole environment of the process.
        weights: Safetensors file to set before the method is called, None for the model's own weights.
        code: Folder that the job's bundle was unpacked into, None for a job without one.
        roots: Folders that model files must lie in; none allows any.
        gpu: UUID of the GPU that the job has to itself, None for a job that has none.
    """

    spec: JobSpec
    scratch: str
    environment: dict[str, str] = {}
    weights: str | None = None
    code: str | None = None
    roots: list[str] = []
    gpu: str | None = None

    @property
    def folder(self) -> Path:
        """The scratch folder as a path."""
        return Path(self.scratch)


def send(fd: int, outcome: Outcome) -> None:
    """Write one frame."""
    payload = outcome.to_json()
    data = memoryview(_HEADER.pack(len(payload)) + payload)
    while data:
        data = data[os.write(fd, data) :]


class FrameReader:
    """Puts frames together from whatever pieces the pipe gives."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, piece: bytes) -> None:
        """Take the next bytes from the pipe."""
        self._data += piece

    @property
    def outcome(self) -> Outcome | None:
        """The runner's report, None while it is not complete.

        Raises:
            ValueError: If what came is no report, as only user code that writes to the pipe can cause.
        """
        if len(self._data) < _HEADER.size:
            return None
        (length,) = _HEADER.unpack_from(self._data)
        if length > MAX_FRAME_BYTES:
            raise ValueError(f"a frame of {length} bytes, more than the {MAX_FRAME_BYTES} that are allowed")
        payload = bytes(self._data[_HEADER.size : _HEADER.size + length])
        return Outcome.from_json(payload) if len(payload) == length else None
