"""The model of all chaos tests: it computes nothing, writes to the log, and misbehaves as it is told to."""

import ctypes
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

# The name of the file: a model's own folder is on its import path, and this repository is not.
from log import append, read, runs_of

from dnnamo import Model

_FOR_EVER_S = 600
"""For as long as any test looks; what escapes all of them still ends by itself."""


class Misbehaving(Model):
    """Returns the number of its execution as the loss and the number of its job as the score.

    Args:
        log: Path of the log.
        number: Number of the job.
        act: What it does between `began` and `ended`: the name of a function of this module.
        amount: Seconds, bytes or processes, as the act takes them.
    """

    def __init__(self, log: str, number: int, act: str, amount: float) -> None:
        self.log = log
        self.number = number
        self._act = globals()[act]
        self._amount = amount
        # Exact as a double, and not the same in two processes that were forked from one.
        self.run = random.SystemRandom().getrandbits(48)

    def run_training(self, n_steps=1):
        # Processes that it forks are called that too, wherever they go.
        Path("/proc/self/comm").write_text(f"dn-{self.run:012x}")
        self.tell("began")
        self._act(self, self._amount)
        self.tell("ended")
        return [(float(self.run), float(self.number))] * n_steps

    def tell(self, event: str, pid: int | None = None) -> None:
        append(self.log, job=self.number, run=self.run, event=event, pid=pid)


def work(model: Misbehaving, amount: float) -> None:
    time.sleep(amount)


def fail(model: Misbehaving, amount: float) -> None:
    raise ValueError("as it was told to")


def fail_at_first(model: Misbehaving, amount: float) -> None:
    """Fail in the first execution of the job, and succeed in every other one."""
    time.sleep(amount)
    if runs_of(read(Path(model.log)), model.number) == [model.run]:
        raise ValueError("as it was told to")


def segfault(model: Misbehaving, amount: float) -> None:
    ctypes.string_at(0)


def abort(model: Misbehaving, amount: float) -> None:
    os.abort()


def leave(model: Misbehaving, amount: float) -> None:
    os._exit(3)


def flood(model: Misbehaving, amount: float) -> None:
    piece = b"x" * (1 << 20)
    for _ in range(int(amount) >> 20):
        sys.stdout.buffer.write(piece)


def hold_gil(model: Misbehaving, amount: float) -> None:
    ctypes.PyDLL(None).sleep(_FOR_EVER_S)


def ignore_sigterm(model: Misbehaving, amount: float) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(amount or _FOR_EVER_S)


def eat_memory(model: Misbehaving, amount: float) -> None:
    piece = 16 << 20
    # Written to, not just asked for; slowly enough that whoever looks once in a while sees it coming.
    eaten = []
    for _ in range(int(amount) // piece):
        eaten.append(b"x" * piece)
        time.sleep(0.1)
    time.sleep(_FOR_EVER_S)


def daemonize(model: Misbehaving, amount: float) -> None:
    """Fork twice, with a session of its own in between: the classic daemon, which nobody's process group holds."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            model.tell("child")
            time.sleep(_FOR_EVER_S)
        os._exit(0)
    os.wait()


def bomb(model: Misbehaving, amount: float) -> None:
    """Fork in every process, until `amount` of them were made; the tokens in the pipe are what keeps it from more."""
    tokens, giver = os.pipe()
    os.set_blocking(tokens, False)
    os.write(giver, b"." * int(amount))
    while True:
        try:
            os.read(tokens, 1)
        except BlockingIOError:
            time.sleep(_FOR_EVER_S)
        if os.fork() == 0:
            model.tell("child")


def kill_worker(model: Misbehaving, amount: float) -> None:
    """Kill the worker, found by going up to the process that was started as one."""
    pid = os.getpid()
    while b"\0worker\0" not in Path(f"/proc/{pid}/cmdline").read_bytes():
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(pid, signal.SIGKILL)
    time.sleep(_FOR_EVER_S)


def start_child(model: Misbehaving, amount: float) -> None:
    child = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({_FOR_EVER_S})"], start_new_session=True)
    model.tell("child", child.pid)
    time.sleep(amount)


def __dnnamo_loader__(*, log: str, number: int, act: str = "work", amount: float = 0.0) -> Misbehaving:
    return Misbehaving(log, number, act, amount)
