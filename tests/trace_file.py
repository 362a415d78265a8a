"""A small trace as Kineto writes it: two steps of a product on the host whose kernel runs on a device."""

import json
from pathlib import Path
from typing import Any

__all__ = ["write_trace"]


def write_trace(path: Path, *, shapes: bool = True, steps: bool = True) -> Path:
    """Write the trace to a file and return its path."""
    events = [event for number in range(2) for event in _step(number, shapes=shapes, steps=steps)]
    names = [_name("process_name", 100, 0, "python"), _name("thread_name", 100, 101, "main thread")]
    whole = {"schemaVersion": 1, "baseTimeNanoseconds": 1_700_000_000_000_000_000, "traceEvents": names + events}
    path.write_text(json.dumps(whole))
    return path


def _step(number: int, *, shapes: bool, steps: bool) -> list[dict[str, Any]]:
    at, own = 1_000.0 * number, 10 * number
    product = {"External id": own + 1}
    dims = {"Input Dims": [[8, 16], [16, 4]], "Input type": ["float", "float"]} if shapes else {}
    found = [
        _event("cpu_op", "aten::linear", at + 50, 500, **product),
        _event("cpu_op", "aten::mm", at + 100, 300, **{"External id": own + 2}, **dims),
        _event("cuda_runtime", "cudaLaunchKernel", at + 150, 20, correlation=own + 5, **{"External id": own + 2}),
        _on_device("gemm", at + 300, 400, correlation=own + 5, **{"External id": own + 2}),
        _event("cpu_op", "aten::relu", at + 600, 100, **{"External id": own + 3}),
    ]
    return ([_event("user_annotation", f"ProfilerStep#{number}", at, 900)] if steps else []) + found


def _event(category: str, name: str, at: float, duration: float, **args: Any) -> dict[str, Any]:
    return {"ph": "X", "cat": category, "name": name, "pid": 100, "tid": 101, "ts": at, "dur": duration, "args": args}


def _on_device(name: str, at: float, duration: float, **args: Any) -> dict[str, Any]:
    return {**_event("kernel", name, at, duration, device=0, stream=7, **args), "pid": 0, "tid": 7}


def _name(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "ts": 0, "args": {"name": name}}
