"""Event tables for tests, a row at a time."""

from typing import Any

import numpy as np

from dnnamo.profiles.build import profile_of
from dnnamo.profiles.events import NONE, Column, Events, Texts
from dnnamo.profiles.recording import Recording
from dnnamo.records import Profile

TEXTS = ("name", "category", "phase", "process", "thread", "shapes", "dtypes", "layer", "note")


def row(
    name: str, start: int, end: int, thread: str = "main", category: str = "cpu_op", **columns: Any
) -> dict[str, Any]:
    """One event; columns that an event table does not have are its args."""
    times = {"start_ns": start, "duration_ns": end - start}
    return {"name": name, "category": category, "phase": "X", "process": "1", "thread": thread, **times, **columns}


def step(number: int, start: int, end: int, thread: str = "main") -> dict[str, Any]:
    return row(f"ProfilerStep#{number}", start, end, thread, "user_annotation")


def kernel(name: str, start: int, end: int, stream: int = 7, device: int = 0, **columns: Any) -> dict[str, Any]:
    columns = {"category": "kernel", "process": f"gpu{device}", **columns}
    return row(name, start, end, str(stream), device=device, stream=stream, **columns)


def launch(
    start: int, end: int, correlation: int, thread: str = "main", name: str = "cudaLaunchKernel"
) -> dict[str, Any]:
    return row(name, start, end, thread, "cuda_runtime", correlation=correlation)


def memory(at: int, size: int, total: int, thread: str = "main", device: int = -1) -> dict[str, Any]:
    args = {"Total Allocated": total, "Device Type": 0 if device < 0 else 1, "Device Id": device}
    return row("[memory]", at, at, thread, "cpu_instant_event", phase="i", bytes=size, **args)


def table(*rows: dict[str, Any]) -> Events:
    names = dict.fromkeys(name for found in rows for name in found)
    columns: dict[str, Column] = {}
    for name in names:
        values = [found.get(name) for found in rows]
        if name in TEXTS:
            columns[name] = Texts.of(values)
        else:
            columns[name] = np.array([NONE if value is None else value for value in values], np.int64)
    columns.setdefault("name", Texts.of([]))
    core = set(Events.of({"name": Texts.of([])}, {}).columns)
    args = {name: columns.pop(name) for name in list(columns) if name not in core}
    return Events.of(columns, args)


def recording(*rows: dict[str, Any], **facts: Any) -> Recording:
    return Recording(source="test", events=table(*rows), **facts)


def same(a: Events, b: Events) -> bool:
    lists = [
        {name: column.to_list() if isinstance(column, Texts) else column.tolist() for name, column in columns.items()}
        for columns in ({**a.columns, **a.args}, {**b.columns, **b.args})
    ]
    return lists[0] == lists[1] and list(a.args) == list(b.args)


def profile(*rows: dict[str, Any], **facts: Any) -> Profile:
    return profile_of(recording(*rows), **facts)[0]
