"""Ten architectures each of transformers and Keras, run and profiled through a local queue: `python examples/zoo.py`.

Words choose among them: `python examples/zoo.py bert resnet`.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dnnamo
from dnnamo.errors import JobFailed

TEXT = {"batch": 2, "length": 32}
IMAGE = {"batch": 2, "image": 64}
MODELS = {
    "transformers:bert": {**TEXT, "num_hidden_layers": 2},
    "transformers:roberta": {**TEXT, "num_hidden_layers": 2},
    "transformers:distilbert": {**TEXT, "n_layers": 2},
    "transformers:albert": {**TEXT, "num_hidden_layers": 2, "hidden_size": 256, "num_attention_heads": 8},
    "transformers:gpt2": {**TEXT, "n_layer": 2},
    "transformers:llama": {**TEXT, "num_hidden_layers": 2, "hidden_size": 256, "intermediate_size": 512},
    "transformers:t5": {**TEXT, "num_layers": 2},
    "transformers:vit": {**IMAGE, "num_hidden_layers": 2},
    "transformers:convnext": {**IMAGE, "depths": [1, 1, 2, 1]},
    "transformers:wav2vec2": {"batch": 1, "length": 8000, "num_hidden_layers": 2},
    "keras:ResNet50": IMAGE,
    "keras:ResNet50V2": IMAGE,
    "keras:MobileNetV2": IMAGE,
    "keras:MobileNetV3Small": IMAGE,
    "keras:EfficientNetB0": IMAGE,
    "keras:EfficientNetV2B0": IMAGE,
    "keras:DenseNet121": IMAGE,
    "keras:ConvNeXtTiny": IMAGE,
    "keras:VGG16": {**IMAGE, "batch": 1},
    "keras:Xception": {**IMAGE, "image": 96},
}
TRAINED = ("transformers:bert", "transformers:gpt2", "transformers:vit", "keras:MobileNetV2", "keras:ResNet50")
LINE = "{:<24} {:>10} {:>12} {:>11} {:>12}  {}"


def main(words: list[str]) -> None:
    chosen = {name: params for name, params in MODELS.items() if not words or any(it in name.lower() for it in words)}
    with local_queue():
        jobs = {name: submitted(name, params) for name, params in chosen.items()}
        print(LINE.format("model", "run ms", "profile ms", "operations", "losses", "verdict"))
        failed = [name for name in jobs if not told(name, jobs[name])]
    if failed:
        sys.exit(f"Not all jobs succeeded: {', '.join(failed)}.")


@contextmanager
def local_queue() -> Iterator[None]:
    """Have a Redis and a worker on this machine, for the jobs that this process submits."""
    command = [str(Path(sys.executable).with_name("dnnamo")), "up"]
    cluster = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        name, _, url = cluster.stdout.readline().strip().partition("=")
        if not url:
            sys.exit("`dnnamo up` did not start; run it by hand to see why.")
        os.environ[name.removeprefix("export ")] = url
        yield
    finally:
        cluster.send_signal(signal.SIGTERM)
        cluster.wait()


def submitted(name: str, params: dict[str, object]) -> dict[str, dnnamo.JobHandle]:
    methods = ["run_inference", "profile_inference"] + ["run_training"] * (name in TRAINED)
    steps = {"n_steps": 3, "warmup": 2}
    return {method: dnnamo.submit(name, method, params=params, tags=["zoo"], **steps) for method in methods}


def told(name: str, jobs: dict[str, dnnamo.JobHandle]) -> bool:
    """Wait for a model's jobs and print what came of them; return whether all succeeded."""
    try:
        results = {method: job.wait().result for method, job in jobs.items()}
    except JobFailed as error:
        print(f"{name:<24} {error}", flush=True)
        return False
    profile = jobs["profile_inference"].profile
    times = [f"{results[method].steps.median_ns / 1e6:.1f}" for method in ("run_inference", "profile_inference")]
    trained = results.get("run_training")
    losses = "" if trained is None else f"{trained.loss[0]:.2f} … {trained.loss[-1]:.2f}"
    print(LINE.format(name, *times, len(profile.ops()), losses, profile.verdict), flush=True)
    return True


if __name__ == "__main__":
    main([word.lower() for word in sys.argv[1:]])
