"""ONNX Runtime's sessions: on which device and how many threads they compute, and what their errors mean here."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import pynvml
from onnxruntime.capi import onnxruntime_pybind11_state as _raised

from dnnamo.errors import LoaderError, ModelError, Unsupported

__all__ = ["compute", "has_cuda", "make_session", "set_threads", "thread_count"]

_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_NOTHING_LOGGED = 4
_ERRORS = (
    _raised.EPFail,
    _raised.Fail,
    _raised.InvalidArgument,
    _raised.InvalidGraph,
    _raised.InvalidProtobuf,
    _raised.NoSuchFile,
    _raised.NotImplemented,
    _raised.RuntimeException,
)
_NO_MEMORY = ("Failed to allocate memory", "bad_alloc", "CUDA_ERROR_OUT_OF_MEMORY")

# "[ONNXRuntimeError] : 1 : FAIL : ", and "/onnxruntime_src/…/model.cc:256 onnxruntime::Model::Model(…) ".
_OWN_CODE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : ")
_OWN_PLACE = re.compile(r"/\S*onnxruntime/\S+:\d+ \S.*?\)(?: const)? (?=[A-Z])")

_threads: int | None = None


class NoHostMemory(ModelError, MemoryError):
    """Raised when the machine has no memory for a value of the model."""


class OutOfMemoryError(ModelError):
    """Raised when the GPU has none; the runner knows a full device by this name, which is PyTorch's."""


def thread_count() -> int:
    """Return how many threads the next session computes an operation with: one for each core of this process."""
    return _threads or len(os.sched_getaffinity(0))


def set_threads(count: int) -> None:
    """Have the sessions that are made from now on compute an operation with so many threads."""
    global _threads
    _threads = count


def has_cuda() -> bool:
    """Return whether sessions compute on a GPU: ONNX Runtime was built for it, and this process may see one."""
    return _CUDA in onnxruntime.get_available_providers() and _sees_a_gpu()


def _sees_a_gpu() -> bool:
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no NVIDIA driver
        return False
    try:
        return bool(pynvml.nvmlDeviceGetCount())
    finally:
        pynvml.nvmlShutdown()


def make_session(model: str | bytes, *, name: str, profile_to: Path | None = None) -> Any:
    """Return a session that computes on the GPU where there is one, and else on the CPU.

    Args:
        model: Path of an ONNX file, or its content.
        name: What errors call it.
        profile_to: How the name of the file begins that its profiler writes; None does not profile.

    Raises:
        LoaderError: If ONNX Runtime does not take the model.
        Unsupported: If its part for GPUs does not start.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = thread_count()  # set, as by its own choice it also pins them to cores, or tries to
    options.inter_op_num_threads = 1
    options.log_severity_level = _NOTHING_LOGGED  # what it would log comes as an exception too
    if profile_to is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_to)
    wanted = [_CUDA, _CPU] if has_cuda() else [_CPU]
    try:
        session = onnxruntime.InferenceSession(model, options, providers=wanted)
    except _ERRORS as error:
        raise LoaderError(
            f"ONNX Runtime {onnxruntime.__version__} cannot run {name}: {_said(error)}. If the file is sound, a later "
            "version of ONNX Runtime may know what it uses; or export it again for an older opset."
        ) from error
    if session.get_providers()[0] != wanted[0]:
        raise Unsupported(
            f"ONNX Runtime {onnxruntime.__version__} is a build for GPUs, and its {wanted[0]} does not start here. "
            "Install the CUDA and cuDNN libraries that it wants, or run the job with --device cpu."
        )
    return session


def _said(error: Exception) -> str:
    """Return what ONNX Runtime says of an error as one line, without its own codes and places."""
    text = " ".join(str(error).split())
    return _OWN_PLACE.sub("", _OWN_CODE.sub("", text)).rstrip(". ")


def compute(session: Any, outputs: Sequence[str] | None, feeds: Mapping[str, Any], *, name: str) -> list[Any]:
    """Run a session once.

    Args:
        session: The session.
        outputs: Names of the outputs to return; None for all.
        feeds: Arrays by the names of the inputs.
        name: What errors call the model.

    Raises:
        ModelError: If it does not take the inputs, fails, or memory runs out.
    """
    try:
        found: list[Any] = session.run(outputs, feeds)
    except (_raised.InvalidArgument, ValueError, TypeError, RuntimeError) as error:
        takes = ", ".join(f"{value.name} {value.type} {value.shape}" for value in session.get_inputs())
        raise ModelError(
            f"ONNX Runtime does not take this batch for {name}: {_said(error)}. The model takes {takes}."
        ) from error
    except _ERRORS as error:
        raise _failure(error, session)(f"ONNX Runtime failed to run {name}: {_said(error)}.") from error
    return found


def _failure(error: Exception, session: Any) -> type[ModelError]:
    if not any(sign in str(error) for sign in _NO_MEMORY):
        return ModelError
    return OutOfMemoryError if session.get_providers()[0] == _CUDA else NoHostMemory
