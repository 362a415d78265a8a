"""What else happened on the machine while steps were counted, and whether the times can be trusted for it.

Everything is read from the kernel's and the driver's own counters before the first counted step and after the last;
nothing runs in between. Sources: proc(5) for `/proc/stat` and `/proc/PID/stat`, Documentation/scheduler/sched-stats.rst
of the kernel for `schedstat`, Documentation/ABI/testing/sysfs-devices-system-cpu for `thermal_throttle`, and NVIDIA's
NVML API reference.
"""

import os
import resource
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from time import perf_counter_ns
from types import TracebackType
from typing import Any, Self

import msgspec
import pynvml

from dnnamo.records import Evidence
from dnnamo.runner.proc import descendants, read

__all__ = ["Watch", "disturbances", "foreign_gpu_pids"]

_FOREIGN_SHARE = 0.05
_STEAL_SHARE = 0.02
_DELAY_SHARE = 0.05

_GRAIN_NS = 30_000_000
"""What the figures of one core from `/proc/stat` may be off by: 10 ms each for idle, waiting and stolen time."""

_LEAST_DELAY_NS = 5_000_000
"""Delays are exact, but a quiet machine has some too: microseconds at each wake-up, more when a kernel thread runs."""

_BUSY_SHARE = 0.01
"""A thread or child counts as competing for the cores from this share of the time on."""

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_SYSFS = "/sys/devices/system/cpu"

# Not among them: idle clocks, and clocks that somebody set, which are the same at each measurement.
_HELD_DOWN = {
    pynvml.nvmlClocksEventReasonSwThermalSlowdown: "software thermal slowdown",
    pynvml.nvmlClocksEventReasonHwThermalSlowdown: "hardware thermal slowdown",
    pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown: "hardware power brake",
    pynvml.nvmlClocksEventReasonHwSlowdown: "hardware slowdown",
    pynvml.nvmlClocksEventReasonSwPowerCap: "software power cap",
}
# A heavy network on its own drives a GPU up to its power limit, so this alone is the network's doing, each time.
_HELD_BY_OWN_LOAD = "software power cap"


def disturbances(seen: Evidence, *, longest_delay_ns: int = 0) -> list[str]:
    """Judge what was seen.

    Args:
        seen: The figures; its `reasons` are not looked at.
        longest_delay_ns: The longest time that one thread waited for a core that others had; 0 if its own siblings may
            have had it.

    Returns:
        Why the measurement counts as disturbed: one sentence for each figure beyond its bound, with both.
    """
    whole = seen.wall_ns * len(seen.cores)
    # Errors of several cores cancel each other in part.
    grain = _GRAIN_NS * sqrt(len(seen.cores))
    reasons = [
        *_beyond(
            "other processes took {} of the measurement's cores", seen.foreign_cpu_ns, whole, _FOREIGN_SHARE, grain
        ),
        *_beyond("the hypervisor kept back {} of the measurement's cores", seen.steal_ns, whole, _STEAL_SHARE, grain),
        *_beyond(
            "a thread waited {} of the time for a core", longest_delay_ns, seen.wall_ns, _DELAY_SHARE, _LEAST_DELAY_NS
        ),
    ]
    if seen.throttles:
        reasons.append(f"the cores were slowed down for heat or power (count {seen.throttles}, bound 0)")
    if seen.foreign_gpu_pids:
        reasons.append(f"the GPU was used by other processes: {', '.join(map(str, seen.foreign_gpu_pids))}")
    held = [why for why in seen.gpu_throttles if why != _HELD_BY_OWN_LOAD]
    if held:
        reasons.append(f"the GPU's clocks were held down: {', '.join(held)}")
    return reasons


def _beyond(sentence: str, figure_ns: int, whole_ns: int, share: float, least_ns: float) -> list[str]:
    bound_ns = max(share * whole_ns, least_ns)
    if figure_ns <= bound_ns:
        return []
    return [f"{sentence.format(f'{figure_ns / whole_ns:.1%}')} (bound {bound_ns / whole_ns:.1%})"]


def foreign_gpu_pids(handle: Any, own: Collection[int]) -> list[int]:
    """Return the processes that compute on a GPU and are not among one's own.

    Args:
        handle: NVML's handle of the GPU.
        own: Process ids to leave out.

    Raises:
        pynvml.NVMLError: If the driver does not tell.
    """
    pids = {process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)}
    return sorted(pid for pid in pids - set(own) if _lives(pid))


def _lives(pid: int) -> bool:
    # The driver lists processes for a moment after they died; and old ones list ids of outside the container, where
    # our own has another.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Watch:
    """Watches the machine from the start to the end of the `with` block, which holds the counted steps.

    The cores are those that the calling thread may use at the start. What the kernel does not tell (a container without
    `/proc/stat`, a machine without counters of throttling) counts as nothing seen. Whether the GPU's clocks are held
    down is looked at on both ends, so what comes and goes in between stays unseen.

    Args:
        gpu: UUID of the GPU that the steps run on, if they do.

    Attributes:
        evidence: The figures with the reasons for a doubt, once the block has ended without an exception.
    """

    evidence: Evidence

    def __init__(self, gpu: str | None = None) -> None:
        self._gpu = _GpuWatch(gpu) if gpu else None

    def __enter__(self) -> Self:
        self._cores = sorted(os.sched_getaffinity(0))
        if self._gpu:
            self._gpu.look()
        self._before = _look_before(self._cores)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        after = _look_after(self._cores)
        if self._gpu:
            self._gpu.look()
            self._gpu.close()
        if error is None:
            self.evidence = self._conclude(after)

    def _conclude(self, after: "_Look") -> Evidence:
        seen, longest_delay_ns = _difference(self._cores, self._before, after)
        if self._gpu is None:
            return msgspec.structs.replace(seen, reasons=disturbances(seen, longest_delay_ns=longest_delay_ns))
        seen = msgspec.structs.replace(
            seen, foreign_gpu_pids=sorted(self._gpu.foreign_pids), gpu_throttles=self._gpu.throttles
        )
        reasons = disturbances(seen, longest_delay_ns=longest_delay_ns) + self._gpu.failures
        return msgspec.structs.replace(seen, reasons=reasons)


@dataclass(frozen=True)
class _Look:
    """The counters at one moment, times in nanoseconds.

    Attributes:
        at: Clock that only the difference of two looks means something of.
        own: CPU time of this process and of the children it has waited for.
        children: CPU time of each process that descends from this one and lives.
        unused: Time that each core was idle, waiting for a disk or kept by the hypervisor.
        steal: The last of these alone.
        threads: For each thread, the time on a core and the time ready to run and waiting for one.
        throttles: Each counter of throttling, by file.
    """

    at: int
    own: int
    children: dict[int, int]
    unused: dict[int, int]
    steal: dict[int, int]
    threads: dict[int, tuple[int, int]]
    throttles: dict[str, int]


def _look_before(cores: Collection[int]) -> _Look:
    """Look at everything, the clock last."""
    throttles, threads, children = _throttles(cores), _threads(), _children()
    unused, steal = _core_times(cores)
    own = _own_ns()
    return _Look(perf_counter_ns(), own, children, unused, steal, threads, throttles)


def _look_after(cores: Collection[int]) -> _Look:
    """Look at everything, the clock first."""
    at, own = perf_counter_ns(), _own_ns()
    unused, steal = _core_times(cores)
    return _Look(at, own, _children(), unused, steal, _threads(), _throttles(cores))


def _difference(cores: list[int], before: _Look, after: _Look) -> tuple[Evidence, int]:
    """Return the evidence without reasons, and the longest delay of a thread that others caused."""
    wall = after.at - before.at
    own = max(0, after.own + sum(after.children.values()) - before.own - sum(before.children.values()))
    threads = {tid: _since(before.threads.get(tid, (0, 0)), now) for tid, now in after.threads.items()}
    delays = [delayed for _, delayed in threads.values()]
    in_use = sum(max(0, wall - unused + before.unused[core]) for core, unused in after.unused.items())
    counts = [max(0, count - before.throttles.get(file, count)) for file, count in after.throttles.items()]
    seen = Evidence(
        wall_ns=wall,
        cores=cores,
        own_cpu_ns=own,
        foreign_cpu_ns=max(0, in_use - own),
        delayed_ns=sum(delays),
        steal_ns=sum(max(0, steal - before.steal[core]) for core, steal in after.steal.items()),
        # Not the sum: threads of one core and cores of one package count the same event again.
        throttles=max(counts, default=None),
    )
    rivals = [ran for ran, _ in threads.values()]
    rivals += [ran - before.children.get(pid, 0) for pid, ran in after.children.items()]
    crowded = sum(ran > _BUSY_SHARE * wall for ran in rivals) > len(cores)
    return seen, 0 if crowded else max(delays, default=0)


def _since(before: tuple[int, int], now: tuple[int, int]) -> tuple[int, int]:
    return max(0, now[0] - before[0]), max(0, now[1] - before[1])


def _own_ns() -> int:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(int(1e9 * (usage.ru_utime + usage.ru_stime)) for usage in usages)


def _children() -> dict[int, int]:
    """Return CPU times from `/proc/PID/stat`: utime, stime, cutime and cstime, fields 14 to 17 in clock ticks."""
    times = {}
    for pid in descendants(os.getpid()):
        # The second field, the name in brackets, may hold blanks and brackets.
        fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        if fields:
            times[pid] = _TICK_NS * sum(map(int, fields[11:15]))
    return times


def _core_times(cores: Collection[int]) -> tuple[dict[int, int], dict[int, int]]:
    """Return what each core spent unused and stolen, from the `cpuN` lines of `/proc/stat`, in ticks of 10 ms.

    The fields are user, nice, system, idle, iowait, irq, softirq, steal. The busy ones are sampled at the timer's
    interrupt on most kernels, and were off by up to 30 ms in a second; idle time is measured, so what is left of the
    clock's is exact to the tick.
    """
    unused, steal = {}, {}
    wanted = {f"cpu{core}": core for core in cores}
    for line in read("/proc/stat").splitlines():
        name, *fields = line.split(maxsplit=9)[:9]
        if not name.startswith("cpu"):
            break
        times = [_TICK_NS * int(field) for field in fields]
        if name in wanted and any(times):  # some sandboxes have lines of zeros
            unused[wanted[name]] = times[3] + times[4] + times[7]
            steal[wanted[name]] = times[7]
    return unused, steal


def _threads() -> dict[int, tuple[int, int]]:
    """Return the first two fields of each thread's `schedstat`: nanoseconds on a core, and on a run queue."""
    threads = {}
    for task in Path("/proc/self/task").iterdir():
        fields = read(f"{task}/schedstat").split()
        if fields:
            threads[int(task.name)] = int(fields[0]), int(fields[1])
    return threads


def _throttles(cores: Collection[int]) -> dict[str, int]:
    files = [
        f"{_SYSFS}/cpu{core}/thermal_throttle/{part}_throttle_count" for core in cores for part in ("core", "package")
    ]
    counts = {file: read(file) for file in files}
    return {file: int(count) for file, count in counts.items() if count}


class _GpuWatch:
    """Collects what NVML tells of one GPU each time that it is looked at.

    Attributes:
        foreign_pids: Processes of others that computed on it.
        failures: Why it could not be looked at, a sentence each time that it could not.
    """

    def __init__(self, uuid: str) -> None:
        self.foreign_pids: set[int] = set()
        self.failures: list[str] = []
        self._bits = 0
        self._uuid = uuid
        self._is_open = False
        try:
            pynvml.nvmlInit()  # takes long, so not while anything is measured
            self._is_open = True
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        except pynvml.NVMLError as error:
            self._fail(error)

    @property
    def throttles(self) -> list[str]:
        """Why its clocks were held down."""
        return [words for bit, words in _HELD_DOWN.items() if self._bits & bit]

    def look(self) -> None:
        if self.failures:
            return
        try:
            self.foreign_pids.update(foreign_gpu_pids(self._handle, [os.getpid(), *descendants(os.getpid())]))
            self._bits |= _clock_reasons(self._handle)
        except pynvml.NVMLError as error:
            self._fail(error)

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            with suppress(pynvml.NVMLError):  # the driver has gone, as the failures say
                pynvml.nvmlShutdown()

    def _fail(self, error: Exception) -> None:
        self.failures.append(f"{self._uuid} could not be watched: NVML says {error}")


def _clock_reasons(handle: Any) -> int:
    """Return `nvmlClocksEventReasons`, 0 where the GPU or an old driver has none."""
    try:
        return int(pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
        return 0
