"""A bundle as bytes: an uncompressed tar archive of plain files, in which equal files are equal bytes.

It is not compressed, so that its digest depends on no library's version, and nothing in it can be larger than it is.
Names are relative, with slashes. Times, owners and all of the mode but whether a file can be executed are left out.
"""

import os
import tarfile
from collections.abc import Mapping
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from dnnamo.errors import BundleError

__all__ = ["MOST_FILES", "Content", "pack", "seal", "unpack"]

MOST_FILES = 5000
"""Files that a bundle has at most."""


class Content(NamedTuple):
    """What one file holds, and whether it can be executed."""

    data: bytes
    is_executable: bool = False


def pack(files: Mapping[str, Content]) -> bytes:
    """Return an archive of files, given by their names in it."""
    buffer = BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape"
    ) as archive:
        for name in sorted(files):
            header = tarfile.TarInfo(name)
            header.size = len(files[name].data)
            header.mode = 0o755 if files[name].is_executable else 0o644
            archive.addfile(header, BytesIO(files[name].data))
    return buffer.getvalue()


def unpack(data: bytes, digest: str, folder: Path) -> None:
    """Write the files of an archive into an empty folder.

    Args:
        data: What `pack` returned.
        digest: Its SHA-256 in hexadecimal.
        folder: Where to; nobody else's.

    Raises:
        BundleError: If the digest is another one, or the archive holds anything but plain files below it. Nothing was
            written then.
        OSError: If a file cannot be written.
    """
    found = sha256(data).hexdigest()
    if found != digest:
        raise BundleError(
            f"The code that is stored for this job is not what was submitted: its SHA-256 is {found}, and the job "
            f"names {digest}. None of it was unpacked; submit the job again."
        )
    members = _members(data)
    _check_names([member.name for member in members])
    for member in members:
        _write(folder / member.name, data[member.offset_data : member.offset_data + member.size], member.mode)


def _members(data: bytes) -> list[tarfile.TarInfo]:
    try:
        with tarfile.open(fileobj=BytesIO(data), mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
            members = archive.getmembers()
    except (tarfile.TarError, ValueError, OSError) as error:
        raise _refusal(f"is no archive of files ({error})") from error
    for member in members:
        if not member.isreg() or member.issparse():
            raise _refusal(f"has {member.name!r} in it, which is no plain file")
        if member.offset_data + member.size > len(data):
            raise _refusal(f"ends within {member.name!r}")
    return members


def _check_names(names: list[str]) -> None:
    if len(names) > MOST_FILES:
        raise _refusal(f"has {len(names)} files, more than {MOST_FILES}")
    known = set(names)
    if len(known) < len(names):
        raise _refusal("has two files of one name")
    for name in names:
        parts = name.split("/")
        if "\0" in name or not {"", ".", ".."}.isdisjoint(parts):
            raise _refusal(f"has a file {name!r} in it, a name that leads elsewhere")
        if any("/".join(parts[:depth]) in known for depth in range(1, len(parts))):
            raise _refusal(f"has {name!r} in it below something that is no folder")


def _refusal(what: str) -> BundleError:
    return BundleError(f"The code that is stored for this job {what}. None of it was unpacked; submit the job again.")


def _write(path: Path, data: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(data)
    if mode & 0o100:
        path.chmod(0o755)


def seal(folder: Path) -> None:
    """Make a folder and all that is in it read-only, and nobody else's to read."""
    for path, _, names in os.walk(folder, topdown=False):
        for file in (Path(path, name) for name in names):
            file.chmod(file.stat().st_mode & 0o500)
        Path(path).chmod(0o500)
