"""How the programs that are compared tell what they took, with nothing but the standard library."""

import json
import time
from pathlib import Path

__all__ = ["Watch", "peak_bytes"]


class Watch:
    """Times what happens in a `with` block, by the clock and by the processor."""

    def __enter__(self) -> "Watch":
        self._start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        start, cpu = self._start
        self.seconds = time.perf_counter() - start
        self.cpu_seconds = time.process_time() - cpu

    def report(self, **more: object) -> None:
        """Print what the block took, the process's peak memory, and whatever else, as JSON."""
        took = {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds, "peak_bytes": peak_bytes()}
        print(json.dumps(took | more))


def peak_bytes() -> int:
    """Return the largest resident memory of this program; `ru_maxrss` may be its parent's, from before the exec."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("/proc/self/status has no VmHWM; these benchmarks need Linux.")
