"""What the kernel tells of processes under /proc; see proc(5). Of the standard library alone, as keepers need it."""

import os
from contextlib import suppress

__all__ = ["children_of", "descendants", "read"]


def descendants(pid: int) -> list[int]:
    """Return the process ids of all children of a process, and theirs."""
    found: list[int] = []
    rest = [pid]
    while rest:
        children = children_of(rest.pop())
        found += children
        rest += children
    return found


def children_of(pid: int) -> list[int]:
    """Return the process ids of the children of a process, of all its threads; none if it has gone."""
    with suppress(OSError):  # it has ended meanwhile
        tasks = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 (as below)
        return [int(word) for task in tasks for word in read(f"/proc/{pid}/task/{task}/children").split()]
    return []


def read(path: str) -> str:
    """Return a file of the kernel's, empty if there is none or its process has ended."""
    with suppress(OSError), open(path) as file:  # noqa: PTH123 (Path costs several times as much)
        return file.read()
    return ""
