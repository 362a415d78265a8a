"""What a job may take of its machine, and whether it has taken more."""

import os
from collections.abc import Iterable
from pathlib import Path
from time import monotonic
from typing import NamedTuple, Self

from dnnamo.records import Cause, JobSpec
from dnnamo.runner.proc import read
from dnnamo.settings import Settings
from dnnamo.sizes import as_size
from dnnamo_workers.process import RunnerProcess

__all__ = ["Breach", "Limits", "Meter", "oom_kills"]

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SHORTEST_LOOK_S = 0.01
_LONGEST_LOOK_S = 0.5
_BYTES_PER_S = 4e9
"""What a job may fill of memory or disk in a second, at most; it decides how soon the next look is needed."""

_PROCESSES_PER_S = 2000.0


class Limits(NamedTuple):
    """The bounds of one attempt; None sets no limit."""

    wall_s: float | None
    memory_bytes: int | None
    output_bytes: int
    scratch_bytes: int
    processes: int

    @classmethod
    def of(cls, spec: JobSpec, settings: Settings) -> Self:
        """Return what the job asks for, and where it asks for nothing what the settings of the worker say."""
        return cls(
            wall_s=settings.time_limit_s if spec.timeout_s is None else spec.timeout_s,
            memory_bytes=settings.memory_limit if spec.memory_bytes is None else spec.memory_bytes,
            output_bytes=settings.output_limit if spec.output_bytes is None else spec.output_bytes,
            scratch_bytes=settings.scratch_limit if spec.scratch_bytes is None else spec.scratch_bytes,
            processes=settings.process_limit,
        )


class Breach(NamedTuple):
    """A limit that was passed: the cause that the attempt ends with, and the figures in words."""

    cause: Cause
    message: str


class Meter:
    """Looks at what an attempt takes, the more often the closer it is to a limit.

    Memory is the resident memory of all its processes, pages that they share counted once (proc_pid_smaps(5), Pss).

    Args:
        limits: The bounds.
        runner: The runner of the attempt.
        scratch: Its scratch folder.
    """

    def __init__(self, limits: Limits, runner: RunnerProcess, scratch: Path) -> None:
        self._limits = limits
        self._runner = runner
        self._scratch = scratch
        self._deadline = float("inf") if limits.wall_s is None else monotonic() + limits.wall_s
        self._next_look = 0.0

    @property
    def wait_s(self) -> float:
        """Seconds until `breach` should be asked again."""
        return max(0.0, min(self._deadline, self._next_look) - monotonic())

    def breach(self) -> Breach | None:
        """Return the first limit that is passed now, None if none is."""
        now = monotonic()
        if now >= self._deadline:
            return Breach("timeout", f"Still running after {self._limits.wall_s:g} s, the time limit of this job.")
        if now < self._next_look:
            return self.breach_at_end()
        return self._look() or self.breach_at_end()

    def breach_at_end(self) -> Breach | None:
        """Return the breach of the limit that can be told after the job has ended, None if there is none."""
        written, limit = self._runner.output.length, self._limits.output_bytes
        return _too_large("output_limit", "It wrote", written, limit, "of output") if written > limit else None

    def _look(self) -> Breach | None:
        pids = self._runner.pids
        memory = self._memory(pids)
        scratch = _size_of(self._scratch)
        limits = self._limits
        rooms = [(limits.scratch_bytes - scratch) / _BYTES_PER_S, (limits.processes - len(pids)) / _PROCESSES_PER_S]
        if limits.memory_bytes is not None:
            rooms.append((limits.memory_bytes - memory) / _BYTES_PER_S)
        self._next_look = monotonic() + min(max(min(rooms), _SHORTEST_LOOK_S), _LONGEST_LOOK_S)
        if limits.memory_bytes is not None and memory > limits.memory_bytes:
            return _too_large("oom_host", "Its processes had", memory, limits.memory_bytes, "of resident memory")
        if scratch > limits.scratch_bytes:
            return _too_large("scratch_limit", "Its scratch folder held", scratch, limits.scratch_bytes, "of files")
        if len(pids) > limits.processes:
            had = f"{len(pids)} of {limits.processes} processes"
            return Breach("process_limit", f"{had}. It had more at once than the worker allows.")
        return None

    def _memory(self, pids: Iterable[int]) -> int:
        if self._limits.memory_bytes is None:
            return 0
        resident = sum(map(_resident_bytes, pids))
        # The exact figure takes a walk over all pages, so it is asked for where it may matter.
        return resident if resident <= self._limits.memory_bytes else sum(map(_proportional_bytes, pids))


def _too_large(cause: Cause, what: str, had: int, limit: int, of: str) -> Breach:
    figures = f"{as_size(had)} of {as_size(limit)}"
    return Breach(cause, f"{figures}. {what} {as_size(had)} {of}, and {as_size(limit)} is its limit.")


def _resident_bytes(pid: int) -> int:
    fields = read(f"/proc/{pid}/statm").split()
    return int(fields[1]) * _PAGE_BYTES if fields else 0


def _proportional_bytes(pid: int) -> int:
    for line in read(f"/proc/{pid}/smaps_rollup").splitlines():
        name, _, rest = line.partition(":")
        if name == "Pss":
            return int(rest.split()[0]) * 1024
    return 0


def _size_of(folder: Path) -> int:
    """Return the size of all files below a folder as the disk has it, holes not counted."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(f"{path}/{name}").st_blocks * 512
            except OSError:  # removed meanwhile
                continue
    return total


def oom_kills() -> int:
    """Return how many processes the kernel has killed for want of memory since it started; see proc_vmstat(5)."""
    for line in read("/proc/vmstat").splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return 0
