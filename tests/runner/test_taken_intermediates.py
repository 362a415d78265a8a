"""What a job takes of a model's intermediates, whatever arguments its method has."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dnnamo.arrays import Array, read_arrays
from dnnamo.errors import ModelError, NoSuchIntermediate, OverBudget
from dnnamo.records import JobSpec
from dnnamo.runner import intermediates
from dnnamo.runner.intermediates import Intermediates, take_intermediates

ARRAYS: dict[str, Array] = {
    "a.0": np.arange(4, dtype=np.float32),
    "a.1": np.array([[np.nan, 1, 0]]),
    "b": np.array(True),
}


class Original:
    """The method as it was before it had arguments."""

    def get_intermediates(self) -> dict[str, Any]:
        return ARRAYS


class WithKeys:
    def get_intermediates(self, keys: Any = None) -> dict[str, Any]:
        return {name: array for name, array in ARRAYS.items() if keys is None or name[0] in str(keys)}


class WithReceiver:
    def get_intermediates(self, receive: Callable[[str, Any], None]) -> None:
        for name, array in ARRAYS.items():
            lent = array.copy()
            receive(name, lent)
            lent.fill(0)  # as it is only lent


class Whole:
    def get_intermediates(self, keys: Any = None, receive: Any = None) -> dict[str, Any]:
        WithReceiver().get_intermediates(lambda name, array: receive(name, array) if not keys or name in keys else None)
        return {}


class Anything:
    def get_intermediates(self, **given: Any) -> dict[str, Any]:
        return Whole().get_intermediates(**given)


MODELS = (Original, WithKeys, WithReceiver, Whole, Anything)


def take(model: Any, folder: Path, **options: Any) -> Intermediates:
    return take_intermediates(model, JobSpec(model="m", method="get_intermediates", **options), folder)


def giving(arrays: Any) -> Any:
    class Given:
        def get_intermediates(self) -> Any:
            return arrays

    return Given()


@pytest.mark.parametrize("model", MODELS)
def test_all_are_described_in_order(model: Any, tmp_path: Path) -> None:
    taken = take(model(), tmp_path)
    assert {name: (it.dtype, it.shape, it.max) for name, it in taken.described.items()} == {
        "a.0": ("float32", [4], 3),
        "a.1": ("float64", [1, 3], 1),
        "b": ("bool", [], 1),
    }
    assert taken.files == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", MODELS)
def test_keys_choose(model: Any, tmp_path: Path) -> None:
    assert list(take(model(), tmp_path, keys=["b"]).described) == ["b"]


@pytest.mark.parametrize("model", [Original, WithReceiver])
def test_keys_that_a_model_does_not_take_are_looked_at_here(model: Any, tmp_path: Path) -> None:
    assert list(take(model(), tmp_path, keys=["a.*"]).described) == ["a.0", "a.1"]
    with pytest.raises(NoSuchIntermediate, match=r"'a.2' \(the nearest is 'a.[01]'\)"):
        take(model(), tmp_path, keys=["a.2"])


@pytest.mark.parametrize("model", MODELS)
def test_values_are_kept_to_the_bit(model: Any, tmp_path: Path) -> None:
    taken = take(model(), tmp_path, values=True)
    assert taken.files == ["intermediates.safetensors"]
    found = read_arrays(tmp_path / "intermediates.safetensors")
    assert {name: (array.dtype, array.shape, array.tobytes()) for name, array in found.items()} == {
        name: (array.dtype, array.shape, array.tobytes()) for name, array in ARRAYS.items()
    }


def test_more_than_a_file_takes_goes_to_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intermediates, "FILE_BYTES", 32)
    taken = take(Original(), tmp_path, values=True)
    assert taken.files == ["intermediates.safetensors", "intermediates-2.safetensors"]
    assert [sorted(read_arrays(tmp_path / name)) for name in taken.files] == [["a.0"], ["a.1", "b"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(taken.files)


def test_what_fits_in_the_budget_is_kept(tmp_path: Path) -> None:
    assert len(take(Original(), tmp_path, values=True, budget_bytes=41).described) == 3


def test_beyond_the_budget_is_an_error_that_says_where_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(OverBudget) as raised:
        take(Original(), tmp_path, values=True, budget_bytes=39)
    for said in (
        "39 bytes",
        "'a.1' (float64 [1, 3], 24 bytes)",
        "1 before it, 16 bytes",
        "--keys",
        "--values",
        "--budget",
    ):
        assert said in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_an_array_that_no_database_takes_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intermediates, "LARGEST_BYTES", 20)
    with pytest.raises(OverBudget, match=r"'a\.1' .*larger than what is kept of one intermediate, 20 bytes"):
        take(Original(), tmp_path, values=True)


def test_complex_numbers_are_described_and_may_be_kept(tmp_path: Path) -> None:
    array = np.array([3 + 4j], np.complex64)
    taken = take(giving({"z": array}), tmp_path, values=True)
    assert taken.described["z"].max == 5
    assert read_arrays(tmp_path / "intermediates.safetensors")["z"].tolist() == [3 + 4j]


def test_a_type_that_files_do_not_hold_can_only_be_described(tmp_path: Path) -> None:
    model = giving({"z": np.array([3 + 4j])})
    assert take(model, tmp_path).described["z"].dtype == "complex128"
    with pytest.raises(ModelError, match=r"z is of type complex128.*Its statistics can"):
        take(model, tmp_path, values=True)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (3, "must return a dict from identifiers to arrays, not a int"),
        ({"a": "text"}, "no arrays of numbers: a"),
        ({"a": [[1], [2, 3]]}, "no arrays of numbers: a"),
    ],
)
def test_something_else_than_arrays_is_an_error(tmp_path: Path, given: Any, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        take(giving(given), tmp_path)


def test_two_arrays_of_one_name_are_an_error(tmp_path: Path) -> None:
    class Twice:
        def get_intermediates(self, keys: Any, receive: Any) -> dict[str, Any]:
            receive("a", np.ones(1))
            receive("a", np.ones(1))
            return {}

    with pytest.raises(ModelError, match="two arrays by the name of 'a'"):
        take(Twice(), tmp_path)
