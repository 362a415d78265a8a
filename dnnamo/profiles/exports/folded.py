"""Folded stacks: a line a call chain, as flamegraph.pl, inferno and speedscope read them.

The number at the end of a line is self time in nanoseconds. Stacks of host threads begin with the thread; those that
begin with `device` are the same chains with the time of the kernels and copies which their last frame launched.
The form is that of https://github.com/brendangregg/FlameGraph (`stackcollapse`).
"""

from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from dnnamo.profiles.events import Events
from dnnamo.profiles.flame import Frame, call_trees

__all__ = ["write"]

_SEPARATORS = str.maketrans({";": ":", "\n": " ", "\r": " "})


def write(events: Events, metadata: Mapping[str, Any], file: BinaryIO) -> None:
    """Write the folded stacks of a profile."""
    for tree in call_trees(events, metadata):
        file.writelines(line.encode() for line in _lines(tree))


def _lines(tree: Frame) -> Iterator[str]:
    for path, frame in tree.stacks():
        stack = ";".join(name.translate(_SEPARATORS) for name in path)
        if frame.self_ns > 0:
            yield f"{stack} {frame.self_ns}\n"
        if frame.device_ns > 0:
            yield f"device;{stack} {frame.device_ns}\n"
