"""A fake of the module pynvml, for tests alone: made-up GPUs, and the real module's constants and errors."""
# ruff: noqa: N802 (the names are NVML's)

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pynvml

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class FakeGpu:
    """A GPU, which is its own handle; set its attributes to have NVML tell something else."""

    uuid: str
    name: str = "NVIDIA H100 80GB HBM3"
    total: int = 80 << 30
    used: int = 500 << 20
    pids: list[int] = field(default_factory=list)
    clock_reasons: int = 0
    instances: list["FakeGpu"] | None = None
    error: type[pynvml.NVMLError] | None = None
    has_memory: bool = True


class FakeNvml:
    """Put in place of the module; counts how often it is open."""

    def __init__(self, *gpus: FakeGpu, error: type[pynvml.NVMLError] | None = None) -> None:
        self.gpus = list(gpus)
        self.error = error
        self.opened = 0
        self.on_memory: Callable[[FakeGpu], None] = lambda gpu: None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("nvml") and callable(getattr(pynvml, name)):
            raise AssertionError(f"the fake has no {name}")
        return getattr(pynvml, name)

    def nvmlInit(self) -> None:
        if self.error:
            raise self.error
        self.opened += 1

    def nvmlShutdown(self) -> None:
        assert self.opened > 0
        self.opened -= 1

    def nvmlDeviceGetCount(self) -> int:
        self._see()
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        return self._see(self.gpus[index])

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> FakeGpu:
        parts = [part for gpu in self.gpus for part in gpu.instances or []]
        for gpu in self.gpus + parts:
            if gpu.uuid == uuid:
                return self._see(gpu)
        raise pynvml.NVMLError_NotFound

    def nvmlDeviceGetMigMode(self, gpu: FakeGpu) -> list[int]:
        return [int(self._see(gpu).instances is not None)] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu: FakeGpu) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: FakeGpu, index: int) -> FakeGpu:
        assert gpu.instances is not None
        if index >= len(gpu.instances):
            raise pynvml.NVMLError_NotFound
        return gpu.instances[index]

    def nvmlDeviceGetName(self, gpu: FakeGpu) -> str:
        return self._see(gpu).name

    def nvmlDeviceGetUUID(self, gpu: FakeGpu) -> str:
        return self._see(gpu).uuid

    def nvmlDeviceGetMemoryInfo(self, gpu: FakeGpu) -> SimpleNamespace:
        self.on_memory(gpu)
        if not self._see(gpu).has_memory:
            raise pynvml.NVMLError_NotSupported
        return SimpleNamespace(total=gpu.total, used=gpu.used, free=gpu.total - gpu.used)

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: FakeGpu) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=None) for pid in self._see(gpu).pids]

    def nvmlDeviceGetCurrentClocksEventReasons(self, gpu: FakeGpu) -> int:
        return self._see(gpu).clock_reasons

    def _see(self, gpu: FakeGpu | None = None) -> Any:
        assert self.opened > 0, "NVML is used before nvmlInit"
        if gpu is not None and gpu.error:
            raise gpu.error
        return gpu
