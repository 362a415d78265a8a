"""Scratch folders: one for each attempt, gone when it has ended, and after a crash when the next worker starts."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["Scratch"]

_PREFIX = "dnnamo-scratch-"


class Scratch:
    """A folder of this process for the scratch folders of its attempts. Thread-safe.

    The folder is locked as long as this process lives, which tells it from those that a killed process left: they are
    removed here.
    """

    def __init__(self) -> None:
        _remove_abandoned(Path(tempfile.gettempdir()))
        self._root, self._lock = _make_root()

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Yield a new empty folder, and remove it with all that is in it at the end."""
        folder = Path(tempfile.mkdtemp(dir=self._root))
        try:
            yield folder
        finally:
            _remove(folder)

    def close(self) -> None:
        """Remove everything."""
        _remove(self._root)
        os.close(self._lock)


def _make_root() -> tuple[Path, int]:
    while True:
        root = Path(tempfile.mkdtemp(prefix=_PREFIX))
        lock = _lock(root)
        if lock is not None and root.exists():
            return root, lock
        # Another process took it for abandoned before it was locked.


def _remove(folder: Path) -> None:
    """Remove a folder with all that is in it, what is read-only too, as far as that can be done."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        _make_writable(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _make_writable(folder: Path) -> None:
    waiting = [str(folder)]
    while waiting:
        path = waiting.pop()
        with suppress(OSError):  # another user's
            os.chmod(path, 0o700)  # noqa: PTH101 (as many as a job likes)
            waiting += [entry.path for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]


def _lock(folder: Path) -> int | None:
    """Return a descriptor that keeps a folder locked, None if another process has locked it."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def _remove_abandoned(place: Path) -> None:
    for folder in place.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another user's, or another process removes it at this moment
            fd = _lock(folder)
            if fd is not None:
                _remove(folder)
                os.close(fd)
