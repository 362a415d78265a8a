"""`torch_export:FILE.pt2`: a program that `torch.export.save` wrote. Reading one runs what it says, as pickle does."""

import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any

from dnnamo.errors import LoaderError
from dnnamo.loaders.zoo.options import MakeBatch, checked, told
from dnnamo.loaders.zoo.reading import existing, reading

if TYPE_CHECKING:
    import torch

    from dnnamo.frameworks.pytorch import TorchModel

__all__ = ["EXTRA", "IS_PATH", "PACKAGES", "TAKES", "loader"]

TAKES = "the path of a .pt2 file that torch.export.save wrote; reading it runs what it says"
PACKAGES = ("torch",)
EXTRA = "torch"
IS_PATH = True

_REMEDY = "Write one with torch.export.save(torch.export.export(network, inputs), path)."


def loader(name: str) -> Callable[..., Any]:
    """Return the function that makes the model of a file.

    Raises:
        ModelNotFound: If there is no such file.
        MissingExtra: If PyTorch is not installed.
    """
    path = existing("torch_export", name)
    import dnnamo.frameworks.pytorch  # noqa: F401 (says which extra to install)

    return partial(_make, path)


def _make(path: Path, *, batch: int | None = None, data: MakeBatch | None = None) -> "TorchModel":
    """Return an exported program, which has no training.

    Args:
        path: The file.
        batch: Size of the inputs' first dimension, if the program leaves it open; by default that of the example inputs
            in the file, whose rows are taken again and again.
        data: Returns one batch, a tuple (inputs, anything), in the place of the example inputs.
    """
    from dnnamo.loaders.zoo.pytorch import wrapped

    checked(data=data, batch=batch)
    program = _program(path)
    inputs = None if data else _inputs(program, path, batch)
    return wrapped(
        _module(program),
        data or (lambda: (inputs, ())),
        loss=None,
        made_of=told(data=data, batch=batch or "the file's own"),
        untrained="A program that was exported for inference has no loss and no training behaviour.",
    )


def _program(path: Path) -> "torch.export.ExportedProgram":
    import torch

    if not zipfile.is_zipfile(path):
        raise LoaderError(f"{path} is no .pt2 file: it is no zip archive, or its end is missing. {_REMEDY}")
    with reading(path, "a program of torch.export", remedy=_REMEDY):
        program = torch.export.load(path)
    if torch.cuda.is_available():
        from torch.export.passes import move_to_device_pass

        return move_to_device_pass(program, "cuda")  # devices stand in the graph as well
    return program


def _module(program: "torch.export.ExportedProgram") -> Any:
    """Return the program's module, for which `train()` and `eval()` mean nothing in place of being an error."""
    module = program.module()
    for name in ("train", "eval"):
        setattr(module, name, MethodType(lambda self, mode=True: self, module))
    return module


def _inputs(program: "torch.export.ExportedProgram", path: Path, batch: int | None) -> Any:
    from torch.utils._pytree import tree_flatten, tree_unflatten

    if program.example_inputs is None:
        raise LoaderError(
            f"{path} holds no example inputs. Name a function that returns a batch: -p data=file.py:make."
        )
    values, form = tree_flatten(program.example_inputs)
    shapes = [_shape(node) for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    if batch is not None:
        values = [_resized(value, shape, path, batch) for value, shape in zip(values, shapes, strict=True)]
    args, kwargs = tree_unflatten(values, form)
    return args if not kwargs else _named(program, args, kwargs)


def _named(program: "torch.export.ExportedProgram", args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return positional and keyword inputs as keywords alone, which is what a wrapped model passes on from a dict."""
    names = program.graph_signature.user_inputs[: len(args)]
    return {**dict(zip(map(str, names), args, strict=True)), **kwargs}


def _shape(node: Any) -> tuple[Any, ...]:
    """Return an input's shape, of whole numbers and symbols; it has none if it is no tensor."""
    return tuple(getattr(node.meta.get("val"), "shape", ()))


def _resized(value: Any, shape: tuple[Any, ...], path: Path, batch: int) -> Any:
    if not shape or value.shape[0] == batch:
        return value
    if isinstance(shape[0], int):
        raise LoaderError(
            f"batch is {batch}, and {path} was exported for {shape[0]} alone. Export it with dynamic_shapes that leave "
            "the first dimension open, or leave batch out."
        )
    import torch

    return value[torch.arange(batch) % len(value)]
