"""Ignore files: what they say of a file or folder, as gitignore(5) has it."""

import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from dnnamo.errors import UsageError

__all__ = ["Rules", "ignored_by", "rules_around", "rules_in"]

_FILES = (".gitignore", ".dnnamoignore")
"""Names of ignore files; of those in one folder the last has the last word."""

_TOKEN = re.compile(
    r"(?P<folders>(?:^|(?<=/))\*\*/)|(?P<inside>(?<=/)\*\*$)|(?P<stars>\*+)|(?P<any>\?)|\\(?P<escaped>.)"
    r"|\[(?P<negated>[!^]?)(?P<set>\]?(?:\[:\w+:\]|\\.|[^\]\\])*)\]|(?P<other>.)",
    re.DOTALL,
)
_IN_SET = re.compile(r"\[:(?P<kind>\w+):\]|\\(?P<escaped>.)|(?P<range>-)|(?P<other>.)", re.DOTALL)
_SIMPLE = {"folders": "(?:.*/)?", "inside": ".+", "stars": "[^/]*", "any": "[^/]"}
_KINDS = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "blank": r"\ \t",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": r"\x21-\x7e",
    "lower": "a-z",
    "print": r"\x20-\x7e",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\s",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}


class _Pattern(NamedTuple):
    """One line of an ignore file."""

    regex: re.Pattern[str]
    ignores: bool
    only_folders: bool

    @classmethod
    def of(cls, line: str) -> Self | None:
        """Return what a line says; None for one that says nothing."""
        line = re.sub(r"(?<!\\) +$", "", line.removesuffix("\r"))
        negated = line.startswith("!")
        body = line[negated:]
        pattern = body.removesuffix("/")
        if line.startswith("#") or not pattern.strip("/"):
            return None
        below = "" if "/" in pattern else "(?:.*/)?"
        try:
            regex = re.compile(below + _TOKEN.sub(_translated, pattern.removeprefix("/")), re.DOTALL)
        except re.error:  # a range that runs backwards, which matches nothing
            return None
        return cls(regex, not negated, body.endswith("/"))


def _translated(token: re.Match[str]) -> str:
    kind, text = token.lastgroup or "other", token[0]
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    if kind == "set":
        within = _IN_SET.sub(_translated_in_set, token["set"])
        return f"(?!/)[{'^' if token['negated'] else ''}{within}]"
    return re.escape(token["escaped"] if kind == "escaped" else text)


def _translated_in_set(token: re.Match[str]) -> str:
    if token.lastgroup == "kind":
        return _KINDS.get(token["kind"], "")
    return "-" if token.lastgroup == "range" else re.escape(token["escaped"] or token["other"])


class Rules(NamedTuple):
    """What an ignore file says of all that lies below a folder.

    Attributes:
        source: Path of the file.
        base: The folder, with a slash.
        patterns: Its lines that say something.
    """

    source: str
    base: str
    patterns: tuple[_Pattern, ...]

    @classmethod
    def of(cls, source: str, folder: str, lines: Sequence[str]) -> Self:
        """Return what lines say of what lies below a folder."""
        patterns = (_Pattern.of(line) for line in lines)
        return cls(source, f"{folder.rstrip('/')}/", tuple(pattern for pattern in patterns if pattern is not None))

    def ignores(self, path: str, *, is_folder: bool) -> bool | None:
        """Return whether these rules leave out a path, None if they say nothing of it; of those above ask first."""
        name = path[len(self.base) :]
        for pattern in reversed(self.patterns):
            if (is_folder or not pattern.only_folders) and pattern.regex.fullmatch(name):
                return pattern.ignores
        return None


def rules_in(folder: str) -> Iterator[Rules]:
    """Yield the rules of the ignore files in a folder, the last word last."""
    for name in _FILES:
        path = Path(folder, name)
        try:
            # A link or a pipe in the place of the file is none, as for git.
            if stat.S_ISREG(path.lstat().st_mode):
                yield Rules.of(str(path), folder, path.read_text("utf-8-sig", "surrogateescape").split("\n"))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UsageError(f"{path}, which says what to leave out, cannot be read: {error.strerror}.") from error


def rules_around(folder: str) -> Iterator[Rules]:
    """Yield the rules of the folders around one, up to the root of its repository, the last word last.

    If these leave out the folder itself, or one that it lies in, the last of them leaves out all that is in it.
    """
    places = [folder, *map(str, Path(folder).parents)]
    root = next((number for number, place in enumerate(places) if os.path.lexists(f"{place}/.git")), 0)
    found: list[Rules] = []
    for place, below in zip(reversed(places[1 : root + 1]), reversed(places[:root]), strict=True):
        found += rules_in(place)
        if source := ignored_by(found, below, is_folder=True):
            found.append(Rules.of(source, folder, ["*"]))
            break
    yield from found


def ignored_by(rules: Sequence[Rules], path: str, *, is_folder: bool) -> str | None:
    """Return the ignore file that leaves out a path, None if none does; the last that says anything counts."""
    for each in reversed(rules):
        ignores = each.ignores(path, is_folder=is_folder)
        if ignores is not None:
            return each.source if ignores else None
    return None
