import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save

from dnnamo.arrays import ArrayFileError, ArrayWriter, Entry, entries, read_arrays, write_arrays

KINDS = [
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "float32", "float64", "complex64"),
    *(ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.float8_e8m0fnu),
]
RANDOM = np.random.default_rng(0)


def of_kind(kind, shape) -> np.ndarray:
    """An array of random bits, infinities and all."""
    kind = np.dtype(kind)
    size = int(np.prod(shape)) * kind.itemsize
    high = 2 if kind.kind == "b" else 256
    return RANDOM.integers(0, high, size, np.uint8).view(kind).reshape(shape)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def by_writer(path, arrays) -> None:
    with ArrayWriter(path) as file:
        for name, array in arrays.items():
            file.add(name, array)


@pytest.fixture(params=[write_arrays, by_writer])
def write(request):
    return request.param


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_comes_back_to_the_bit(tmp_path, write, kind):
    arrays = {f"{shape}": of_kind(kind, shape) for shape in [(), (0,), (3,), (2, 5), (0, 4)]}
    write(tmp_path / "file", arrays)

    for source in (tmp_path / "file", (tmp_path / "file").read_bytes()):
        found = read_arrays(source)
        assert set(found) == set(arrays)
        assert all(same_bits(found[name], array) for name, array in arrays.items())


def test_the_files_are_those_that_others_read(tmp_path, write):
    arrays = {f"{index} ü": of_kind(kind, (3, index)) for index, kind in enumerate(KINDS[:12])}
    write(tmp_path / "file", arrays)

    found = load_file(tmp_path / "file")

    assert set(found) == set(arrays)
    assert all(same_bits(found[name], array) for name, array in arrays.items())


def test_bfloat16_is_what_others_take_for_it(tmp_path, write):
    write(tmp_path / "file", {"flag": np.array([True]), "brief": np.array([1.5, -2], ml_dtypes.bfloat16)})

    with safe_open(tmp_path / "file", framework="numpy") as file:
        assert file.get_slice("brief").get_dtype() == "BF16"
        assert file.get_slice("brief").get_shape() == [2]


def test_the_files_of_others_are_read():
    arrays = {"b": np.arange(6).reshape(2, 3), "a": np.array(2.5, np.float16)}
    file = save(arrays, metadata={"format": "np"})

    assert entries(file) == [Entry("a", np.dtype("float16"), (), 48), Entry("b", np.dtype("int64"), (2, 3), 0)]
    assert all(same_bits(found, arrays[name]) for name, found in read_arrays(file).items())


def test_any_layout_in_memory_is_taken(tmp_path, write):
    whole = np.arange(24, dtype=np.int32).reshape(4, 6)
    write(tmp_path / "file", {"turned": whole.T, "every other": whole[::2, ::-3], "swapped": whole.astype(">i4")})

    found = read_arrays(tmp_path / "file")

    assert found["turned"].tolist() == whole.T.tolist()
    assert found["every other"].tolist() == whole[::2, ::-3].tolist()
    assert same_bits(found["swapped"], whole)


def test_wide_types_stand_first_so_that_all_are_aligned(tmp_path, write):
    write(tmp_path / "file", {"flag": np.array([True]), "wide": np.array([1.0]), "half": np.array([1], np.float16)})

    assert [entry.name for entry in sorted(entries(tmp_path / "file"), key=lambda entry: entry.begin)] == [
        "wide",
        "half",
        "flag",
    ]


def test_no_arrays_are_a_file(tmp_path, write):
    write(tmp_path / "file", {})

    assert read_arrays(tmp_path / "file") == load_file(tmp_path / "file") == {}


def test_a_type_that_no_such_file_holds_is_refused(tmp_path, write):
    with pytest.raises(ArrayFileError, match="names is of type <U1; safetensors files hold bool"):
        write(tmp_path / "file", {"names": np.array(["a"])})


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    def fail() -> None:
        with ArrayWriter(tmp_path / "file") as file:
            file.add("a", np.ones(3))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert [*tmp_path.iterdir()] == []


def header(**said) -> bytes:
    text = json.dumps(said).encode()
    return len(text).to_bytes(8, "little") + text


WHOLE = {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (b"", "no safetensors file, or is cut short: it has 0 bytes"),
        (b"PK\3\4 and so on", "no safetensors file, or is cut short"),
        (b"\5\0\0\0\0\0\0\0hello", "header cannot be read"),
        (header(a=WHOLE)[:-2], "cut short"),
        (header(a=WHOLE) + b"1", "its arrays take 2 bytes, and it has 1"),
        (header(a=WHOLE) + b"123", "its arrays take 2 bytes, and it has 3"),
        (header(a=WHOLE | {"shape": [3]}) + b"12", r"'a' of shape \[3\] in the bytes \(0, 2\), which do not fit"),
        (header(a=WHOLE | {"shape": [-2]}) + b"12", "header cannot be read"),
        (header(a=WHOLE | {"dtype": "F4"}) + b"12", "'a' as F4, a type that Dnnamo does not know"),
        (header(a=WHOLE, b=WHOLE) + b"12", "'b' begins at byte 0, not at 2"),
        (header(a=WHOLE | {"data_offsets": [1, 3]}) + b"123", "'a' begins at byte 1, not at 0"),
    ],
)
def test_what_is_no_whole_file_is_refused(tmp_path, file, message):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(file)

    for read in (entries, read_arrays):
        with pytest.raises(ArrayFileError, match=message):
            read(file)
        with pytest.raises(ArrayFileError, match=f"^{path} "):
            read(path)
