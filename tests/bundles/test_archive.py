import gzip
import io
import stat
import tarfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from dnnamo.bundles import archive
from dnnamo.bundles.archive import Content, pack, seal, unpack
from dnnamo.errors import BundleError
from tests.modes import obeying_modes

FILES = {
    "model.py": Content(b"x = 1\n"),
    "a folder/deep/er/data": Content(bytes(range(256)) * 40),
    "tool.sh": Content(b"#!/bin/sh\n", is_executable=True),
    "empty": Content(b""),
    "größe 🐎.txt": Content("ü".encode()),
    "new\nline and \\ and 'quote'": Content(b"odd"),
    "not \udcff utf-8": Content(b"odder"),
    f"{'long/' * 60}{'n' * 200}": Content(b"far"),
}


def unpacked(data: bytes, folder: Path) -> Path:
    folder.mkdir()
    unpack(data, sha256(data).hexdigest(), folder)
    return folder


def read_back(folder: Path) -> dict[str, Content]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(p.relative_to(folder)): Content(p.read_bytes(), bool(p.stat().st_mode & 0o100)) for p in paths}


def test_what_is_unpacked_is_what_was_packed(tmp_path):
    assert read_back(unpacked(pack(FILES), tmp_path / "x")) == FILES


def test_no_files_are_an_empty_folder(tmp_path):
    assert read_back(unpacked(pack({}), tmp_path / "x")) == {}


def test_equal_files_are_equal_bytes_in_any_order():
    assert pack(FILES) == pack(dict(reversed(FILES.items())))


def test_these_bytes_are_the_same_for_every_version():
    """A digest is stored with each job: another one would say that the code has changed."""
    assert sha256(pack(FILES)).hexdigest() == "405127c1377f820d3090981005ad6bb9e6abda1d8d3e0b9eed5ed2c3b5df81bd"


@pytest.mark.parametrize(
    "other",
    [
        {**FILES, "model.py": Content(b"x = 2\n")},
        {**FILES, "tool.sh": Content(b"#!/bin/sh\n")},
        {**FILES, "more": Content(b"")},
        {name: content for name, content in FILES.items() if name != "empty"},
    ],
)
def test_other_files_are_other_bytes(other):
    assert pack(other) != pack(FILES)


def test_what_is_sealed_cannot_be_written_but_is_what_it_was(tmp_path):
    folder = unpacked(pack(FILES), tmp_path / "x")
    seal(folder)

    assert {stat.S_IMODE(path.stat().st_mode) & 0o277 for path in [folder, *folder.rglob("*")]} == {0}
    assert read_back(folder) == FILES
    with obeying_modes():
        for path in (folder / "new", folder / "model.py", folder / "a folder" / "deep" / "new"):
            with pytest.raises(PermissionError):
                path.write_text("x")


def test_another_digest_is_refused(tmp_path):
    data = pack(FILES)

    with pytest.raises(BundleError, match="is not what was submitted"):
        unpack(data + b"\0", sha256(data).hexdigest(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def made(*members: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    """Return an archive as somebody else may make it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                file.addfile(member, io.BytesIO(b"x" * member.size))
            else:
                header = tarfile.TarInfo(member[0])
                header.size = len(member[1])
                file.addfile(header, io.BytesIO(member[1]))
    return buffer.getvalue()


def of_type(kind: bytes, name: str = "thing", target: str = "model.py") -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, target
    return header


def sparse() -> bytes:
    header = tarfile.TarInfo("holes")
    header.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.size": str(2**50), "GNU.sparse.map": "0,0"}
    return made(header)


FINE = ("fine.py", b"")

BAD: dict[str, Callable[[], bytes]] = {
    "absolute": lambda: made(FINE, ("/etc/passwd", b"")),
    "parent": lambda: made(FINE, ("../x", b"")),
    "parent within": lambda: made(FINE, ("a/../../x", b"")),
    "dot": lambda: made(FINE, ("./x", b"")),
    "double slash": lambda: made(FINE, ("a//x", b"")),
    "empty name": lambda: made(FINE, ("", b"")),
    "only dots": lambda: made(FINE, ("..", b"")),
    "twice": lambda: made(FINE, FINE),
    "file and folder": lambda: made(("a", b""), ("a/b", b"")),
    "folder and file": lambda: made(("a/b/c", b""), ("a/b", b"")),
    "symbolic link": lambda: made(FINE, of_type(tarfile.SYMTYPE)),
    "link that leads out": lambda: made(FINE, of_type(tarfile.SYMTYPE, "out", "/etc"), ("out/x", b"")),
    "hard link": lambda: made(FINE, of_type(tarfile.LNKTYPE, target="fine.py")),
    "device": lambda: made(FINE, of_type(tarfile.CHRTYPE)),
    "pipe": lambda: made(FINE, of_type(tarfile.FIFOTYPE)),
    "folder": lambda: made(FINE, of_type(tarfile.DIRTYPE)),
    "sparse": sparse,
    "compressed": lambda: gzip.compress(made(FINE)),
    "text": lambda: b"not an archive at all",
    "cut short": lambda: made(FINE, ("long", b"x" * 5000))[:3000],
    "too many": lambda: made(*((f"f{number}", b"") for number in range(11))),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_archive_is_refused_and_nothing_written(tmp_path, monkeypatch, case):
    monkeypatch.setattr(archive, "MOST_FILES", 10)
    data = BAD[case]()

    with pytest.raises(BundleError, match="None of it was unpacked"):
        unpacked(data, tmp_path / "x")

    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert list((tmp_path / "x").iterdir()) == []


def test_a_name_with_nul_is_refused(tmp_path):
    header = tarfile.TarInfo("name")
    header.pax_headers = {"path": "a\0b"}

    with pytest.raises(BundleError, match="leads elsewhere"):
        unpacked(made(header), tmp_path / "x")
