import pytest

from dnnamo.profiles.events import Events
from tests.profiles.rows import kernel, row, table

WHOLE = (
    row("aten::mm", 5, 25, operation=7, shapes="[[2,3],[3,4]]", layer="net.0", Rank=3, **{"Ev Idx": -1}),
    row("naïve ∑ \U0001f600", 5, 9, "worker", layer="", Rank=None, note='{"a":1}'),
    kernel("gemm", 30, 31, correlation=2**62, bytes=-5),
    row("[memory]", 8, 8, phase="i"),
)


@pytest.fixture
def events() -> Events:
    """A small table with a value in most columns."""
    found = table(*WHOLE)
    return found.replace(parent=found.nest().parent)
