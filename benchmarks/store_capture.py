"""Profiles training steps of demo:transformer as a runner does and stores the profile; prints what it took as JSON.

`benchmarks.profiles` runs it in a process of its own: `python -m benchmarks.store_capture FOLDER`. A profile of a few
steps comes first, which has everything loaded; with `--once` it does not. With `--shapes` input shapes are recorded;
with `--peer` PyTorch makes its own events and table of the same profile.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

from benchmarks.peers.measured import Watch, peak_bytes
from dnnamo.loaders import load
from dnnamo.model import Capturing
from dnnamo.profiles.build import stored_form
from dnnamo.profiles.readers import read
from dnnamo.records import EVENTS_NAME, Artifact, JobSpec, Outcome
from dnnamo.runner.measure import profile as profile_steps
from dnnamo.runner.measure import warm_up
from dnnamo.runner.preload import preload_profiles
from dnnamo_storage import Store

FEW_STEPS, STEPS = 2, 50
MODEL, METHOD = "demo:transformer", "profile_training"
ARTIFACTS = [Artifact(name=EVENTS_NAME, media_type="application/vnd.apache.parquet")]


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--shapes", action="store_true")
    parser.add_argument("--peer", action="store_true")
    given = parser.parse_args()
    preload_profiles()
    model = load(MODEL, {})
    warm_up(model, METHOD, count=None)
    with Store.open(f"sqlite:///{given.folder / 'dnnamo.db'}") as store:
        for n_steps in [STEPS] if given.once else [FEW_STEPS, STEPS]:
            with Capturing(["shapes"] if given.shapes else []):
                measured, native = store_profile(model, store, n_steps)
            if given.peer:
                measured |= own_way(native, by_shape=given.shapes)
    print(json.dumps(measured))


def store_profile(model: Any, store: Store, n_steps: int) -> tuple[dict[str, float], Any]:
    """Return seconds and bytes of one profile, and the profiler that took it."""
    store.submit(JobSpec(model=MODEL, method=METHOD, n_steps=n_steps))
    claim = store.claim(["cpu"], worker="bench", lease_s=600)
    if claim is None:
        raise SystemExit("there is nothing to claim")
    with Watch() as capture:
        profiled = profile_steps(model, METHOD, n_steps=n_steps)
        resident = watch_peak()
        with Watch() as storing:
            recording = read(profiled.native)
            profile, content = stored_form(recording)
            grown = peak_bytes() - resident
            outcome = Outcome(state="succeeded", profile=profile, artifacts=ARTIFACTS)
            if not store.record(claim, outcome, files={EVENTS_NAME: content}):
                raise SystemExit("the claim did not hold")
    measured = {
        "events": profile.events,
        "steps_s": sum(profiled.duration_ns) / 1e9,
        "capture_s": capture.seconds,
        "stored_s": storing.seconds,
        "stored_cpu_s": storing.cpu_seconds,
        "grown_bytes": grown,
    }
    return measured, profiled.native


def own_way(profiler: Any, *, by_shape: bool) -> dict[str, float]:
    """Return the seconds that PyTorch takes for its list of events and its table, storing nothing."""
    with Watch() as watch:
        profiler.events()
        profiler.key_averages(group_by_input_shape=by_shape)
    return {"own_s": watch.seconds, "own_cpu_s": watch.cpu_seconds}


def watch_peak() -> int:
    """Begin to look for this process's peak memory anew; return its resident memory, bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


if __name__ == "__main__":
    main()
