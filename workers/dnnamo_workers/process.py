"""One runner process: start it, take its report and its output, and end it with everything that it started."""

import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Mapping
from time import monotonic
from types import TracebackType
from typing import Self

from dnnamo.records import Outcome
from dnnamo.runner.wire import FrameReader, Request

__all__ = ["CappedLog", "RunnerProcess"]

_PIECE_BYTES = 1 << 16
"""What one read takes; no less than the capacity of a pipe."""


class CappedLog:
    """Keeps the first and the last bytes of an output of any length.

    Args:
        limit: Bytes kept of each end.
    """

    def __init__(self, limit: int = 1 << 20) -> None:
        self._limit = limit
        self._head = bytearray()
        self._tail = bytearray()
        self._dropped = 0

    def write(self, data: bytes) -> None:
        """Take more output."""
        room = self._limit - len(self._head)
        self._head += data[:room]
        self._tail += data[room:] if room > 0 else data
        excess = len(self._tail) - self._limit
        # Cutting at every piece would move the whole tail each time; twice the limit makes it once in a megabyte.
        if excess > self._limit:
            self._cut(excess)

    def _cut(self, excess: int) -> None:
        del self._tail[:excess]
        self._dropped += excess

    @property
    def content(self) -> bytes:
        """What was kept, with a line that says how much is missing, if anything is."""
        self._cut(max(0, len(self._tail) - self._limit))
        gap = f"\n[{self._dropped} bytes of output left out]\n".encode() if self._dropped else b""
        return bytes(self._head) + gap + bytes(self._tail)


class RunnerProcess:
    """A runner in its own session, from start to end of the `with` block.

    Leaving the block kills the runner's process group and reaps the runner. Not thread-safe: one supervisor owns it.

    Args:
        request: The attempt.
        environment: The whole environment of the process.
    """

    def __init__(self, request: Request, *, environment: Mapping[str, str]) -> None:
        self._log = CappedLog()
        self._frames = FrameReader()
        self._report, theirs = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "dnnamo.runner", str(theirs)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs],
                env=environment,
                start_new_session=True,
            )
        except BaseException:
            os.close(self._report)
            raise
        finally:
            os.close(theirs)
        self._exit = os.pidfd_open(self._process.pid)
        self._watched = selectors.DefaultSelector()
        self._output = self._process.stdout.fileno() if self._process.stdout else -1
        for fd in (self._report, self._output):
            os.set_blocking(fd, False)
        for fd in (self._report, self._output, self._exit):
            self._watched.register(fd, selectors.EVENT_READ)
        self._ask(request)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._watched.close()
        for fd in (self._report, self._exit):
            os.close(fd)
        if self._process.stdout:
            self._process.stdout.close()

    def _ask(self, request: Request) -> None:
        if self._process.stdin:
            try:
                self._process.stdin.write(request.to_json())
                self._process.stdin.close()
            except BrokenPipeError:  # it died at once; how it ended says why
                return

    def pump(self, timeout_s: float) -> bool:
        """Take what the runner sends, for at most `timeout_s` seconds; return False once the process has ended."""
        for key, _ in self._watched.select(timeout_s):
            if key.fd == self._exit:
                self._drain()
                self._process.wait()
                return False
            self._take(key.fd)
        return True

    def _drain(self) -> None:
        """Take what the runner left in the pipes, which hold 64 KiB each; others may go on writing for ever."""
        for fd in (self._report, self._output):
            if fd in self._watched.get_map():
                self._take(fd)

    def _take(self, fd: int) -> bool:
        try:
            piece = os.read(fd, _PIECE_BYTES)
        except BlockingIOError:
            return False
        if not piece:
            self._watched.unregister(fd)
        elif fd == self._report:
            self._frames.feed(piece)
        else:
            self._log.write(piece)
        return bool(piece)

    def stop(self, grace_s: float) -> None:
        """Ask the process group to end, and kill it after `grace_s` seconds."""
        self._signal(signal.SIGTERM)
        deadline = monotonic() + grace_s
        while self.pump(0.1) and monotonic() < deadline:
            pass
        self._signal(signal.SIGKILL)
        while self.pump(1.0):
            pass

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:  # the whole group is gone
            return

    @property
    def returncode(self) -> int | None:
        """Exit code, the negative number of the signal that killed it, or None while it runs."""
        return self._process.returncode

    @property
    def outcome(self) -> Outcome | None:
        """The runner's report, None without one; raises ValueError if what came is none."""
        return self._frames.outcome

    @property
    def log(self) -> bytes:
        """Standard output and error so far, the middle cut out where they are very long."""
        return self._log.content
