"""Traces of any size in the form that PyTorch's profiler writes them, for the benchmarks of readers.

`python -m benchmarks.traces FILE --events N` writes the inference of a decoder on one GPU: nested operations with their
inputs, Python's calls, launches, kernels, copies, arrows and marks of steps, in Kineto's own layout and order. What it
writes depends on its arguments alone. `--bare` leaves out what is recorded only on demand (inputs, calls, memory), and
Kineto's line breaks, as tools do that write such a file anew.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryFile
from typing import IO

from benchmarks.decoder import COMPUTE, COPIES, LENGTHS, Call, Frame, Kernel, Node, Op, decoder

__all__ = ["write_trace"]

PROCESS, THREAD, DEVICE = 19_392, 19_392, 0
FIRST_NS = 1_419_247_332_500_684
ALLOCATED = 91_505_152
"""Bytes that the model's weights take."""

RUNS_A_STEP = 12
"""Users mark few steps, and HTA looks through all of them for each event."""

PARTS = ("operations", "memory", "frames", "device")
"""What stands after what in Kineto's files."""

HEADER = {
    "schemaVersion": 1,
    "deviceProperties": [
        {
            "id": DEVICE,
            "name": "NVIDIA H100 80GB HBM3",
            "totalGlobalMem": 85_018_279_936,
            "computeMajor": 9,
            "computeMinor": 0,
            "maxThreadsPerBlock": 1024,
            "maxThreadsPerMultiprocessor": 2048,
            "regsPerBlock": 65_536,
            "warpSize": 32,
            "sharedMemPerBlock": 49_152,
            "numSms": 132,
            "regsPerMultiprocessor": 65_536,
            "sharedMemPerBlockOptin": 232_448,
            "sharedMemPerMultiprocessor": 233_472,
        }
    ],
    "cupti_version": 22,
    "cuda_runtime_version": 12_040,
    "cuda_driver_version": 12_090,
    "distributedInfo": {"backend": "nccl", "rank": 0, "world_size": 1, "pg_count": 1},
    "record_shapes": 1,
    "with_stack": 1,
    "profile_memory": 1,
    "trace_id": "5D1F0C2B9A7E4E6B8F3D2C1B0A998877",
    "displayTimeUnit": "ms",
    "baseTimeNanoseconds": 1_751_410_836_000_000_000,
}

# Kineto's own spacing, which is part of a file's size.
SPAN = """  {
    "ph": "X",
    "cat": "%s",
    "name": "%s",
    "pid": %d,
    "tid": %d,
    "ts": %s,
    "dur": %s
    ,
    "args": {
      %s
    }
  },
"""
ARROW = """  {
    "ph": "%s",
    "id": %d,
    "pid": %d,
    "tid": %d,
    "ts": %s,
    "cat": "ac2g",
    "name": "ac2g"
    %s
  },
"""
MEMORY = """  {
    "ph": "i",
    "cat": "cpu_instant_event",
    "s": "t",
    "name": "[memory]",
    "pid": %d,
    "tid": %d,
    "ts": %s
    ,
    "args": {
      %s
    }
  },
"""
NAMING = """  {
    "ph": "M",
    "name": "%s",
    "ts": %s,
    "pid": %d,
    "tid": %d,
    "args": {
      "%s": %s
    }
  },
"""
ENDING = """  {
    "ph": "X",
    "cat": "Trace",
    "name": "PyTorch Profiler (0)",
    "pid": "Spans",
    "tid": "PyTorch Profiler",
    "ts": %s,
    "dur": %s
    ,
    "args": {
      "Op count": 0
    }
  },
  {
    "ph": "i",

    "s": "g",
    "name": "Iteration Start: PyTorch Profiler",
    "pid": "Traces",
    "tid": "Trace PyTorch Profiler",
    "ts": %s

  },
  {
    "ph": "i",

    "s": "g",
    "name": "Record Window End",
    "pid": "",
    "tid": "",
    "ts": %s

  }
  ],"traceName": "trace.json" }
"""


def write_trace(path: Path, *, events: int, detail: bool = True, seed: int = 0) -> int:
    """Write a trace, gzipped where the name ends so, in little memory whatever its size.

    Args:
        path: The file; others as large are made beside it for a while.
        events: How many there are at least; the last run of the model is written whole.
        detail: Whether inputs, Python's calls and memory are recorded.
        seed: Another number gives other times and lengths.

    Returns:
        The number of events.
    """
    recorder = Recorder(Random(seed), detail)
    with ExitStack() as files:
        spools = {part: files.enter_context(TemporaryFile("w+", dir=path.parent)) for part in PARTS}
        number = 0
        while recorder.events < events:
            recorder.step(number, until=events)
            number += 1
            for part, rows in recorder.take().items():
                spools[part].writelines(rows if detail else map(_one_line, rows))
        with gzip.open(path, "wt", compresslevel=6) if path.suffix == ".gz" else path.open("w") as file:
            _assemble(file, spools, recorder.now)
    return recorder.events + len(_names()) + 3


def _one_line(row: str) -> str:
    return " ".join(row.split()) + "\n"


def _assemble(file: IO[str], spools: dict[str, IO[str]], last_ns: int) -> None:
    file.write(json.dumps(HEADER, indent=2).removesuffix("\n}") + ',\n  "traceEvents": [\n')
    file.writelines(NAMING % row for row in _names())
    for spool in spools.values():
        spool.seek(0)
        shutil.copyfileobj(spool, file, 1 << 20)
    first, last = _time(FIRST_NS), _time(last_ns)
    file.write(ENDING % (first, _time(last_ns - FIRST_NS), first, last))


def _names() -> list[tuple[str, str, int, int, str, str]]:
    start = _time(FIRST_NS)
    rows = []
    for process, label, order in ((PROCESS, "CPU", PROCESS), (DEVICE, "GPU 0", 5_000_000)):
        said = {"name": '"python3"', "labels": f'"{label}"', "sort_index": str(order)}
        rows += [(f"process_{key}", start, process, 0, key, value) for key, value in said.items()]
    for process, thread, name in (
        (PROCESS, THREAD, f"thread {THREAD} (python3)"),
        (DEVICE, COMPUTE, f"stream {COMPUTE} "),
        (DEVICE, COPIES, f"stream {COPIES} "),
    ):
        said = {"name": f'"{name}"', "sort_index": str(thread)}
        rows += [(f"thread_{key}", start, process, thread, key, value) for key, value in said.items()]
    return rows


def _time(ns: int) -> str:
    return f"{ns // 1000}.{ns % 1000:03}"


@dataclass
class Recorder:
    """Plays steps on a clock of its own and collects their events as text, by the part of the file they stand in.

    Attributes:
        detail: Whether inputs, Python's calls and memory are recorded.
        now: What its clock says, nanoseconds.
        events: How many were recorded.
    """

    random: Random
    detail: bool
    now: int = FIRST_NS
    events: int = 0
    _parts: dict[str, list[str]] = field(default_factory=lambda: {part: [] for part in PARTS})
    _free_ns: dict[int, int] = field(default_factory=dict)
    _numbers: int = 0
    _operation: int = 0
    _frame: int = 0
    _allocated: int = ALLOCATED

    def take(self) -> dict[str, list[str]]:
        """Return what was recorded since it was last taken."""
        taken, self._parts = self._parts, {part: [] for part in PARTS}
        return taken

    def step(self, number: int, *, until: int) -> None:
        """Record a step, of as many runs of the model, or of fewer once there are so many events."""
        mark = self._operation = self._number()
        place, start = self._place("operations"), self._pass(9_000)
        first = max(self.now, self._free_ns.get(COMPUTE, 0))
        for _ in range(RUNS_A_STEP):
            for node in decoder(self.random.choice(LENGTHS)):
                self._play(node)
            self.now = max(self.now, *self._free_ns.values())  # the last call waits for the device
            if self.events >= until:
                break
        self._span(place, "user_annotation", f"ProfilerStep#{number}", start, self._about(mark, ""))
        last = self._free_ns[COMPUTE]
        self._work(
            "gpu_user_annotation", f"ProfilerStep#{number}", COMPUTE, first, last - first, f'"External id": {mark}'
        )
        self._pass(60_000)

    def _play(self, node: Node) -> None:
        if isinstance(node, Call):
            self._play_call(node)
        elif isinstance(node, Op):
            self._play_op(node)
        elif self.detail:
            self._play_frame(node)
        else:
            for part in node.parts:
                self._play(part)

    def _play_op(self, op: Op) -> None:
        outer, self._operation = self._operation, self._number()
        place, start, mine = self._place("operations"), self._pass(2_400), self._operation
        if op.allocates and self.detail:
            self._allocate(op.allocates)
        for part in op.parts:
            self._play(part)
        self._pass(1_300)
        self._span(place, "cpu_op", op.name, start, self._about(mine, op.inputs))
        self._operation = outer

    def _play_frame(self, frame: Frame) -> None:
        outer, self._frame = self._frame, self._number()
        place, start, mine = self._place("frames"), self._pass(500), self._frame
        for part in frame.parts:
            self._play(part)
        self._pass(300)
        layer = "" if frame.layer is None else f'"Python module id": {frame.layer}, '
        args = f'"Python parent id": {outer or "null"}, "Python id": {mine}, {layer}"Ev Idx": {mine}'
        self._span(place, "python_function", frame.name, start, args)
        self._frame = outer

    def _play_call(self, call: Call) -> None:
        correlation, start = self._number(), self._pass(4_000 if call.kernel else 800)
        args = f'"External id": {self._operation}, "cbid": {call.code}, "correlation": {correlation}'
        self._span(self._place("device"), "cuda_runtime", call.name, start, args)
        if call.kernel is not None:
            self._launch(call.kernel, correlation, start)

    def _launch(self, kernel: Kernel, correlation: int, called: int) -> None:
        start = max(called + self.random.randrange(3_000, 6_000), self._free_ns.get(kernel.stream, 0) + 900)
        duration = kernel.duration_ns + self.random.randrange(kernel.duration_ns // 8 + 1)
        self._free_ns[kernel.stream] = start + duration
        queued = '"queued": 0, ' if kernel.category == "kernel" else ""
        args = (
            f'"External id": {self._operation}, {queued}"device": {DEVICE}, "context": 1,\n      '
            f'"stream": {kernel.stream}, "correlation": {correlation},\n      {kernel.args}'
        )
        self._add("device", ARROW % ("s", correlation, PROCESS, THREAD, _time(called), ""))
        self._work(kernel.category, kernel.name, kernel.stream, start, duration, args)
        self._add("device", ARROW % ("f", correlation, DEVICE, kernel.stream, _time(start), ', "bp": "e"'))

    def _allocate(self, size: int) -> None:
        # What the caching allocator hands out stays with it; where it runs full, the model has let go of all.
        self._allocated = ALLOCATED if self._allocated > 1 << 31 else self._allocated + size
        args = (
            f'"Total Reserved": {1 << 32}, "Total Allocated": {self._allocated}, "Bytes": {size}, '
            f'"Device Id": {DEVICE}, "Device Type": 1, "Addr": {self.random.randrange(1 << 38, 1 << 39) * 256}, '
            f'"Ev Idx": {self._number()}'
        )
        self._add("memory", MEMORY % (PROCESS, THREAD, _time(self.now), args))

    def _work(self, category: str, name: str, stream: int, start: int, duration: int, args: str) -> None:
        self._add("device", SPAN % (category, name, DEVICE, stream, _time(start), _time(duration), args))

    def _add(self, part: str, row: str) -> None:
        self._parts[part].append(row)
        self.events += 1

    def _place(self, part: str) -> tuple[str, int]:
        """Hold a place for an event that is written once its end is known, as parents stand before children."""
        self._add(part, "")
        return part, len(self._parts[part]) - 1

    def _span(self, place: tuple[str, int], category: str, name: str, start: int, args: str) -> None:
        part, index = place
        times = _time(start), _time(self.now - start)
        self._parts[part][index] = SPAN % (category, name, PROCESS, THREAD, *times, args)

    def _about(self, number: int, inputs: str) -> str:
        if not self.detail:
            return f'"External id": {number}'
        return f'"External id": {number},"Record function id": 0, {inputs}"Ev Idx": {number}'

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _pass(self, about_ns: int) -> int:
        """Let some time pass; return when it began."""
        start = self.now
        self.now += int(about_ns * (0.6 + 0.8 * self.random.random()))
        return start


def main() -> None:
    """Write the file that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.traces", description="Write a trace as PyTorch would.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--events", type=int, default=150_000)
    parser.add_argument("--bare", action="store_true", help="without inputs, Python's calls and memory")
    given = parser.parse_args()
    count = write_trace(given.file, events=given.events, detail=not given.bare)
    print(f"{given.file}: {count} events, {given.file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
