"""The supervisor's end of a keeper, the process that forks runners and lets nothing outlive them."""

import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

from dnnamo.runner.keeper import KILL, PROTOCOL, RUN, TERMINATE, end_all

__all__ = ["Keeper", "KeeperFailed", "Kind", "end_orphans"]

_MESSAGE_BYTES = 4096
_WORDS_BYTES = 2000

_starting = Lock()
_alive: set[int] = set()


class KeeperFailed(Exception):
    """Raised when a keeper cannot give a runner: it did not start, died, or finds a fork unsafe."""


@dataclass(frozen=True)
class Kind:
    """What a keeper gets ready for the next job.

    Attributes:
        preload: Packages of frameworks to import ahead.
        forks: Whether it may fork a runner for each job, if what it imports allows that, rather than start one for a
            single job.
        python: The interpreter.
    """

    preload: tuple[str, ...] = ()
    forks: bool = False
    python: str = sys.executable


class Keeper:
    """A keeper process. Not thread-safe: it belongs to one slot, which runs one job at a time.

    Args:
        kind: What it gets ready.
        environment: The whole environment that interpreter and libraries start in.
        cores: CPU numbers that it and its runners may run on.

    Attributes:
        forks: Whether it forks a runner for each job; False before it is ready.

    Raises:
        KeeperFailed: If the interpreter cannot be executed.
    """

    def __init__(self, kind: Kind, *, environment: Mapping[str, str], cores: Sequence[int]) -> None:
        self.kind = kind
        self.forks = False
        self._is_ready = False
        self._said = os.memfd_create("dnnamo-keeper")
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, _starting:
            try:
                self._process = subprocess.Popen(
                    _command(kind, theirs.fileno(), cores),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._said,
                    pass_fds=[theirs.fileno()],
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                self._control.close()
                os.close(self._said)
                raise KeeperFailed(f"{kind.python} cannot be started: {error.strerror}.") from error
            _alive.add(self._process.pid)

    @property
    def pid(self) -> int:
        """Process id of the keeper, whose descendants are the job's processes."""
        return self._process.pid

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when the keeper has something to say."""
        return self._control.fileno()

    def wait_ready(self, timeout_s: float) -> None:
        """Return once the keeper is ready for a job.

        Raises:
            KeeperFailed: If it is not by then, ended instead, or speaks another protocol.
        """
        if self._is_ready:
            return
        if not select.select([self], [], [], timeout_s)[0]:
            raise KeeperFailed(f"{self.kind.python} was not ready within {timeout_s:g} s.")
        said = self.receive()
        if said is None:
            raise KeeperFailed(f"{self.kind.python} did not start a runner: {self._last_words()}")
        if said.get("ready") != PROTOCOL:
            raise KeeperFailed(f"{self.kind.python} has another version of Dnnamo; install this one there too.")
        self.forks = bool(said["forks"])
        self._is_ready = True

    def start(self, fds: Sequence[int]) -> int:
        """Have a runner take a job; return its process id.

        Args:
            fds: What `dnnamo.runner.job.carry_out` takes.

        Raises:
            KeeperFailed: If there is no runner to have.
        """
        try:
            socket.send_fds(self._control, [RUN], fds)
            said = self.receive()
        except OSError as error:
            raise KeeperFailed(f"the keeper is gone: {error.strerror}.") from error
        if said is None or "started" not in said:
            raise KeeperFailed("the keeper died." if said is None else "the zygote has more than one thread.")
        return int(said["started"])

    def receive(self) -> dict[str, Any] | None:
        """Return the keeper's next message, None if it is gone."""
        try:
            message = self._control.recv(_MESSAGE_BYTES)
        except ConnectionResetError:
            return None
        return json.loads(message) if message else None

    def terminate(self) -> None:
        """Have it ask the runner's process group to end."""
        self._tell(TERMINATE)

    def kill_job(self) -> None:
        """Have it kill everything that the job started."""
        self._tell(KILL)

    def _tell(self, message: bytes) -> None:
        try:
            self._control.send(message)
        except OSError:  # it is gone, and with it the job; the next read says so
            return

    def kill(self) -> None:
        """Kill the keeper itself; the kernel then kills the runner."""
        self._process.kill()

    def close(self) -> None:
        """Let go of the keeper: it ends what runs, and itself."""
        self._control.close()
        try:
            self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:  # it imports something, or somebody stopped it
            self._process.kill()
            self._process.wait()
        _alive.discard(self._process.pid)
        os.close(self._said)

    def _last_words(self) -> str:
        lines = os.pread(self._said, 1 << 20, 0).decode(errors="replace").strip().splitlines()
        return lines[-1][:_WORDS_BYTES] if lines else f"it ended with code {self._process.wait()}."


def _command(kind: Kind, control: int, cores: Sequence[int]) -> list[str]:
    command = [kind.python, "-P", "-m", "dnnamo.runner", str(control), "--cores", ",".join(map(str, cores))]
    if kind.forks:
        command.append("--fork")
    return command + [f"--preload={package}" for package in kind.preload]


def end_orphans(others: Collection[int]) -> None:
    """End what keepers that died have left, which this process inherits if it is a subreaper.

    Args:
        others: Children of this process that are nobody's orphans, besides the keepers.
    """
    with _starting:
        end_all(keep=[*_alive, *others])
