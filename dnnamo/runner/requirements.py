"""What a model's own files say must be installed, compared with what is."""

import platform
import re
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any, NamedTuple, Self

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from dnnamo.errors import LoaderError

__all__ = ["Requirements"]

_COMMENT = re.compile(r"(^|\s)#.*$")
_OPTION = re.compile(r"\s-.*$")


class Requirements(NamedTuple):
    """What the files in a folder require.

    Attributes:
        folder: The folder.
        source: Name of the file that says so.
        packages: Packages by name, with versions and markers.
        python: Versions of Python.
    """

    folder: Path
    source: str = ""
    packages: tuple[Requirement, ...] = ()
    python: SpecifierSet = SpecifierSet()

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Read `requirements.txt`, or else the dependencies of the project in `pyproject.toml`.

        What is no name of a package, such as an option, another file or a path, is passed over.

        Raises:
            LoaderError: If the file cannot be read.
        """
        listed, project = folder / "requirements.txt", folder / "pyproject.toml"
        if listed.is_file():
            return cls(folder, listed.name, tuple(_parsed(_lines(_text(listed)))))
        if not project.is_file():
            return cls(folder)
        table = _table(project)
        dependencies = table.get("dependencies")
        given = [line for line in dependencies if isinstance(line, str)] if isinstance(dependencies, list) else []
        return cls(folder, project.name, tuple(_parsed(given)), _python(table.get("requires-python")))

    def lacking(self) -> list[str]:
        """Return what of that this interpreter does not have, in words, less what the folder brings itself."""
        here = platform.python_version()
        lacks = [] if self.python.contains(here, prereleases=True) else [f"Python {self.python} (it has {here})"]
        for package in self.packages:
            applies = package.marker is None or package.marker.evaluate({"extra": ""})
            if applies and not self._brings(package.name) and (why := _why_not(package)):
                lacks.append(f"{package.name}{package.specifier} ({why})")
        return lacks

    def _brings(self, package: str) -> bool:
        name = package.replace("-", "_")
        return (self.folder / name).is_dir() or (self.folder / f"{name}.py").is_file()


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        raise LoaderError(f"{path.name}, which lies beside the model, cannot be read: {error}.") from error


def _table(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(_text(path)).get("project")
    except tomllib.TOMLDecodeError as error:
        raise LoaderError(f"{path.name}, which lies beside the model, is no TOML: {error}.") from error
    return table if isinstance(table, dict) else {}


def _lines(text: str) -> Iterator[str]:
    """Yield the lines of a requirements file without comments and options; a backslash puts two together."""
    for line in text.replace("\\\r\n", " ").replace("\\\n", " ").splitlines():
        yield _OPTION.sub("", _COMMENT.sub("", line)).strip()


def _parsed(lines: Iterable[str]) -> Iterator[Requirement]:
    for line in lines:
        try:
            yield Requirement(line)
        except InvalidRequirement:
            continue


def _python(text: object) -> SpecifierSet:
    try:
        return SpecifierSet(text) if isinstance(text, str) else SpecifierSet()
    except InvalidSpecifier:  # for whoever installs that project to tell
        return SpecifierSet()


def _why_not(package: Requirement) -> str | None:
    found = _version(package.name)
    if found is None:
        return "not installed"
    return None if package.specifier.contains(found, prereleases=True) else f"it has {found}"


def _version(package: str) -> str | None:
    """Return the version of what is installed under a name, or else of what brings the module of that name.

    The latter since one package may come under several names: TensorFlow as tensorflow-cpu, for example.
    """
    for name in (package, *_providers().get(canonicalize_name(package), ())):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


@cache
def _providers() -> dict[str, list[str]]:
    return {canonicalize_name(module): names for module, names in packages_distributions().items()}
