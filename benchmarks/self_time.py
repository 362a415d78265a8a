"""How much of the profiled steps' wall time the operation table accounts for, on one thread.

Run with `make bench`. The bar for demo:transformer is 0.90 to 1.10. The peer is PyTorch's own table of the same
profile, `key_averages()`, without its rows for the steps themselves.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

from dnnamo.loaders import load
from dnnamo.profiles.build import profile_of
from dnnamo.profiles.readers import read

STEPS = 20


def main() -> None:
    """Print the ratio for each demo, training and inference, by our table and by PyTorch's."""
    print(f"{'':<28} {'ours / wall':>12} {'PyTorch / wall':>15}")
    for name in ("mlp", "cnn", "transformer"):
        for mode in ("training", "inference"):
            model = load(f"demo:{name}", {})
            getattr(model, f"run_{mode}")(n_steps=3)
            native = getattr(model, f"profile_{mode}")(n_steps=STEPS)
            ours, theirs = ratios(native)
            print(f"demo:{name + ' ' + mode:<23} {ours:>12.3f} {theirs:>15.3f}")


def ratios(native: object) -> tuple[float, float]:
    """Return the sums of self times over the steps' wall time, by our table and by PyTorch's."""
    profile, _ = profile_of(read(native))
    wall_ns = sum(profile.step_ns)
    ours = sum(operation.self_ns for operation in profile.operations["name"])
    # It counts what lies between the steps too, where these models do nothing but compute a score.
    theirs = sum(row.self_cpu_time_total for row in native.key_averages() if not row.key.startswith("ProfilerStep"))
    return ours / wall_ns, theirs * 1e3 / wall_ns


main()
