"""Does `dnnamo run` measure what a plain script measures? The same networks in a bare loop and under Dnnamo.

Run with `make bench-fidelity`. Both are processes of their own, on the same core, with one thread, the same warm-up and
the same number of steps. They take many short turns by SIGSTOP and SIGCONT, so that whatever else the machine does
slows both down alike. The memory allocator keeps what it has: by default it gives memory back to the system at the end
of a step or does not, as chance has it where a process's heap ends, and bare loops of demo:cnn alone had 0 to 1200 page
faults a step for that, and times up to a third apart.

The ratio is the median over the rounds of Dnnamo's median step time over that of the bare loop beside it; the one of
the least step times says the same of undisturbed steps. The bar is 2 %.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter_ns, sleep
from typing import Any

import psutil

ROUNDS = 7
"""Two processes with the same loop differ by up to 2 %, as chance lays out their memory."""

WARMUP = 20
BAR = 0.02
MODES = ("inference", "training")
STEPS = {"demo:transformer": 300, "demo:cnn": 500, "demo:keras_cnn": 500}
TURN_S = {"inference": 0.15, "training": 0.4}
"""Long enough for several steps, as the one that a turn ends in is as long as the other's turn."""

THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_MMAP_THRESHOLD_": str(2**25)}
"""For glibc; the second is the greatest that it takes (mallopt(3))."""

DNNAMO = str(Path(sys.executable).with_name("dnnamo"))


def bare(model: str, mode: str) -> None:
    """Run a model in a bare loop until a signal comes; print the times of the last steps in nanoseconds."""
    from dnnamo.loaders import load  # makes the network and its data; the loop has nothing of Dnnamo

    wrapped = load(model, {})
    one_step = (_keras_step if "keras" in model else _torch_step)(wrapped, mode)
    times: deque[int] = deque(maxlen=STEPS[model])
    ended: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    for _ in range(WARMUP):
        one_step()
    while not ended:
        start = perf_counter_ns()
        one_step()  # outputs that are kept come in fresh pages each, 1 to 2 % of a step of demo:transformer
        times.append(perf_counter_ns() - start)
    print(json.dumps(list(times)))


def _torch_step(wrapped: Any, mode: str) -> Callable[[], Any]:
    import torch

    network, loss_function = wrapped._module, wrapped._loss
    inputs, targets = wrapped._make_batch()
    optimizer = wrapped._make_optimizer(network.parameters())

    def infer() -> Any:
        with torch.inference_mode():
            return network(inputs)

    def train() -> Any:
        optimizer.zero_grad()
        outputs = network(inputs)
        loss = loss_function(outputs, targets)
        loss.backward()
        optimizer.step()
        return loss.detach()

    network.train(mode == "training")
    return train if mode == "training" else infer


def _keras_step(wrapped: Any, mode: str) -> Callable[[], Any]:
    import tensorflow as tf

    network, loss_function, optimizer = wrapped._model, wrapped._loss, wrapped._optimizer
    inputs, targets = map(tf.convert_to_tensor, wrapped._make_batch())
    optimizer.build(network.trainable_variables)

    @tf.function
    def infer(inputs: Any) -> Any:
        return network(inputs, training=False)

    @tf.function
    def train(inputs: Any, targets: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(loss_function(targets, network(inputs, training=True)))
        optimizer.apply(tape.gradient(loss, network.trainable_variables), network.trainable_variables)
        return loss

    return (lambda: train(inputs, targets)) if mode == "training" else (lambda: infer(inputs))


def side_by_side(model: str, mode: str) -> tuple[list[int], list[int]]:
    """Return the step times of a bare loop and of `dnnamo run`, which take turns."""
    options = ["--mode", mode, "--steps", STEPS[model], "--warmup", WARMUP, "--threads", 1, "-o", "json"]
    with (
        started([sys.executable, "-m", "benchmarks.fidelity", "--bare", model, mode]) as plain,
        started([DNNAMO, "run", model, *map(str, options)]) as ours,
    ):
        take_turns(ours, plain, TURN_S[mode])
        plain.terminate()
        return json.loads(_output(plain)), json.loads(_output(ours))["steps"]["duration_ns"]


@contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a program meanwhile, on the last core.

    In a session of its own, as Dnnamo's runner is: Linux shares cores out among sessions.
    """
    pinned = ["taskset", "--cpu-list", str(max(os.sched_getaffinity(0))), *command]
    process = subprocess.Popen(pinned, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def take_turns(ours: subprocess.Popen[str], plain: subprocess.Popen[str], seconds: float) -> None:
    """Have one of two run while the other stands still, in turn, until the first has ended."""
    standing: list[psutil.Process] = []
    for waiting in cycle((ours, plain)):
        stopped = family(waiting.pid)  # looked up from another core, and while the other one still stands
        signal_all(stopped, signal.SIGSTOP)
        signal_all(standing, signal.SIGCONT)
        if ours.poll() is not None:
            break
        sleep(seconds)
        standing = stopped
    signal_all(stopped, signal.SIGCONT)


def signal_all(processes: list[psutil.Process], number: int) -> None:
    """Send a signal to those that are still there."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def family(pid: int) -> list[psutil.Process]:
    """Return a process and all that it has started: what stores a result would otherwise run in the other's turn."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _output(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{process.args} ended with {process.returncode}")
    return output


def main(rounds: int, models: list[str]) -> None:
    """Print the ratio of each model in each mode beside the bar."""
    os.environ |= ALLOCATOR | dict.fromkeys(THREADS, "1") | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    with TemporaryDirectory(prefix="dnnamo-fidelity-") as home:
        os.environ |= {"DNNAMO_HOME": home, "DNNAMO_LOCKS": f"{home}/locks"}
        for model in models:
            for mode in MODES:
                show(model, mode, [side_by_side(model, mode) for _ in range(rounds)])


def show(model: str, mode: str, rounds: list[tuple[list[int], list[int]]]) -> None:
    """Print what came out for a model in a mode."""
    medians = [(statistics.median(plain), statistics.median(ours)) for plain, ours in rounds]
    ratios = sorted(ours / plain for plain, ours in medians)
    least = min(min(ours) for _, ours in rounds) / min(min(plain) for plain, _ in rounds)
    plain_ms, ours_ms = (statistics.median(side) / 1e6 for side in zip(*medians, strict=True))
    print(
        f"{model:<17} {mode:<10} bare {plain_ms:7.3f} ms, dnnamo {ours_ms:7.3f} ms: {statistics.median(ratios):.3f} x "
        f"({ratios[0]:.3f} to {ratios[-1]:.3f}), of the least {least:.3f} x   bar {1 - BAR:.2f} to {1 + BAR:.2f}",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bare", nargs=2, metavar=("MODEL", "MODE"), help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--model", action="append", choices=list(STEPS), help="only this one; repeatable")
    asked = parser.parse_args()
    if asked.bare:
        bare(*asked.bare)
    else:
        main(asked.rounds, asked.model or list(STEPS))
