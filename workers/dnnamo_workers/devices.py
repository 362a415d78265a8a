"""What this machine computes on: its cores and GPUs, how they are shared among slots, and what state a GPU is in."""

import logging
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, pairwise, zip_longest
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pynvml

from dnnamo.errors import UsageError
from dnnamo.records import Device, Gpu
from dnnamo.runner.evidence import foreign_gpu_pids
from dnnamo.sizes import as_size

__all__ = [
    "DeviceBusy",
    "DeviceLost",
    "GpuGuard",
    "PhysicalCore",
    "Place",
    "device_classes",
    "physical_cores",
    "plan",
    "share_cores",
    "visible",
    "visible_gpus",
]

SYSFS = Path("/sys/devices/system/cpu")

_TOLERANCE_BYTES = 64 << 20
"""What the memory in use on an idle GPU may differ by."""

_FREEING_S = 10.0
"""How long a driver may take to free the memory of processes that have ended; it does so late, but within a second."""

_logger = logging.getLogger(__name__)


class DeviceBusy(Exception):
    """Raised when a slot's device cannot be had for now; the message says who or what is in the way."""


class DeviceLost(Exception):
    """Raised when a GPU cannot be used any more; the message is the reason to set it aside."""


@dataclass(frozen=True, order=True)
class PhysicalCore:
    """A core with those of its hardware threads that this process may use; sorted by where it is.

    Attributes:
        package: Number of its processor.
        node: Number of its NUMA node.
        cpus: Numbers of its hardware threads, as the kernel counts CPUs.
        capacity: Its speed in quarters of the fastest core's; 0 where all are alike.
    """

    package: int
    node: int
    cpus: tuple[int, ...]
    capacity: int = 0


@dataclass(frozen=True)
class Place:
    """What the jobs of one slot compute on.

    Attributes:
        device: Its device class.
        cores: CPU numbers that no other slot of the worker has.
        threads: Number of physical cores that these belong to.
        gpu: The GPU, for a slot of class `gpu`.
    """

    device: Device
    cores: tuple[int, ...]
    threads: int
    gpu: Gpu | None = None

    def __str__(self) -> str:
        cores = f"{'cores' if len(self.cores) > 1 else 'core'} {_ranges(self.cores)}"
        return f"{_short(self.gpu)} with {cores}" if self.gpu else cores

    @property
    def environment(self) -> dict[str, str]:
        """The variables that limit CUDA to this device; they must be set before the library starts.

        A GPU is named by its UUID, since its index changes with the order of CUDA's list and with other variables.
        """
        visible = self.gpu.uuid if self.gpu else ""
        return {"CUDA_VISIBLE_DEVICES": visible, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def _ranges(numbers: Sequence[int]) -> str:
    """Return numbers in ascending order as `0-3,8`."""
    starts = [numbers[0], *(after for before, after in pairwise(numbers) if after != before + 1)]
    ends = [*(before for before, after in pairwise(numbers) if after != before + 1), numbers[-1]]
    return ",".join(f"{start}-{end}" if end > start else str(start) for start, end in zip(starts, ends, strict=True))


def _short(gpu: Gpu) -> str:
    prefix, _, rest = gpu.uuid.partition("-")
    return f"{prefix}-{rest[:4]}… ({gpu.name})"


def plan(devices: Collection[Device], slots: int, *, sysfs: Path = SYSFS) -> list[Place]:
    """Return what each slot of a worker computes on; no two have a CPU in common.

    Args:
        devices: Device classes that it serves.
        slots: Number of slots of class `cpu`, if it serves that. Of class `gpu` there is one a visible GPU.
        sysfs: Where the kernel describes CPUs.

    Raises:
        UsageError: If there is no GPU to serve, or fewer CPUs than slots.
    """
    gpus = _gpus_to_serve() if "gpu" in devices else []
    cpu_slots = slots if "cpu" in devices else 0
    physical = physical_cores(sysfs=sysfs)
    core_of = {cpu: core for core in physical for cpu in core.cpus}
    shares = share_cores(physical, cpu_slots + len(gpus))
    return [
        Place("gpu" if gpu else "cpu", cores, len({core_of[cpu] for cpu in cores}), gpu)
        for cores, gpu in zip(shares, [*[None] * cpu_slots, *gpus], strict=True)
    ]


def _gpus_to_serve() -> list[Gpu]:
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        gpus = visible_gpus()
    except pynvml.NVMLError as error:
        raise _no_gpu(f"NVML says {error}") from error
    if not gpus:
        raise _no_gpu("NVML lists none" if setting is None else f"CUDA_VISIBLE_DEVICES={setting} names none")
    return gpus


def _no_gpu(why: str) -> UsageError:
    return UsageError(
        f"The worker is to serve the queue gpu and sees no GPU: {why}. See whether nvidia-smi lists one here and "
        "CUDA_VISIBLE_DEVICES lets the worker have it, or serve --queue cpu."
    )


def physical_cores(*, sysfs: Path = SYSFS) -> list[PhysicalCore]:
    """Return the cores that this process may use, in the order of their processors and NUMA nodes.

    The kernel keeps the affinity of a process within its cgroup's cpuset (cpuset(7)), so it alone says what may be
    used. Where sysfs says nothing of the topology each CPU counts as a core.

    Args:
        sysfs: Where the kernel describes CPUs (Documentation/admin-guide/cputopology.rst).
    """
    cores: dict[str, list[int]] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        cores.setdefault(_core_of(sysfs / f"cpu{cpu}"), []).append(cpu)
    return sorted(_core(sysfs / f"cpu{cpus[0]}", cpus) for cpus in cores.values())


def _core_of(cpu: Path) -> str:
    """Return what all hardware threads of one core have in common, and no others."""
    siblings = _text(cpu / "topology/thread_siblings_list")
    if siblings:
        return siblings
    core_id = _text(cpu / "topology/core_id")
    return f"{_text(cpu / 'topology/physical_package_id')}:{core_id}" if core_id else cpu.name


def _core(first: Path, cpus: list[int]) -> PhysicalCore:
    nodes = [int(path.name[4:]) for path in first.glob("node[0-9]*")]
    return PhysicalCore(
        package=_number(first / "topology/physical_package_id"),
        node=min(nodes, default=0),
        cpus=tuple(cpus),
        # The kernel's scale ends at 1024. In quarters, because favoured cores of the same make differ a little.
        capacity=round(_number(first / "cpu_capacity") / 256),
    )


def _number(path: Path) -> int:
    text = _text(path)
    return int(text) if text else 0


def _text(path: Path) -> str:
    with suppress(OSError):  # not everywhere
        return path.read_text().strip()
    return ""


def share_cores(cores: Sequence[PhysicalCore], count: int) -> list[tuple[int, ...]]:
    """Share cores among slots: each gets as many of each make, neighbours where possible; a remainder stays unused.

    The same number for each, so that the slots measure alike. Hardware threads of one core go to different slots only
    if there are fewer cores than slots.

    Args:
        cores: What there is, in order.
        count: Number of slots.

    Returns:
        For each slot its CPU numbers, in ascending order.

    Raises:
        UsageError: If there are fewer CPUs than slots.
    """
    cpus = [cpu for core in cores for cpu in core.cpus]
    if count > len(cpus):
        raise UsageError(
            f"{count} slots (--slots for the queue cpu, and one for each GPU) need a CPU each, and this process may "
            f"use {len(cpus)}: {_ranges(sorted(cpus))}. Lower --slots, show the worker fewer GPUs with "
            "CUDA_VISIBLE_DEVICES, or let it use more CPUs (taskset, cpuset of the container)."
        )
    makes = _makes(cores)
    if all(len(make) < count for make in makes):
        makes = [[core.cpus for core in cores]]
    if len(cores) < count:
        threads = zip_longest(*(core.cpus for core in cores))
        makes = [[(cpu,) for nth in threads for cpu in nth if cpu is not None]]
    return [tuple(sorted(chain.from_iterable(_run(make, number, count) for make in makes))) for number in range(count)]


def _makes(cores: Sequence[PhysicalCore]) -> list[list[tuple[int, ...]]]:
    """Return the cores apart by what they can do: processors may mix fast cores of two threads and slow ones of one."""
    makes: dict[tuple[int, int], list[tuple[int, ...]]] = {}
    for core in cores:
        makes.setdefault((core.capacity, len(core.cpus)), []).append(core.cpus)
    return list(makes.values())


def _run(make: list[tuple[int, ...]], number: int, count: int) -> Iterator[int]:
    size = len(make) // count
    return chain.from_iterable(make[number * size : (number + 1) * size])


def device_classes() -> list[Device]:
    """Return the device classes that this machine can serve: `cpu`, and `gpu` if a GPU is visible."""
    try:
        return ["cpu", "gpu"] if visible_gpus() else ["cpu"]
    except pynvml.NVMLError:  # no NVIDIA driver, or none that works
        return ["cpu"]


def visible_gpus() -> list[Gpu]:
    """Return the GPUs that CUDA may use in this process, instances in place of a GPU that is divided (MIG).

    Raises:
        pynvml.NVMLError: If there is no driver, or it does not work.
    """
    with _nvml():
        gpus = [gpu for index in range(pynvml.nvmlDeviceGetCount()) for gpu in _at(index)]
    return visible(gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))


@contextmanager
def _nvml() -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _at(index: int) -> list[Gpu]:
    try:
        return [_gpu(handle) for handle in _parts(pynvml.nvmlDeviceGetHandleByIndex(index))]
    except pynvml.NVMLError as error:  # the others may work
        _logger.warning("GPU %d is left out: NVML says %s", index, error)
        return []


def _parts(handle: Any) -> list[Any]:
    """Return the instances of a GPU that is divided, and otherwise the GPU."""
    try:
        mode, _ = pynvml.nvmlDeviceGetMigMode(handle)
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
        return [handle]
    if mode != pynvml.NVML_DEVICE_MIG_ENABLE:
        return [handle]
    parts = []
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        with suppress(pynvml.NVMLError_NotFound):  # fewer than the most that are possible
            parts.append(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))
    return parts


def _gpu(handle: Any) -> Gpu:
    memory = _memory(handle)
    return Gpu(
        name=pynvml.nvmlDeviceGetName(handle),
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        memory_bytes=memory.total if memory else 0,
    )


def _memory(handle: Any) -> Any:
    """Return NVML's figures, None for a GPU without memory of its own."""
    try:
        return pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError_NotSupported:
        return None


def visible(gpus: Sequence[Gpu], setting: str | None) -> list[Gpu]:
    """Return the GPUs that a value of CUDA_VISIBLE_DEVICES names, in its order.

    As in CUDA (CUDA C++ Programming Guide, environment variables), names are indices or the beginnings of UUIDs, and
    the first that fits none ends the list. Indices count in the order of the PCI bus, which is not CUDA's own where
    GPUs differ and CUDA_DEVICE_ORDER is not set to it.

    Args:
        gpus: All that there are, in the order of the PCI bus.
        setting: The value; None if it is not set, which leaves all visible.
    """
    if setting is None:
        return list(gpus)
    found: list[Gpu] = []
    for word in setting.split(","):
        named = _named(gpus, word.strip())
        if named is None or named in found:
            break
        found.append(named)
    return found


def _named(gpus: Sequence[Gpu], word: str) -> Gpu | None:
    if word.isdecimal():
        return gpus[int(word)] if int(word) < len(gpus) else None
    fitting = [gpu for gpu in gpus if gpu.uuid.startswith(word)] if word else []
    return fitting[0] if len(fitting) == 1 else None


class GpuGuard:
    """Looks after one GPU between jobs. Not thread-safe: it belongs to one slot.

    It keeps NVML open as long as it lives, which also saves a GPU without persistence mode from starting anew for each
    job.

    Args:
        gpu: The GPU, which is taken to be idle now if no process is seen on it.

    Raises:
        DeviceLost: If NVML does not find it.
    """

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._idle_bytes: int | None = None
        with self._losing():
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
        if not self.foreign_pids():
            self._idle_bytes = self.memory_used_bytes()

    def foreign_pids(self, own: Collection[int] = ()) -> list[int]:
        """Return the processes, apart from one's own, that compute on the GPU; raises `DeviceLost`."""
        with self._losing():
            return foreign_gpu_pids(self._handle, own)

    def memory_used_bytes(self) -> int | None:
        """Return the memory in use by all, None where the GPU has none of its own; raises `DeviceLost`."""
        with self._losing():
            memory = _memory(self._handle)
        return int(memory.used) if memory else None

    def check_free(self) -> None:
        """See before a job, with the lock taken, that nobody else uses the GPU.

        Raises:
            DeviceBusy: If a process does, or memory is in use that nobody is seen to hold.
            DeviceLost: If the GPU does not answer.
        """
        pids = self.foreign_pids()
        if pids:
            raise DeviceBusy(f"{_short(self._gpu)} is used by {_processes(pids)}")
        used = self.memory_used_bytes()
        if self._idle_bytes is None or (used is not None and used < self._idle_bytes):
            self._idle_bytes = used
        excess = self._excess_bytes()
        if excess > _TOLERANCE_BYTES:
            raise DeviceBusy(
                f"{_short(self._gpu)} has {as_size(excess)} in use of which no holder is seen; it may be in a container"
            )

    def check_clean(self, *, timeout_s: float = _FREEING_S) -> None:
        """See after a job, when its processes have ended, that the GPU's memory is as it was.

        Args:
            timeout_s: How long the driver has for it.

        Raises:
            DeviceLost: If it is not and no process is there to hold it, or the GPU does not answer.
        """
        deadline = monotonic() + timeout_s
        while (excess := self._excess_bytes()) > _TOLERANCE_BYTES:
            if monotonic() > deadline:
                break
            sleep(0.05)
        if excess <= _TOLERANCE_BYTES or self.foreign_pids():
            return
        raise DeviceLost(
            f"{_short(self._gpu)} has {as_size(excess)} more in use than when it was idle, {timeout_s:g} s after the "
            "job ended, and no process holds it. Reset it (nvidia-smi --gpu-reset), then restart the worker."
        )

    def close(self) -> None:
        """Let go of NVML."""
        with suppress(pynvml.NVMLError):  # the driver went before
            pynvml.nvmlShutdown()

    def _excess_bytes(self) -> int:
        used = self.memory_used_bytes()
        return 0 if used is None or self._idle_bytes is None else used - self._idle_bytes

    @contextmanager
    def _losing(self) -> Iterator[None]:
        """Turn an error of NVML into the reason to set the GPU aside."""
        try:
            yield
        except pynvml.NVMLError as error:
            raise DeviceLost(
                f"{_short(self._gpu)} does not answer: NVML says {error}. The kernel's log may say more (Xid); restart "
                "the worker when nvidia-smi lists it again."
            ) from error


def _processes(pids: Sequence[int]) -> str:
    return f"process{'es' if len(pids) > 1 else ''} {', '.join(map(str, pids))}"
