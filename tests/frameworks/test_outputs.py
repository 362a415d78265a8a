import resource
from typing import Any

import ml_dtypes
import numpy as np

from dnnamo.frameworks.outputs import Outputs, forgotten


def map_leaves(function: Any, value: Any) -> Any:
    """Stand in for a framework's map over structures."""
    return {key: function(leaf) for key, leaf in value.items()} if isinstance(value, dict) else function(value)


def kept(*steps: Any) -> list[Any]:
    outputs = Outputs(map_leaves, lambda leaf: leaf)
    return outputs.arrays([outputs.keep(each) for each in steps])


def test_outputs_are_copies_of_what_steps_returned() -> None:
    buffer = np.zeros((2, 3), np.float32)

    outputs = Outputs(map_leaves, lambda leaf: leaf)

    def step(number: int) -> Any:
        buffer[:] = number  # as a network does that writes each output to the same place
        return {"scores": buffer, "transposed": buffer.T, "name": "x"}

    found = outputs.arrays([outputs.keep(step(number)) for number in range(3)])

    assert [each["name"] for each in found] == ["x"] * 3
    for number, each in enumerate(found):
        assert np.array_equal(each["scores"], np.full((2, 3), number, np.float32))
        assert np.array_equal(each["transposed"], np.full((3, 2), number, np.float32))
        each["scores"][:] = -1  # they are the caller's to change
    assert np.array_equal(found[0]["transposed"], np.zeros((3, 2)))


def test_types_and_shapes_come_back() -> None:
    given = [
        np.arange(5, dtype=ml_dtypes.bfloat16),
        np.array(7, np.int64),
        np.empty((0, 4), np.float16),
        np.array([True, False]),
        np.arange(3 << 20, dtype=np.int64),  # larger than what is taken of the system at once
        np.array(["text", None], object),
        None,
        2.5,
    ]

    found = kept(*given)

    for before, after in zip(given, found, strict=True):
        if isinstance(before, np.ndarray):
            assert (after.dtype, after.shape) == (before.dtype, before.shape)
            assert np.array_equal(after, before)
        else:
            assert after == before


def test_a_forgotten_step_returns_nothing() -> None:
    given = []

    assert forgotten(lambda *each: given.append(each) or "output")("batch", 1) is None
    assert given == [("batch", 1)]


def test_kept_outputs_cost_the_steps_no_pages() -> None:
    faults: list[int] = []

    outputs = Outputs(map_leaves, lambda leaf: leaf)

    def step() -> Any:
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        arrays = [np.ones(size) for size in (20_000, 4_000, 12_000)]
        output = arrays[0][:8_000] + 1
        faults.append(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)
        return output

    all_kept = [outputs.keep(step()) for _ in range(200)]

    assert sum(faults[100:]) < 400  # copies on the heap make it 1,700
    assert len(outputs.arrays(all_kept)) == 200
