"""Which files of a folder go with a job, and which stay where they are."""

import os
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from dnnamo.bundles.archive import MOST_FILES
from dnnamo.bundles.ignoring import Rules, ignored_by, rules_around, rules_in
from dnnamo.errors import UsageError
from dnnamo.sizes import as_size

__all__ = ["SECRETS", "Found", "check_size", "find"]

SECRETS = (
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "*.jks",
    "*.keystore",
    "*.kdbx",
    "*.ppk",
    "*.gpg",
    "*.tfvars",
    "*.env",
    "id_rsa*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    "credentials*",
    "client_secret*",
    "secrets.*",
)
"""Names, in lower case, of files that never go along, whatever the ignore files say."""

_MOST_ENTRIES = 100_000
_PATIENCE_S = 10.0
_SHOWN = 3


class Found(NamedTuple):
    """The files of a folder.

    Attributes:
        files: Those that go along, by their names in the bundle.
        left_out: Why each other file or folder does not, by its name.
        is_whole: Whether all of the folder was looked through; it is not if there is too much in it.
    """

    files: dict[str, Path]
    left_out: dict[str, str]
    is_whole: bool = True


class _Folder(NamedTuple):
    """A folder to look through: its path, its name in the bundle with a slash, and what holds in it."""

    path: str
    name: str
    rules: tuple[Rules, ...]
    around: frozenset[str]
    """It and the folders around it, with all links followed."""


def find(folder: Path, *, only: Collection[str] = (), ignoring: bool = True, private: Collection[Path] = ()) -> Found:
    """Return the files of a folder that go with a job.

    Left out are hidden files and folders, `__pycache__`, virtual environments, what `SECRETS` names, what is no file,
    and what ignore files say: those in the folder, and those around it up to the root of its repository. A symbolic
    link within the folder stands for what it leads to.

    Args:
        folder: Where they lie.
        only: Names of those in it to look at; none for all.
        ignoring: Whether ignore files count.
        private: Files and folders to leave out besides.

    Raises:
        UsageError: If a link leads out of the folder, or something cannot be read.
    """
    top = os.path.realpath(folder)
    walk = _Walk(top, ignoring=ignoring, private={os.path.realpath(path) for path in private})
    return walk.through(only)


class _Walk:
    def __init__(self, top: str, *, ignoring: bool, private: Collection[str]) -> None:
        self._top = top
        self._ignoring = ignoring
        self._private = private
        self._files: dict[str, Path] = {}
        self._left_out: dict[str, str] = {}
        self._waiting: list[_Folder] = []

    def through(self, only: Collection[str]) -> Found:
        rules = tuple(rules_around(self._top)) if self._ignoring else ()
        self._waiting.append(_Folder(self._top, "", rules, frozenset([self._top])))
        deadline, entries = monotonic() + _PATIENCE_S, 0
        while self._waiting:
            here = self._inside(self._waiting.pop())
            for entry in _entries(here.path):
                if not here.name and only and entry.name not in only:
                    continue
                self._take(entry, here)
                entries += 1
                if entries > _MOST_ENTRIES or monotonic() > deadline:
                    return Found(self._files, self._left_out, is_whole=False)
        return Found(self._files, self._left_out)

    def _inside(self, folder: _Folder) -> _Folder:
        """Return a folder with its own ignore files added to what holds in it."""
        own = tuple(rules_in(folder.path)) if self._ignoring else ()
        return folder._replace(rules=folder.rules + own)

    def _take(self, entry: "os.DirEntry[str]", here: _Folder) -> None:
        name = here.name + entry.name
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # a link that leads round in a circle, or into a folder that may not be looked into
            is_folder = is_file = False
        why = self._why_not(entry, here, is_folder=is_folder, is_file=is_file)
        if why is not None:
            self._left_out[name] = why
        elif is_folder:
            target = os.path.realpath(entry.path)
            if target in here.around:
                raise UsageError(_about_link(entry.path, f"leads back to {target}, a folder around it"))
            self._waiting.append(_Folder(entry.path, f"{name}/", here.rules, here.around | {target}))
        else:
            self._files[name] = Path(entry.path)

    def _why_not(self, entry: "os.DirEntry[str]", here: _Folder, *, is_folder: bool, is_file: bool) -> str | None:
        if (why := _why_never(entry.name, is_folder=is_folder)) is not None:
            return why
        if (source := ignored_by(here.rules, entry.path, is_folder=is_folder)) is not None:
            return f"{source} says so"
        if not is_folder and not is_file:
            return "it is no file"
        if entry.is_symlink() and (why := self._why_not_target(entry.path)):
            return why
        if (os.path.realpath(entry.path) if entry.is_symlink() else entry.path) in self._private:
            return "it is Dnnamo's own data"
        if is_folder and os.path.exists(f"{entry.path}/pyvenv.cfg"):  # noqa: PTH110 (Path costs more)
            return "it is a virtual environment"
        return None

    def _why_not_target(self, link: str) -> str | None:
        target = os.path.realpath(link)
        if not target.startswith(f"{self._top}/"):
            raise UsageError(_about_link(link, f"leads out of its folder, to {target}"))
        parts = target[len(self._top) + 1 :].split("/")
        found = (_why_never(part, is_folder=part != parts[-1]) for part in parts)
        return next((why for why in found if why is not None), None)


def _why_never(name: str, *, is_folder: bool) -> str | None:
    """Return why nothing of this name goes along, None if it may."""
    if name.startswith("."):
        return "it is hidden"
    if is_folder:
        return "it is Python's cache" if name == "__pycache__" else None
    pattern = next((pattern for pattern in SECRETS if fnmatchcase(name.lower(), pattern)), None)
    return f"names like {pattern} are those of secrets" if pattern else None


def _entries(folder: str) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise UsageError(
            f"The folder {folder} cannot be read: {error.strerror}. All of a model's folder goes with the job; leave "
            "this out with a line in .dnnamoignore, or use --no-bundle."
        ) from error


def _about_link(link: str, what: str) -> str:
    return (
        f"The link {link} {what}. What goes with a job must lie in the model's folder: put a copy there, leave the "
        "link out with a line in .dnnamoignore, or use --no-bundle."
    )


def check_size(folder: Path, found: Found, *, limit_bytes: int) -> None:
    """Refuse more files than a bundle takes, or larger ones.

    Raises:
        UsageError: With the figures, the largest files, and what can be done.
    """
    sizes = _sizes(found.files)
    total, count = sum(sizes.values()), len(sizes)
    if found.is_whole and total <= limit_bytes and count <= MOST_FILES:
        return
    largest = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN]
    shown = ", ".join(f"{name} ({as_size(size)})" for name, size in largest)
    raise UsageError(
        f"The folder {folder} of the model has {'' if found.is_whole else 'at least '}{as_size(total)} in {count:,} "
        f"files{'' if found.is_whole else ', and more than can be looked through'}; what goes with a job may have "
        f"{as_size(limit_bytes)} in {MOST_FILES:,} files. "
        f"{f'The largest: {shown}. ' if shown else ''}Leave out what the model does not need with a .dnnamoignore, "
        "which is written like .gitignore; move the model to a folder of its own; raise DNNAMO_BUNDLE_LIMIT; or use "
        "--no-bundle, if the workers have these files at the same path."
    )


def _sizes(files: Mapping[str, Path]) -> dict[str, int]:
    sizes = {}
    for name, path in files.items():
        try:
            sizes[name] = path.stat().st_size
        except OSError:  # it has gone, which reading it tells
            sizes[name] = 0
    return sizes
