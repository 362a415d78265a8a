"""A PyTorch graph as an ONNX file, made from the program that a job kept."""

import io
import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, BinaryIO, Self

from dnnamo.errors import DnnamoError, MissingExtra, UsageError
from dnnamo.graphs.exports import Source

__all__ = ["write"]

_UNKNOWN_CLASS = re.compile(r"Deserializing ([\w.]+) in pytree is not registered").search
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
            model = torch.onnx.export(_loaded(program), dynamo=True, verbose=False)
            return _serialized(model)
    except DnnamoError:
        raise
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise DnnamoError(
            f"PyTorch {torch.__version__} cannot turn this program into ONNX: {type(error).__name__}: {first}"
        ) from error


def _loaded(program: bytes) -> Any:
    """Load a program, after the libraries whose classes it returns, which PyTorch must know by then.

    Raises:
        UsageError: If such a library is not installed here.
    """
    import torch

    imported: set[str] = set()
    while True:
        with _Listening(logging.getLogger("torch.export")) as heard:
            try:
                return torch.export.load(io.BytesIO(program))
            except RuntimeError:
                missing = _unknown_class(heard.text)
                if missing is None or missing in imported:
                    raise
        imported.add(missing)
        _import_for(missing)


def _unknown_class(text: str) -> str | None:
    found = _UNKNOWN_CLASS(text)
    return found[1] if found else None


def _import_for(name: str) -> None:
    try:
        import_module(name.rpartition(".")[0])
    except ImportError as error:
        raise UsageError(
            f"The program returns a {name}, which must be known to load it, and its library cannot be imported here: "
            f"{error}. Install that, or export where the job ran."
        ) from error


class _Listening(logging.Handler):
    """Has a logger tell this alone what it has to say; PyTorch logs why it cannot load a program, and raises less."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__()
        self._logger = logger
        self._before = logger.propagate, logger.handlers
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += self.format(record)

    def __enter__(self) -> Self:
        self._logger.propagate, self._logger.handlers = False, [self]
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.propagate, self._logger.handlers = self._before


def _serialized(model: Any) -> bytes:
    content: bytes = model.model_proto.SerializeToString()
    return content


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep to ourselves what the exporter says to its developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
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
