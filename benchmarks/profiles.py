"""What a profile costs: to build and store it, to keep it, to ask it; against other tools' own ways in the same run.

Run with `make bench-profiles`, or one part with `python -m benchmarks.profiles chrome|torch|size|queries|memory`. What
is compared runs in a process of its own, which reads a small trace first so that imports do not count. Rounds are
interleaved, figures are medians. `--large` also reads a trace of more than a gigabyte. Traces are made once and kept in
build/traces.
"""

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.stored_profiles import ask, fill
from benchmarks.traces import write_trace
from dnnamo.client import Session
from dnnamo.settings import Settings
from tests.servers import fresh_database, start_postgres

ROOT = Path(__file__).parents[1]
TRACES = ROOT / "build" / "traces"
PEERS = ROOT / "benchmarks" / "peers"
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"

ROUNDS = 5
PROFILES = 10_000
FEW_PROFILES = 100
QUESTIONS = 100
TRAINING_LAYERS = 5
"""Gives about 105 MB."""

LARGE_EVENTS = 3_000_000

FASTER = {"HTA": 8, "TraceLens": 5}
"""How many times as long each peer should take as we do."""

Measured = dict[str, Any]


class ChildFailedError(SystemExit):
    """A program that measures ended with an error."""

    def __init__(self, command: Sequence[object], stderr: str) -> None:
        super().__init__(f"{[str(part) for part in command]} failed:\n{stderr}")
        self.last_line = (stderr.strip() or "no message").splitlines()[-1]


def main() -> None:
    """Print each figure beside its bar."""
    parts = {"chrome": chrome, "torch": torch, "size": size, "queries": queries, "memory": memory}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profiles", description="What a profile costs.")
    parser.add_argument("parts", nargs="*", metavar="PART", choices=[*parts, []], help=", ".join(parts))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--large", action="store_true", help="with memory, read a trace of over a gigabyte, too")
    given = parser.parse_args()
    TRACES.mkdir(parents=True, exist_ok=True)
    for name in given.parts or parts:
        parts[name](given)


def chrome(given: argparse.Namespace) -> None:
    """Print time and peak memory from a trace file to what is stored, against peers that store nothing."""
    for name, path in traces().items():
        print(f"{name}: {path.stat().st_size / 1e6:.0f} MB")
        runs = interleaved({"ours": partial(imported, path), **peers_for(path)}, given.rounds)
        ours = runs.pop("ours")
        print(f"  stored in SQLite     {median(ours):7.2f} s {megabytes(ours):6.0f} MB, {ours[0]['events']:,} events")
        for peer, theirs in runs.items():
            compare(peer, ours, theirs)
        if "TraceLens" not in runs:
            print("  TraceLens is not there: .venv-peers/bin/python -m pip install -r benchmarks/peers/tracelens.txt")


def peers_for(path: Path) -> dict[str, Callable[[], Measured]]:
    """Return what reads the file with each peer that is installed."""
    if not PEERS_PYTHON.exists():
        raise SystemExit("The tools to compare with are not installed; run `make .venv-peers/installed` first.")
    scripts = {"HTA": PEERS / "read_with_hta.py"}
    if subprocess.run([PEERS_PYTHON, "-c", "import TraceLens"], stderr=subprocess.DEVNULL).returncode == 0:
        scripts["TraceLens"] = PEERS / "read_with_tracelens.py"
    return {name: partial(peer_reads, script, path) for name, script in scripts.items()}


def peer_reads(script: Path, path: Path) -> Measured:
    """Read a trace with a peer; return why where it cannot, as one that wants a GPU's events in every trace."""
    try:
        return child([PEERS_PYTHON, script, first_trace(), path])
    except ChildFailedError as failure:
        return {"failed": failure.last_line}


def compare(peer: str, ours: list[Measured], theirs: list[Measured]) -> None:
    """Print a peer's figures and how ours stand to them."""
    failures = [run["failed"] for run in theirs if "failed" in run]
    if failures:
        print(f"  {peer:<20} cannot read this file: {failures[0]}")
        return
    print(
        f"  {peer:<20} {median(theirs):7.2f} s {megabytes(theirs):6.0f} MB: {faster(ours, theirs):.1f} x faster   "
        f"bar {FASTER[peer]} x ({faster(ours, theirs, 'cpu_seconds'):.1f} x by CPU time); "
        f"{megabytes(ours) / megabytes(theirs):.2f} of its memory   bar 0.5"
    )


def torch(given: argparse.Namespace) -> None:
    """Print time from the stopped profiler to what is stored, and what the whole capture takes."""
    for kind, options in {"": (), ", input shapes": ("--shapes",)}.items():
        compared = [captured("--peer", *options) for _ in range(given.rounds)]
        ours, own = median(compared, "stored_s"), median(compared, "own_s")
        by_cpu = median(compared, "own_cpu_s") / median(compared, "stored_cpu_s")
        print(
            f"profiler stopped to stored, {compared[0]['events']:,} events{kind}: {ours:.2f} s\n"
            f"  PyTorch's events() and key_averages() {own:.2f} s: {own / ours:.1f} x faster   bar 15 x "
            f"({by_cpu:.1f} x by CPU time)"
        )
    runs = [captured() for _ in range(given.rounds)]
    steps, whole = median(runs, "steps_s"), median(runs, "capture_s")
    print(
        f"capture until it is stored, {runs[0]['events']:,} events: {whole:.2f} s\n"
        f"  the 50 profiled steps {steps:.2f} s: {whole / steps:.2f} x   bar 1.5 x"
    )


def size(_given: argparse.Namespace) -> None:
    """Print the bytes that a stored profile takes, tables and indices included, against its gzipped trace."""
    for name, path in traces().items():
        ours = imported(path)
        stored, events = ours["stored_bytes"], ours["events"]
        # At level 9, as `export_chrome_trace` does where the name ends so.
        packed = len(gzip.compress(path.read_bytes(), compresslevel=9, mtime=0))
        print(
            f"{name}: {stored / events:.1f} bytes an event in the database ({ours['events_bytes'] / events:.1f} in its "
            f"event table), {packed / events:.1f} in the gzipped trace: {packed / stored:.1f} x smaller   bar 5 x"
        )


def queries(_given: argparse.Namespace) -> None:
    """Print the time of the operation table of one profile and of two joined, among few and among many profiles."""
    with ExitStack() as running:
        folder = Path(running.enter_context(TemporaryDirectory(prefix="dnnamo-bench-")))
        folder.chmod(0o755)  # PostgreSQL runs as a user of its own where we are root
        server = running.enter_context(start_postgres(folder / "postgres"))
        ask_database("SQLite", Settings(home=folder))
        ask_database("PostgreSQL", Settings(home=folder, database_url=running.enter_context(fresh_database(server))))


def ask_database(kind: str, settings: Settings) -> None:
    """Fill a database and print its times."""
    session = Session(settings)
    with session.store:
        jobs = fill(session, FEW_PROFILES)
        few = ask(session, jobs, QUESTIONS)
        jobs += fill(session, PROFILES - FEW_PROFILES)
        many = ask(session, jobs, QUESTIONS)
    for what, bar in (("one", 50), ("two", 100)):
        among_few, among_many = (statistics.median(asked[what]) * 1e3 for asked in (few, many))
        print(
            f"{kind}: table of {what} of {PROFILES:,} profiles {among_many:5.1f} ms   bar {bar} ms; of {FEW_PROFILES} "
            f"{among_few:5.1f} ms: {among_many / among_few:.2f} x"
        )


def memory(given: argparse.Namespace) -> None:
    """Print how far a runner grows while it converts a profile, and what reading a large file takes."""
    runs = [captured("--once") for _ in range(given.rounds)]
    grown = median(runs, "grown_bytes") / median(runs, "events")
    print(f"a runner grows by {grown:.0f} bytes an event while it converts a profile   bar 600")
    if given.large:
        path = trace("large.json", LARGE_EVENTS)
        ours = imported(path)
        file_bytes, peak = path.stat().st_size, ours["peak_bytes"]
        print(
            f"a trace of {file_bytes / 1e6:,.0f} MB, {ours['events']:,} events: {ours['seconds']:.0f} s, peak "
            f"{peak / 1e6:,.0f} MB, {peak / file_bytes:.2f} of its size   bar 3"
        )


def traces() -> dict[str, Path]:
    """Return the files to read, by what they are; those that are not there are made."""
    return {
        "GPU inference": trace("inference.json", 150_000),
        "GPU inference, bare": trace("bare.json", 455_000, detail=False),
        "CPU training": training_trace(),
    }


def first_trace() -> Path:
    """Return a small trace to begin with."""
    return trace("first.json", 5_000)


def trace(name: str, events: int, *, detail: bool = True) -> Path:
    """Return a synthetic trace."""
    path = TRACES / name
    if not path.exists():
        draft = path.with_name(f"draft.{name}")
        write_trace(draft, events=events, detail=detail)
        draft.replace(path)
    return path


def training_trace() -> Path:
    """Return the trace of 50 training steps that PyTorch writes itself."""
    path = TRACES / "training.json"
    if not path.exists():
        draft = path.with_name("draft.training.json")
        subprocess.run(
            [sys.executable, "-m", "benchmarks.training_trace", draft, str(TRAINING_LAYERS)], cwd=ROOT, check=True
        )
        draft.replace(path)
    return path


def interleaved(runs: dict[str, Callable[[], Measured]], rounds: int) -> dict[str, list[Measured]]:
    """Do each once a round; return what each measured."""
    measured: dict[str, list[Measured]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            measured[name].append(run())
    return measured


def median(runs: list[Measured], what: str = "seconds") -> float:
    """Return the median of a figure."""
    return float(statistics.median(run[what] for run in runs))


def megabytes(runs: list[Measured]) -> float:
    """Return the median peak memory."""
    return median(runs, "peak_bytes") / 1e6


def faster(ours: list[Measured], theirs: list[Measured], what: str = "seconds") -> float:
    """Return how many times as long theirs took."""
    return median(theirs, what) / median(ours, what)


def imported(path: Path) -> Measured:
    """Import a trace into a database that has been set up, as it has by the second import."""
    command = [sys.executable, "-m", "benchmarks.store_trace", first_trace()]
    with home() as folder:
        child([*command, first_trace()], DNNAMO_HOME=str(folder))
        return child([*command, path], DNNAMO_HOME=str(folder))


def captured(*options: str) -> Measured:
    """Profile training steps and store the profile in a new database."""
    with home() as folder:
        return child([sys.executable, "-m", "benchmarks.store_capture", folder, *options])


@contextmanager
def home() -> Iterator[Path]:
    """Yield an empty folder, removed at the end."""
    with TemporaryDirectory(prefix="dnnamo-bench-") as folder:
        yield Path(folder)


def child(command: Sequence[object], **environment: str) -> Measured:
    """Run a program; return the JSON that it printed on its last line."""
    ran = subprocess.run(
        [str(part) for part in command], env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True
    )
    if ran.returncode != 0:
        raise ChildFailedError(command, ran.stderr)
    return json.loads(ran.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
