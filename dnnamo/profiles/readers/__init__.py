"""What can be read as a profile: trace files, and what a user's own `profile_*` returns.

A reader is a function that takes anything and returns the `Recording` in it, or None if it is nothing that this reader
knows. Other packages add theirs under the entry-point group `dnnamo.readers`, as `name = "package.module:function"`.
"""

import os
from collections.abc import Callable, Iterator
from importlib import import_module

from dnnamo.errors import UsageError
from dnnamo.plugins import installed
from dnnamo.profiles.recording import Recording

__all__ = ["Reader", "read", "readers"]

Reader = Callable[[object], Recording | None]

_BUILT_IN = {
    "kineto": "dnnamo.profiles.readers.kineto:read",
    "xspace": "dnnamo.profiles.readers.xspace:read",
    "run_metadata": "dnnamo.profiles.readers.run_metadata:read",
    "memory_snapshot": "dnnamo.profiles.readers.memory_snapshot:read",
    "onnxruntime": "dnnamo.profiles.readers.onnxruntime:read",
    "chrome": "dnnamo.profiles.readers.chrome:read",
}

_KNOWN = (
    "a finished torch.profiler.profile; the path of a trace file (Chrome, Kineto or ONNX Runtime .json, .json.gz or "
    ".zip; TensorFlow *.xplane.pb; a memory snapshot of PyTorch) or of a TensorFlow log folder; the bytes of an "
    "XSpace; one or a list of tf.compat.v1.RunMetadata; a dnnamo.profiles.Recording"
)


def readers() -> dict[str, str]:
    """Return where each reader is found, by name: those of other packages first."""
    return {**installed("dnnamo.readers"), **_BUILT_IN}


def read(source: object) -> Recording:
    """Return the recording in a file, or in what a profiler returned.

    Args:
        source: Path of a trace file or folder, bytes, or a framework's own object.

    Raises:
        UsageError: If no reader knows it, or the one that does finds it damaged beyond use.
    """
    if isinstance(source, Recording):
        return source
    for reader in _loaded():
        recording = reader(source)
        if recording is not None:
            return recording
    raise UsageError(f"{_described(source)} holds no profile that Dnnamo can read. It reads {_KNOWN}{_added()}.")


def _loaded() -> Iterator[Reader]:
    for place in readers().values():
        module, _, name = place.partition(":")
        yield getattr(import_module(module), name)


def _described(source: object) -> str:
    if isinstance(source, str | os.PathLike):
        return f"The path {os.fspath(source)!r}"
    if isinstance(source, bytes):
        return f"A bytes object of {len(source):,} bytes"
    return f"An object of type {type(source).__module__}.{type(source).__qualname__}"


def _added() -> str:
    added = ", ".join(installed("dnnamo.readers"))
    return f"; and what these plug-ins read: {added}" if added else ""
