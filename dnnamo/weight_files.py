"""Files of weights that are given with a job, told apart by what they hold.

Only safetensors files go to workers. A pickle is a program that runs as it is read: whoever submits the job may ask for
that, on their own machine, and what comes out of it goes on as safetensors.
"""

import warnings
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from dnnamo.arrays import Array, ArrayFileError, entries, packed
from dnnamo.errors import MissingExtra, UsageError

__all__ = ["read_weights"]

_ZIP, _HDF5, _PICKLE = b"PK\3\4", b"\x89HDF\r\n\x1a\n", b"\x80"
_NESTED = ("state_dict", "model_state_dict", "model")
"""Where training scripts put the weights among other things."""

_HOW = (
    "Write one with safetensors.torch.save_file or safetensors.numpy.save_file, or take the weights.safetensors of a "
    "get_weights job (`dnnamo weights MODEL --to FILE`)."
)


def read_weights(path: Path, *, pickled: bool = False) -> bytes:
    """Return the content of a weights file as that of a safetensors file.

    Args:
        path: The file.
        pickled: Whether a pickle (`torch.save`) is taken too. Reading it runs whatever code it holds, here.

    Raises:
        UsageError: If it cannot be read, or is something else.
        MissingExtra: If PyTorch is needed to read it and is not installed.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"The weights {path} cannot be read: {error.strerror}.") from error
    if _is_pickle(content):
        return _unpickled(path, content) if pickled else _refuse_pickle(path)
    try:
        entries(content)
    except ArrayFileError as error:
        raise UsageError(f"The weights {path} are {_kind(content)}, no safetensors file: {error} {_HOW}") from error
    return content


def _is_pickle(content: bytes) -> bool:
    # PyTorch's archives are zip files with a pickle in them, its older files are several pickles in a row.
    return (content[:4] == _ZIP and b"data.pkl" in content[:4096]) or (
        content[:1] == _PICKLE and content[1:2] in b"\1\2\3\4\5" and len(content) > 2
    )


def _kind(content: bytes) -> str:
    if content.startswith(_HDF5):
        return "an HDF5 file (Keras)"
    if content.startswith(_ZIP):
        return "a zip archive (NumPy's .npz, or Keras)"
    return "an empty file" if not content else "of a kind that is not known here"


def _refuse_pickle(path: Path) -> bytes:
    raise UsageError(
        f"The weights {path} are pickled, and a pickle is code that runs as it is read. If you trust where it comes "
        "from, `--pickled-weights` (in Python `pickled=True`) reads it on this machine and sends its arrays alone. "
        f"Otherwise: {_HOW}"
    )


def _unpickled(path: Path, content: bytes) -> bytes:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingExtra("PyTorch, which reads pickled weights,", extra="torch") from error
    try:
        loaded = torch.load(BytesIO(content), map_location="cpu", weights_only=False)
    except Exception as error:  # of whatever code it holds, so it may be anything
        raise UsageError(f"The pickled weights {path} cannot be read: {type(error).__name__}: {error}") from error
    arrays, others = _arrays_in(loaded)
    if not arrays:
        raise UsageError(
            f"The pickle {path} holds {type(loaded).__module__}.{type(loaded).__qualname__}, and no tensors by name. "
            f"Save a network's state_dict(). {_HOW}"
        )
    if others:
        warnings.warn(f"Of {path} only the tensors are taken, not {', '.join(others)}.", stacklevel=4)
    return packed(arrays)


def _arrays_in(loaded: Any) -> tuple[dict[str, Array], list[str]]:
    """Return the tensors of a state dict, wherever it is nested, as arrays, and the names of what is no tensor."""
    import torch

    from dnnamo.frameworks.pytorch.arrays import to_numpy

    if isinstance(loaded, torch.nn.Module):
        loaded = loaded.state_dict()
    while isinstance(loaded, Mapping):
        nested = next((loaded[name] for name in _NESTED if isinstance(loaded.get(name), Mapping)), None)
        if nested is None:
            break
        loaded = nested
    if not isinstance(loaded, Mapping):
        return {}, []
    tensors = {str(name): value for name, value in loaded.items() if isinstance(value, torch.Tensor | _array_type())}
    others = [str(name) for name in loaded if str(name) not in tensors]
    return {name: to_numpy(value) for name, value in tensors.items()}, others


def _array_type() -> type:
    import numpy as np

    return np.ndarray
