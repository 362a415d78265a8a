"""One job's runner: start it, take its report and its output, and end it with everything that it started."""

import os
import selectors
import signal
from collections.abc import Sequence
from time import monotonic
from types import TracebackType
from typing import Self

from dnnamo.records import Outcome, Progress
from dnnamo.runner.proc import descendants
from dnnamo.runner.progress import NOTHING_YET, PROGRESS_BYTES, read_progress
from dnnamo.runner.wire import FrameReader, Request
from dnnamo_workers.keeper import Keeper

__all__ = ["CappedLog", "RunnerProcess"]

_PIECE_BYTES = 1 << 16
"""What one read takes; no less than the capacity of a pipe."""

_PATIENCE_S = 15.0
"""How long a keeper may take to end a job's processes before it is ended itself."""


class CappedLog:
    """Keeps the first and the last bytes of an output of any length.

    Args:
        limit: Bytes kept of each end.

    Attributes:
        length: Bytes that were written in all.
    """

    def __init__(self, limit: int = 1 << 20) -> None:
        self.length = 0
        self._limit = limit
        self._head = bytearray()
        self._tail = bytearray()
        self._dropped = 0

    def write(self, data: bytes) -> None:
        """Take more output."""
        self.length += len(data)
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
    """A runner, from start to end of the `with` block.

    Leaving the block ends the runner and all that it started, if that has not happened yet. Not thread-safe: one
    supervisor owns it.

    Args:
        keeper: What forks it; ready, and without another job.
        request: The attempt.
        locks: Descriptors that the job's processes hold as long as one of them lives.

    Attributes:
        returncode: Exit code, the negative number of the signal that killed it, or None while it runs.
        peak_bytes: Most resident memory that the runner had at once, of its own processes the largest; None until it
            has ended.
        is_orphaned: Whether the keeper died, so that something that the job started may be left.

    Raises:
        KeeperFailed: If there is no runner to have; then nothing was started.
    """

    def __init__(self, keeper: Keeper, request: Request, *, locks: Sequence[int] = ()) -> None:
        self.returncode: int | None = None
        self.peak_bytes: int | None = None
        self.is_orphaned = False
        self.output = CappedLog()
        self._keeper = keeper
        self._frames = FrameReader()
        self._give_up_at = float("inf")
        self._progress = os.memfd_create("dnnamo-progress")
        os.write(self._progress, NOTHING_YET)
        self._report, report = os.pipe()
        self._output, output = os.pipe()
        wanted = _file_with(request.to_json())
        try:
            self._pid = keeper.start([wanted, report, output, self._progress, *locks])
        except BaseException:
            self._close()
            raise
        finally:
            for fd in (wanted, report, output):
                os.close(fd)
        self._exit = _open_process(self._pid)
        self._watched = selectors.DefaultSelector()
        for fd in (self._report, self._output):
            os.set_blocking(fd, False)
        for watched in (self._report, self._output, keeper.fileno(), self._exit):
            self._watched.register(watched, selectors.EVENT_READ)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.returncode is None:
            self.kill()
        self._watched.close()
        os.close(self._exit)
        self._close()

    def _close(self) -> None:
        for fd in (self._report, self._output, self._progress):
            os.close(fd)

    def pump(self, timeout_s: float) -> bool:
        """Take what the runner sends, for at most `timeout_s` seconds; return False once all of the job has ended."""
        ready = {key.fd for key, _ in self._watched.select(timeout_s)}
        for fd in (self._report, self._output):
            if fd in ready:
                self._take(fd)
        if self._exit in ready:
            self._watched.unregister(self._exit)
            self._give_up_at = monotonic() + _PATIENCE_S
        if self._keeper.fileno() in ready:
            self._end(self._keeper.receive())
        elif monotonic() > self._give_up_at:  # somebody stopped the keeper
            self._keeper.kill()
        return self.returncode is None

    def _end(self, said: dict[str, int] | None) -> None:
        """Take what the runner left in the pipes, which hold 64 KiB each, and the way in which it ended."""
        for fd in (self._report, self._output):
            if fd in self._watched.get_map():
                self._take(fd)
        if said is None:  # a keeper that died cannot tell; the kernel then killed the runner
            self.is_orphaned = True
            self.returncode = -signal.SIGKILL
        else:
            self.peak_bytes = said["peak_bytes"]
            self.returncode = os.waitstatus_to_exitcode(said["ended"])

    def _take(self, fd: int) -> None:
        try:
            piece = os.read(fd, _PIECE_BYTES)
        except BlockingIOError:
            return
        if not piece:
            self._watched.unregister(fd)
        elif fd == self._report:
            self._frames.feed(piece)
        else:
            self.output.write(piece)

    def stop(self, grace_s: float) -> None:
        """Ask the runner's process group to end, and kill all of the job after `grace_s` seconds."""
        self._keeper.terminate()
        deadline = monotonic() + grace_s
        while self.pump(0.1):
            if monotonic() >= deadline:
                self.kill()

    def kill(self) -> None:
        """End all of the job at once."""
        self._give_up_at = min(self._give_up_at, monotonic() + _PATIENCE_S)
        self._keeper.kill_job()
        while self.pump(0.1):
            pass

    @property
    def pids(self) -> list[int]:
        """The processes of the job that live now."""
        return descendants(self._keeper.pid)

    @property
    def progress(self) -> Progress:
        """How far the runner says it is."""
        return read_progress(os.pread(self._progress, PROGRESS_BYTES, 0))

    @property
    def outcome(self) -> Outcome | None:
        """The runner's report, None without one; raises ValueError if what came is none."""
        return self._frames.outcome

    @property
    def log(self) -> bytes:
        """Standard output and error so far, the middle cut out where they are very long."""
        return self.output.content


def _file_with(content: bytes) -> int:
    fd = os.memfd_create("dnnamo-request")
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _open_process(pid: int) -> int:
    """Return a descriptor that becomes readable when the process has ended; at once if it has been reaped already."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        ended, other = os.pipe()  # at its end at once; a file such as /dev/null cannot be waited for
        os.close(other)
        return ended
