"""Which arrays of a pass are given on, and by which names."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from dnnamo.errors import NoSuchIntermediate
from dnnamo.intermediates.tap import Tap


@dataclass
class Output:
    last: int
    note: str = "no array"


def tapped(*offered: tuple[str, Any], keys: Iterable[str] | None = None, paths: Iterable[str] = ()) -> dict[str, Any]:
    """Offer outputs in which integers are the arrays."""
    found: list[tuple[str, Any]] = []
    tap = Tap(
        keys,
        lambda *pair: found.append(pair),
        is_array=lambda value: isinstance(value, int),
        to_array=lambda value: -value,
        paths=paths,
    )
    with tap.passing():
        for path, value in offered:
            tap.offer(path, value)
    assert len(dict(found)) == len(found)
    return dict(found)


def test_arrays_come_by_path_as_the_other_form() -> None:
    assert tapped(("a", 1), ("b.c", 2)) == {"a": -1, "b.c": -2}


def test_calls_after_the_first_are_numbered() -> None:
    assert list(tapped(("a", 1), ("a", 2), ("b", 3), ("a", 4))) == ["a", "a#2", "b", "a#3"]


def test_parts_of_containers_have_names_of_their_own() -> None:
    value = (1, {"x": 2, "y": [3, None]}, OrderedDict(z=4), Output(5), "text")
    assert list(tapped(("a", value), ("a", (6,)))) == ["a.0", "a.1.x", "a.1.y.0", "a.2.z", "a.3.last", "a.0#2"]


def test_a_part_and_a_layer_of_the_same_name_are_told_apart() -> None:
    assert tapped(("a.0", 1), ("a", (2, 3)), ("a.0#2", 4)) == {"a.0": -1, "a.0#2": -2, "a.1": -3, "a.0#2#2": -4}


@pytest.mark.parametrize(
    ("keys", "given"),
    [
        (None, ["a.0", "a.1", "a.1#2", "B"]),
        (["a.1"], ["a.1"]),
        (["a.1", "B"], ["a.1", "B"]),
        (["a.*"], ["a.0", "a.1", "a.1#2"]),
        (["*#2", "?"], ["a.1#2", "B"]),
        (["a.[01]"], ["a.0", "a.1"]),
    ],
)
def test_keys_are_names_or_patterns(keys: list[str] | None, given: list[str]) -> None:
    assert list(tapped(("a.0", 1), ("a.1", 2), ("a.1", 3), ("B", 4), keys=keys)) == given


def test_a_key_that_is_a_path_is_no_pattern() -> None:
    offered = ("a0", 1), ("a[0]", 2)
    assert list(tapped(*offered, keys=["a[0]"], paths=["a0", "a[0]"])) == ["a[0]"]


def test_keys_that_stand_for_none_are_named_with_the_nearest() -> None:
    with pytest.raises(NoSuchIntermediate, match=r"no 'encodr' \(the nearest is 'encoder'\), 'x\*'"):
        tapped(("encoder", 1), keys=["encodr", "encoder", "x*"])


def test_what_was_not_asked_for_is_not_converted() -> None:
    def fail(_: int) -> int:
        raise AssertionError

    tap = Tap(["b"], lambda *_: None, is_array=lambda _: True, to_array=fail)
    tap.offer("a", 1)


def test_a_failure_of_the_receiver_ends_the_pass_past_code_that_catches_exceptions() -> None:
    def refuse(name: str, _: Any) -> None:
        raise OSError(f"no room for {name}")

    tap = Tap(None, refuse, is_array=lambda _: True, to_array=lambda value: value)
    went_on = False
    with pytest.raises(OSError, match="no room for a"), tap.passing():  # noqa: PT012
        try:
            tap.offer("a", 1)
        except Exception:
            went_on = True
        went_on = True
    assert not went_on
