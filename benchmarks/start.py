"""How long the command line and the library take to start, against bare Python and against importing typer alone.

Run with `make bench`. Interleaved, medians; the bar for `dnnamo --help` is 400 ms.
"""

import statistics
import subprocess
import sys
from pathlib import Path
from time import perf_counter

ROUNDS = 15
DNNAMO = str(Path(sys.executable).with_name("dnnamo"))
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import typer": [sys.executable, "-c", "import typer"],
    "import dnnamo": [sys.executable, "-c", "import dnnamo"],
    "dnnamo --help": [DNNAMO, "--help"],
}


def seconds(command: list[str]) -> float:
    """Return the wall time of one run of a command."""
    start = perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return perf_counter() - start


def main() -> None:
    """Print the median time of each command and its ratio to bare Python's."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    bare = statistics.median(times["python -c pass"])
    for name, measured in times.items():
        median = statistics.median(measured)
        print(f"{name:<16} {median * 1e3:6.0f} ms  {median / bare:5.1f} x bare Python")


main()
