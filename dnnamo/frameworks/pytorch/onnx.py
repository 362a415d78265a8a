"""A PyTorch graph as an ONNX file, made from the program that a job kept."""

import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from dnnamo.errors import DnnamoError, MissingExtra, UsageError
from dnnamo.graphs.exports import Source

__all__ = ["write"]

_ONLY_ARRAYS = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def write(source: Source, file: BinaryIO) -> None:
    """Write the ONNX model of a `graph.pt2`, weights included.

    Raises:
        UsageError: If the graph was kept otherwise.
        MissingExtra: If PyTorch, ONNX or its exporter is not installed here.
        DnnamoError: If PyTorch cannot turn the program into ONNX.
    """
    program = source.native("pt2")
    if program is None:
        raise UsageError(
            "ONNX is made of a program of torch.export, a graph.pt2, which this graph was not kept in. It can be "
            f"exported to {', '.join(source.forms)}."
        )
    file.write(_converted(program))


def _converted(program: bytes) -> bytes:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtra("ONNX, or its exporter onnxscript,", extra="onnx") from error
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("PyTorch", extra="torch") from error
    try:
        with _quietly(), _without_code():
            model = torch.onnx.export(torch.export.load(io.BytesIO(program)), dynamo=True, verbose=False)
            return _serialized(model)
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise DnnamoError(
            f"PyTorch {torch.__version__} cannot turn this program into ONNX: {type(error).__name__}: {first}"
        ) from error


def _serialized(model: Any) -> bytes:
    content: bytes = model.model_proto.SerializeToString()
    return content


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep to ourselves what the exporter says to its developers."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _without_code() -> Iterator[None]:
    """Have PyTorch unpickle nothing but arrays: the program comes from a job, and pickles are code."""
    before = os.environ.get(_ONLY_ARRAYS)
    os.environ[_ONLY_ARRAYS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_ONLY_ARRAYS]
        else:
            os.environ[_ONLY_ARRAYS] = before
