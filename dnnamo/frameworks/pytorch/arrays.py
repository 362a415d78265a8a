"""Tensors as NumPy's arrays and back, bit for bit; the types that NumPy lacks are those of `ml_dtypes`."""

from typing import Any

import ml_dtypes
import numpy as np
import torch

__all__ = ["as_numpy", "to_numpy", "to_tensor"]

_EXTENDED = {
    torch.bfloat16: (torch.int16, np.dtype(ml_dtypes.bfloat16)),
    torch.float8_e4m3fn: (torch.uint8, np.dtype(ml_dtypes.float8_e4m3fn)),
    torch.float8_e5m2: (torch.uint8, np.dtype(ml_dtypes.float8_e5m2)),
}
_TENSORS = {array: (plain, tensor) for tensor, (plain, array) in _EXTENDED.items()}


def to_numpy(value: Any) -> Any:
    """Return a tensor as an array of its own; anything else as it is."""
    return as_numpy(value).copy() if isinstance(value, torch.Tensor) else value


def as_numpy(value: torch.Tensor) -> np.ndarray[Any, Any]:
    """Return a dense tensor as an array, which is a view of it where it is on a CPU."""
    value = value.detach().cpu()
    if value.dtype in _EXTENDED:
        plain, array = _EXTENDED[value.dtype]
        return value.view(plain).numpy().view(array)
    return value.resolve_conj().resolve_neg().numpy()


def to_tensor(value: Any) -> torch.Tensor:
    """Return an array, or what makes one, as a tensor of the same type."""
    found = _TENSORS.get(value.dtype) if isinstance(value, np.ndarray) else None
    if found is None:
        return torch.as_tensor(value)
    plain, tensor = found
    numbers = np.dtype(f"{'i' if plain == torch.int16 else 'u'}{value.dtype.itemsize}")
    return torch.as_tensor(np.ascontiguousarray(value).view(numbers).reshape(value.shape)).view(tensor)
