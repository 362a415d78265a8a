"""Describe what a measurement made in this process depends on."""

import os
import platform
import socket
from pathlib import Path

import numpy as np
import psutil
import pynvml

from dnnamo.frameworks import in_use
from dnnamo.records import Environment, Gpu

__all__ = ["CACHE_VARIABLES", "THREAD_VARIABLES", "describe", "gpus_and_driver"]

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
"""What sets the sizes of the frameworks' thread pools, if it is set before they start."""

CACHE_VARIABLES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
"""What says where compiled kernels are kept, which takes too long to do again for each job."""


def describe() -> Environment:
    """Return the environment as it is now, with the frameworks that have been imported by now."""
    libraries = {"numpy": np.__version__}
    threads = {name: int(os.environ[name]) for name in THREAD_VARIABLES if os.environ.get(name, "").isdigit()}
    for framework in in_use():
        libraries |= framework.libraries()
        threads |= framework.threads()
    affinity = sorted(os.sched_getaffinity(0))
    gpus, driver = gpus_and_driver()
    return Environment(
        hostname=socket.gethostname(),
        os=f"{platform.system()} {platform.release()}",
        cpu=_cpu(),
        cores=psutil.cpu_count(logical=False) or os.cpu_count() or 1,
        affinity=affinity,
        governor=_governor(affinity[0]),
        memory_bytes=psutil.virtual_memory().total,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        libraries=libraries,
        threads=threads,
        gpus=gpus,
        driver=driver,
    )


def _cpu() -> str:
    # py-cpuinfo would say the same after more than a second, in which it starts other programs.
    for line in _lines(Path("/proc/cpuinfo")):
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _governor(cpu: int) -> str | None:
    lines = _lines(Path(f"/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor"))
    return lines[0] if lines else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:  # not Linux, or a virtual machine without this
        return []


def gpus_and_driver() -> tuple[list[Gpu], str | None]:
    """Return the GPUs of this machine as NVML sees them, and the driver's version; empty and None without a driver.

    A GPU that does not answer is left out.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no NVIDIA driver
        return [], None
    try:
        found = map(_gpu, range(pynvml.nvmlDeviceGetCount()))
        return [gpu for gpu in found if gpu is not None], pynvml.nvmlSystemGetDriverVersion()
    finally:
        pynvml.nvmlShutdown()


def _gpu(index: int) -> Gpu | None:
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        return Gpu(
            name=pynvml.nvmlDeviceGetName(handle),
            uuid=pynvml.nvmlDeviceGetUUID(handle),
            memory_bytes=_memory_bytes(handle),
        )
    except pynvml.NVMLError:  # it fell off the bus, for example
        return None


def _memory_bytes(handle: object) -> int:
    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    except pynvml.NVMLError_NotSupported:  # it shares the machine's
        return 0
