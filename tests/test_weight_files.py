import pickle
import zipfile

import numpy as np
import pytest

from dnnamo.arrays import packed, read_arrays
from dnnamo.errors import UsageError
from dnnamo.weight_files import read_weights

torch = pytest.importorskip("torch")

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3).to(torch.bfloat16), "a.steps": torch.tensor(7)}


class Code:
    """Writes a file as it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def saved(path, value, **more):
    torch.save(value, path, **more)
    return path


def test_a_safetensors_file_goes_on_as_it_is(tmp_path):
    content = packed({"a": np.ones(3)})
    (tmp_path / "weights").write_bytes(content)

    assert read_weights(tmp_path / "weights") == read_weights(tmp_path / "weights", pickled=True) == content


@pytest.mark.parametrize("name", ["w.pt", "w.bin", "w.safetensors"])
@pytest.mark.parametrize("archive", [True, False])
def test_a_pickle_is_refused_whatever_its_name_and_nothing_of_it_runs(tmp_path, name, archive):
    path = saved(tmp_path / name, {"x": Code(tmp_path / "ran")}, _use_new_zipfile_serialization=archive)

    with pytest.raises(UsageError, match=f"{path} are pickled, .* `--pickled-weights` .*`pickled=True`"):
        read_weights(path)

    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_plain_pickle_is_one_too(tmp_path, protocol):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"a": [1]}, protocol=protocol))

    with pytest.raises(UsageError, match="are pickled"):
        read_weights(tmp_path / "w.pkl")


def same(content: bytes) -> bool:
    found = read_arrays(content)
    return {name: array.astype(float).tolist() for name, array in found.items()} == {
        name: tensor.double().tolist() for name, tensor in TENSORS.items()
    } and [str(array.dtype) for _, array in sorted(found.items())] == ["int64", "bfloat16"]


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize(
    "wrap", [lambda it: it, lambda it: {"state_dict": it}, lambda it: {"model": {"state_dict": it}}]
)
def test_a_pickled_state_dict_is_taken_if_it_is_asked_for(tmp_path, wrap, archive):
    path = saved(tmp_path / "w.pt", wrap(TENSORS), _use_new_zipfile_serialization=archive)

    assert same(read_weights(path, pickled=True))


def test_a_pickled_module_has_weights(tmp_path):
    path = saved(tmp_path / "w.pt", torch.nn.Linear(2, 3))

    assert sorted(read_arrays(read_weights(path, pickled=True))) == ["bias", "weight"]


def test_what_is_no_tensor_is_left_out_and_said(tmp_path):
    path = saved(tmp_path / "w.pt", {**TENSORS, "epoch": 3})

    with pytest.warns(UserWarning, match="only the tensors are taken, not epoch"):
        assert same(read_weights(path, pickled=True))


@pytest.mark.parametrize("value", [[1, 2], {"epoch": 3}, "text"])
def test_a_pickle_without_tensors_is_refused(tmp_path, value):
    path = saved(tmp_path / "w.pt", value)

    with pytest.raises(UsageError, match="no tensors by name. Save a network's state_dict"):
        read_weights(path, pickled=True)


def test_a_damaged_pickle_is_refused(tmp_path):
    path = saved(tmp_path / "w.pt", TENSORS)
    path.write_bytes(path.read_bytes()[:-60])

    with pytest.raises(UsageError, match=f"The pickled weights {path} cannot be read: "):
        read_weights(path, pickled=True)


def npz(path):
    with path.open("wb") as file:
        np.savez(file, a=np.ones(2))


def zipped(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.npy", "x")


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n and more"), "an HDF5 file"),
        (npz, "a zip archive"),
        (zipped, "a zip archive"),
        (lambda path: path.write_bytes(b""), "an empty file"),
        (lambda path: path.write_bytes(b"weights: 3\n"), "of a kind that is not known here"),
    ],
)
def test_another_kind_of_file_is_called_by_its_name(tmp_path, make, kind):
    path = tmp_path / "w.safetensors"
    make(path)

    with pytest.raises(UsageError, match=f"{path} are {kind}.* no safetensors file: .*save_file"):
        read_weights(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match="w.safetensors cannot be read: No such file"):
        read_weights(tmp_path / "w.safetensors")
