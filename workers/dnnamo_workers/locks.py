"""Host-wide locks: whatever worker or user it belongs to, one job at a time has a core or a GPU.

Each core and each GPU has a file, and who has flock()ed it has the device. Such a lock belongs to the open file
description: it is held as long as any process has a copy of the descriptor open, however that came to it, and the
kernel frees it when the last of them has closed it or died, however it died (flock(2)). So the processes of a job
inherit the descriptors, nobody ever unlocks, and a lock can neither be forgotten nor freed too early.

The locks are for those who mean well: a hostile user of the machine can spoil measurements without them. What they
must not let him do is have us write elsewhere, or hang.
"""

import fcntl
import os
import stat
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec

from dnnamo.records import Record
from dnnamo_workers.devices import DeviceBusy, Place

__all__ = ["try_lock"]

_TRIES = 3
_MOST_BYTES = 1024

# Without O_CREAT, because a kernel with fs.protected_regular refuses that for another user's file in a shared folder.
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class _Holder(Record, frozen=True, kw_only=True):
    """Who has a lock, for others to read; `since` is by the clock that counts from the start of the machine."""

    worker: str
    pid: int
    since: float


def try_lock(place: Place, *, worker: str, folder: Path) -> list[int]:
    """Take all locks of the place of one slot, or none, without waiting.

    They are taken in the same order by everybody, so that of two that want the same one gets it.

    Args:
        place: The slot's cores and GPU.
        worker: Name that others see while it is held.
        folder: Where the files are; made if it is not there. It should be the same for all users, so neither their own
            temporary folder nor /run/lock, which some systems keep for root; and files in /dev/shm would go when their
            user logs out.

    Returns:
        The open descriptors, not inheritable yet. Closing all copies of them is what frees the locks.

    Raises:
        DeviceBusy: If one of them is held, or cannot be had at all; the message says by whom, or why.
    """
    holder = _Holder(worker=worker, pid=os.getpid(), since=_now()).to_json()
    folder_fd = _open_folder(folder)
    try:
        with ExitStack() as taken:
            fds = []
            for what, name in _files(place):
                fds.append(_take(folder_fd, folder / name, what))
                taken.callback(os.close, fds[-1])
            taken.pop_all()
    finally:
        os.close(folder_fd)
    for fd in fds:
        _write(fd, holder)
    return fds


def _files(place: Place) -> list[tuple[str, str]]:
    files = [(f"core {core}", f"cpu-{core}.lock") for core in sorted(place.cores)]
    if place.gpu:
        # Older drivers name an instance of a GPU with slashes.
        files.append((place.gpu.uuid, f"gpu-{place.gpu.uuid.replace('/', '-')}.lock"))
    return files


def _open_folder(folder: Path) -> int:
    is_new = False
    try:
        with suppress(FileExistsError):
            folder.mkdir()
            is_new = True
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _unusable("the folder of the locks", folder, error.strerror) from error
    if is_new:
        os.fchmod(fd, 0o1777)  # whatever the umask: everybody may add files, and remove their own alone
    return fd


def _take(folder_fd: int, path: Path, what: str) -> int:
    for _ in range(_TRIES):
        try:
            fd = _open_file(folder_fd, path.name)
        except OSError as error:
            raise _unusable(f"the lock of {what}", path, error.strerror) from error
        with ExitStack() as opened:
            opened.callback(os.close, fd)
            _check(fd, path, what)
            _flock(fd, path, what)
            if _is_at(fd, folder_fd, path.name):
                opened.pop_all()
                return fd
    raise _unusable(f"the lock of {what}", path, "it is removed all the time")


def _open_file(folder_fd: int, name: str) -> int:
    with suppress(FileNotFoundError):
        return os.open(name, _OPEN, dir_fd=folder_fd)
    try:
        fd = os.open(name, _OPEN | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder_fd)
    except FileExistsError:  # somebody was faster
        return os.open(name, _OPEN, dir_fd=folder_fd)
    # Whatever the umask. The sticky bit tells those who clean up /tmp to leave the file (XDG Base Directory
    # Specification); one that is removed while held would let somebody else lock its successor.
    os.fchmod(fd, 0o1666)
    return fd


def _check(fd: int, path: Path, what: str) -> None:
    """Refuse a planted file through which another would be written: a link to it, a device, a pipe."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise _unusable(f"the lock of {what}", path, "it is no regular file of its own")


def _flock(fd: int, path: Path, what: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DeviceBusy(f"{what} is used by {_read_holder(fd)}") from None
    except OSError as error:
        raise _unusable(f"the lock of {what}", path, error.strerror) from error


def _is_at(fd: int, folder_fd: int, name: str) -> bool:
    """Return whether the locked file is still the one that others find."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), os.stat(name, dir_fd=folder_fd, follow_symlinks=False))
    return False


def _write(fd: int, holder: bytes) -> None:
    with suppress(OSError):  # the disk is full: then it is held by an unknown
        os.pwrite(fd, holder, 0)
        os.ftruncate(fd, len(holder))


def _read_holder(fd: int) -> str:
    try:
        holder = _Holder.from_json(os.pread(fd, _MOST_BYTES, 0))
    except (msgspec.DecodeError, OSError):  # it is being written, or was by somebody else
        return "another process"
    worker = "".join(character if character.isprintable() else "?" for character in holder.worker)
    return f"{worker} (process {holder.pid}), for {max(0.0, _now() - holder.since):.0f} s"


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _unusable(what: str, path: Path, why: str | None) -> DeviceBusy:
    return DeviceBusy(f"{what}, {path}, cannot be used: {why}. Its owner or root must remove it")
