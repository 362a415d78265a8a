"""Processes of others, as /proc shows them: who descends from whom, who lives, whose they are."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

__all__ = ["children", "descendants", "is_alive", "named", "peak_bytes", "until", "with_mark"]


def until(is_true: Callable[[], object], *, within_s: float, otherwise: str) -> None:
    """Wait for something that another process does; `otherwise` says what is wrong if it does not come about."""
    deadline = time.monotonic() + within_s
    while not is_true():
        assert time.monotonic() < deadline, f"{otherwise} within {within_s:g} s"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie, which nobody may be there to reap in a container, does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def children(pid: int) -> list[int]:
    """Return the living children of a process."""
    found = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(word) for word in (task / "children").read_text().split()]
    return [child for child in found if is_alive(child)]


def descendants(pid: int) -> list[int]:
    """Return the living children of a process, theirs, and so on."""
    found = children(pid)
    return found + [below for child in found for below in descendants(child)]


def with_mark(variable: str, value: str) -> list[int]:
    """Return the living processes that were started with a variable in their environment, copies of them included."""
    mark = f"{variable}={value}".encode()
    return [pid for pid in _all() if mark in _content(pid, "environ").split(b"\0")]


def named(name: str) -> list[int]:
    """Return the living processes with a name, which one passes on to those that it forks."""
    return [pid for pid in _all() if _content(pid, "comm").strip() == name.encode()]


def peak_bytes(pid: int) -> int:
    """Return the most resident memory that a process has had."""
    return int(_content(pid, "status").partition(b"VmHWM:")[2].split()[0]) * 1024


def _all() -> list[int]:
    return [pid for entry in Path("/proc").iterdir() if entry.name.isdigit() and is_alive(pid := int(entry.name))]


def _content(pid: int, name: str) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""
