"""Model reference -> the bundle of what it needs: the model's own folder, or the package that it names."""

import os
import site
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from hashlib import sha256
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from dnnamo.bundles.archive import Content, pack
from dnnamo.bundles.folder import check_size, find
from dnnamo.errors import UsageError
from dnnamo.loaders import Place, module_of, place_of
from dnnamo.loaders.roots import is_installed
from dnnamo.records import Bundle
from dnnamo.sizes import as_size

__all__ = ["REQUIREMENTS", "Packed", "bundle"]

REQUIREMENTS = ("requirements.txt", "pyproject.toml")
"""Files that say what a model needs to be installed; they go along with a package that they lie beside."""

_TRIES = 3
_OWN = "dnnamo"


class Packed(NamedTuple):
    """A bundle, and the archive that is its content."""

    bundle: Bundle
    content: bytes


def bundle(references: Sequence[str], *, limit_bytes: int, private: Collection[Path] = ()) -> Packed | None:
    """Return what model references need of this machine's files.

    Args:
        references: As `dnnamo.loaders.locate` returns them.
        limit_bytes: What the files may have together.
        private: Files and folders that never go along.

    Returns:
        None if they name nothing but what is installed, or is not here at all.

    Raises:
        UsageError: If the files are too many or too large, cannot be read, or leave out what a reference names.
    """
    places = [place for reference in references for place in _places(reference)]
    if not places:
        return None
    files: dict[str, Path] = {}
    for place in places:
        for name, path in _files(place, limit_bytes, private).items():
            if files.setdefault(name, path) != path and not path.samefile(files[name]):
                raise UsageError(
                    f"{files[name]} and {path} would be one file of what goes with the job. Rename one, put both into "
                    "one folder, or use --no-bundle."
                )
    contents = {name: _read(path) for name, path in files.items()}
    size = sum(len(content.data) for content in contents.values())
    if size > limit_bytes:
        raise UsageError(f"What goes with the job has {as_size(size)}; it may have {as_size(limit_bytes)}.")
    archive = pack(contents)
    folders = sorted({str(place.folder) for place in places})
    return Packed(Bundle(digest=sha256(archive).hexdigest(), size=size, files=len(files), folders=folders), archive)


def _places(reference: str) -> Iterator[Place]:
    place = place_of(reference)
    if place is not None:
        yield place
    elif (module := module_of(reference)) is not None:
        yield from _module_places(module)


def _module_places(name: str) -> Iterator[Place]:
    """Yield where the top package of a module lies: nowhere if it is installed, or not found."""
    top = name.partition(".")[0]
    spec = None if top == _OWN else _spec(top)
    if spec is None:
        return
    file = [spec.origin] if spec.has_location and spec.origin else []
    for location in spec.submodule_search_locations or file:
        path = Path(os.path.abspath(location))  # noqa: PTH100 (Path.absolute keeps the ..)
        if not _is_installed(path):
            yield Place(path.parent, only=(path.name, *REQUIREMENTS))


def _spec(top: str) -> ModuleSpec | None:
    try:
        # As a worker finds it, which has the working folder on its path; or else by an importer of an installer's.
        return PathFinder.find_spec(top, [str(Path.cwd()), *sys.path]) or find_spec(top)
    except (ImportError, ValueError):  # a name that no module can have, or one without a spec, as __main__
        return None


def _is_installed(place: Path) -> bool:
    return is_installed(place) or place.is_relative_to(site.getusersitepackages())


def _files(place: Place, limit_bytes: int, private: Collection[Path]) -> Mapping[str, Path]:
    _refuse_home(place)
    found = find(place.folder, only=place.only, ignoring=place.is_code, private=private)
    check_size(place.folder, found, limit_bytes=limit_bytes)
    if place.entry is not None and place.entry not in found.files:
        _refuse_without(place.folder / place.entry, found.left_out.get(place.entry, "it has gone"))
    return found.files


def _refuse_home(place: Place) -> None:
    if not place.only and os.path.realpath(place.folder) in (os.path.realpath(Path.home()), "/"):
        raise UsageError(
            f"The model lies in {place.folder} itself, and all of its folder would go with the job. Move it to a "
            "folder of its own, or use --no-bundle, if the workers have it at the same path."
        )


def _refuse_without(path: Path, why: str) -> None:
    raise UsageError(
        f"{path} does not go with the job: {why}. Rename it, have a line !{path.name} in a .dnnamoignore beside it if "
        "an ignore file is why, or use --no-bundle, if the workers have it at the same path."
    )


def _read(path: Path) -> Content:
    """Return a file as it is at one moment."""
    try:
        for _ in range(_TRIES):
            with path.open("rb") as file:
                before = os.fstat(file.fileno())
                data = file.read(before.st_size + 1)
            after = path.stat()
            if len(data) == before.st_size and _stamp(before) == _stamp(after):
                return Content(data, is_executable=bool(before.st_mode & 0o100))
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read, and goes with the job: {error.strerror}. Leave it out with a line in "
            ".dnnamoignore, or use --no-bundle."
        ) from error
    raise UsageError(
        f"{path} changes while it is read to go with the job. Leave it out with a line in .dnnamoignore, or submit "
        "again when nothing writes to it."
    )


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_size, status.st_mtime_ns
