"""The keeper: parent of the runners of one slot, so that nothing that a job starts outlives it.

A supervisor never starts a runner itself. It starts a keeper and talks to it over a socket; the keeper forks the
runner, and as the child subreaper it inherits whatever the job leaves behind, daemons included, and kills it. When the
supervisor dies the socket closes, and the keeper ends everything and itself.

A keeper that forks is a zygote: it has imported a framework once, and each job gets a copy of it within milliseconds.
That is safe for frameworks that start no thread on import. For the others the one runner is forked first, imports the
framework ahead of need, and waits for its job.

Apart from what it gets ready it imports the standard library alone, as it is there for every job.
"""

import argparse
import ctypes
import gc
import json
import os
import signal
import socket
import traceback
from collections.abc import Sequence
from contextlib import suppress
from select import POLLIN, poll
from time import monotonic, sleep
from typing import Any, NoReturn

from dnnamo.runner.proc import children_of, descendants

__all__ = ["KILL", "PROTOCOL", "RUN", "TERMINATE", "become_subreaper", "end_all", "main"]

PROTOCOL = 1
"""What a keeper says it speaks, as a job may name an interpreter with another Dnnamo."""

RUN = b"run"
"""Message to the keeper; it comes with the file descriptors that `dnnamo.runner.job.carry_out` takes."""

TERMINATE = b"terminate"
KILL = b"kill"

_MOST_DESCRIPTORS = 253
"""The kernel's own limit for one message."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PATIENCE_S = 10.0
"""How long processes that were killed may take to go; one in the kernel's hands may never."""


def main() -> None:
    """Serve the supervisor at the other end of the socket until it goes away."""
    options = argparse.ArgumentParser()
    options.add_argument("control", type=int)
    options.add_argument("--cores", type=lambda text: [int(core) for core in text.split(",")])
    options.add_argument("--fork", action="store_true")
    options.add_argument("--preload", action="append", default=[])
    given = options.parse_args()
    if given.cores:
        os.sched_setaffinity(0, given.cores)
    become_subreaper()
    with socket.socket(fileno=given.control) as control:
        control.set_inheritable(False)
        kind = _Zygote if given.fork and _can_fork(given.preload) else _Ahead
        source = kind(given.preload, control)
        _say(control, ready=PROTOCOL, forks=source.forks)
        while _serve(control, source) and source.forks:
            source.get_ready()
    end_all()


class _Waiting:
    """A process that waits for the job that it is to run.

    Args:
        strangers: Descriptors that it must not keep open.
        preload: Packages that it imports before it is ready; None if it has been forked by a process that has
            everything.
    """

    def __init__(self, strangers: Sequence[int], preload: Sequence[str] | None = None) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            for fd in (self._ours.detach(), *strangers):
                os.close(fd)
            _wait_for_job(theirs, preload)
        theirs.close()

    def wait_ready(self) -> None:
        """Return when it has imported everything, or died."""
        self._ours.recv(1)

    def give(self, fds: list[int]) -> bool:
        """Hand it the job; return False if it has died."""
        with self._ours:
            try:
                socket.send_fds(self._ours, [RUN], fds)
            except BrokenPipeError:
                return False
        return True


def _end_threads() -> None:
    """Have libraries end the threads of their pools, as OpenBLAS does when a process forks.

    It starts them again when it is next used (driver/others/blas_server.c of OpenBLAS, pthread_atfork).
    """
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _wait_for_job(keeper: socket.socket, preload: Sequence[str] | None) -> NoReturn:
    fds: list[int] = []
    try:
        _die_with_parent()
        if preload is not None:
            _prepare(preload)
            keeper.send(b"+")
        _, fds, _, _ = socket.recv_fds(keeper, 64, _MOST_DESCRIPTORS)
    except BaseException:  # whatever it was, a copy of the keeper must not go on as one
        traceback.print_exc()
    if not fds:
        os._exit(1)
    keeper.close()
    _be_runner(fds)


class _Zygote:
    """Has imported everything once, and forks the next runner as soon as the one before it has ended."""

    forks = True

    def __init__(self, preload: Sequence[str], control: socket.socket) -> None:
        self._control = control
        _prepare(preload)
        gc.collect()
        gc.freeze()  # what is here stays in pages that the children share
        _end_threads()
        self._next: _Waiting | None = None
        self.get_ready()

    def get_ready(self) -> None:
        """Fork the next runner, if there is none yet, and if that is safe."""
        has_one_thread = len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208 (Path costs more)
        if self._next is None and has_one_thread:
            self._next = _Waiting([self._control.fileno()])

    def start(self, fds: list[int]) -> int | None:
        """Return the runner's process id, None if none can be forked safely."""
        for _ in range(2):  # somebody may have killed the one that waited
            self.get_ready()
            runner, self._next = self._next, None
            if runner is not None and runner.give(fds):
                return runner.pid
        return None


class _Ahead:
    """Has one runner import everything ahead of need, and nothing itself."""

    forks = False

    def __init__(self, preload: Sequence[str], control: socket.socket) -> None:
        self._only = _Waiting([control.fileno()], preload)
        self._only.wait_ready()

    def get_ready(self) -> None:
        """There is no other."""

    def start(self, fds: list[int]) -> int | None:
        """Return the runner's process id; how it ended says why if it died before."""
        self._only.give(fds)
        return self._only.pid


def _serve(control: socket.socket, source: _Zygote | _Ahead) -> bool:
    """See one job through; return False if the supervisor has gone."""
    message, fds, _, _ = socket.recv_fds(control, 64, _MOST_DESCRIPTORS)
    if message != RUN:
        return bool(message)  # a word about a job that has ended meanwhile
    pid = source.start(fds)
    for fd in fds:
        os.close(fd)
    if pid is None:
        _say(control, unsafe=True)
        return True
    exit_fd = os.pidfd_open(pid)
    _say(control, started=pid)
    with_supervisor = _until_ended(control, exit_fd, pid)
    os.close(exit_fd)
    _, status, usage = os.wait4(pid, 0)
    end_all()
    if with_supervisor:
        _say(control, ended=status, peak_bytes=usage.ru_maxrss * 1024)
    return with_supervisor


def _until_ended(control: socket.socket, exit_fd: int, pid: int) -> bool:
    """Do what the supervisor says until the runner has ended; return False if the supervisor has gone."""
    events = poll()
    events.register(control, POLLIN)
    events.register(exit_fd, POLLIN)
    while True:
        ready = {fd for fd, _ in events.poll()}
        if exit_fd in ready:
            return True
        message = control.recv(64)
        _signal_all(pid, signal.SIGTERM if message == TERMINATE else signal.SIGKILL)
        if not message:
            return False


def _say(control: socket.socket, **message: Any) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # the supervisor has gone, which the next read tells
        control.send(json.dumps(message).encode())


def _signal_all(pid: int, number: signal.Signals) -> None:
    """Signal the runner's process group, and kill at once what has left it where the runner is to be killed."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:  # it is between fork and setsid
        os.kill(pid, number)
    if number is signal.SIGKILL:
        _kill_each(descendants(os.getpid()))


def end_all(*, keep: Sequence[int] = ()) -> None:
    """Kill and reap the descendants of this process, as far as they go in time.

    Args:
        keep: Children to leave alone, with all that descends from them.
    """
    deadline = monotonic() + _PATIENCE_S
    while (left := _descendants_but(keep)) and monotonic() <= deadline:
        _kill_each(left)
        _reap(left)
        sleep(0.001)


def _descendants_but(keep: Sequence[int]) -> list[int]:
    children = [child for child in children_of(os.getpid()) if child not in keep]
    return children + [found for child in children for found in descendants(child)]


def _kill_each(pids: Sequence[int]) -> None:
    # By group first: the kernel signals a group as a whole, however fast it forks.
    groups = set()
    for pid in pids:
        with suppress(ProcessLookupError):
            groups.add(os.getpgid(pid))
    for group in groups - {os.getpgid(0)}:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _reap(pids: Sequence[int]) -> None:
    for pid in pids:
        with suppress(ChildProcessError):  # not this process's child yet, or reaped already
            os.waitpid(pid, os.WNOHANG)


def _can_fork(packages: Sequence[str]) -> bool:
    from dnnamo.runner.preload import can_fork

    return can_fork(packages)


def _prepare(packages: Sequence[str]) -> None:
    from dnnamo.runner.job import prepare

    prepare(packages)


def _be_runner(fds: list[int]) -> NoReturn:
    """Carry out the job; this is where a forked process starts and ends."""
    status = 1
    try:
        from dnnamo.runner.job import carry_out

        os.setsid()
        carry_out(fds)
        status = 0
    except BaseException:  # whatever it was, a copy of the keeper must not go on as one
        traceback.print_exc()
    finally:
        # Threads, atexit functions and destructors of the user's code have no say in whether the job has ended.
        os._exit(status)


def _die_with_parent() -> None:
    """Have the kernel kill this process when the keeper dies, so that no measurement runs on unseen."""
    parent = os.getppid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died in between
        os._exit(1)


def become_subreaper() -> None:
    """Have this process inherit the orphans among its descendants; see prctl(2), PR_SET_CHILD_SUBREAPER."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
