import os
import random
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from dnnamo.bundles import folder as module
from dnnamo.bundles.folder import SECRETS, check_size, find
from dnnamo.errors import UsageError


@pytest.fixture
def top(tmp_path) -> Path:
    """The folder of a model, with other things around it."""
    folder = tmp_path / "around" / "model"
    folder.mkdir(parents=True)
    return folder


def write(folder: Path, *names: str, **texts: str) -> None:
    for name, text in [*((name, "") for name in names), *texts.items()]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def ignore(folder: Path, *patterns: str, name: str = ".gitignore") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(patterns))


def names(folder: Path, **options) -> set[str]:
    return set(find(folder, **options).files)


def test_all_files_below_go_along_under_their_names(top):
    write(top, "model.py", "a/b/c.py", "größe/🐎 x.txt", "new\nline", "not \udcff utf-8", "back\\slash", "-r", "a/b..")

    found = find(top)

    assert set(found.files) == {
        *("model.py", "a/b/c.py", "größe/🐎 x.txt", "new\nline", "not \udcff utf-8", "back\\slash", "-r", "a/b..")
    }
    assert found.files["a/b/c.py"].samefile(top / "a" / "b" / "c.py")
    assert found.is_whole


def test_an_empty_folder_has_none(top):
    (top / "empty").mkdir()

    assert names(top) == set()


@pytest.mark.parametrize(
    "name", [".env", ".git/config", ".ssh/id", "a/.netrc", "__pycache__/x.pyc", "a/__pycache__/x.pyc", ".venv/x"]
)
def test_what_is_hidden_or_a_cache_stays(top, name):
    write(top, "model.py", name)

    assert names(top) == {"model.py"}


@pytest.mark.parametrize("pattern", SECRETS)
def test_secrets_by_name_stay_whatever_ignore_files_say(top, pattern):
    for name in {pattern.replace("*", "x"), pattern.replace("*", "")} - {".pem"}:
        write(top, "model.py", name, f"a/{name.upper()}")
    ignore(top, "!*", name=".dnnamoignore")

    assert names(top) == {"model.py"}


def test_a_virtual_environment_stays(top):
    write(top, "model.py", "env/pyvenv.cfg", "env/lib/x.py", "environment/x.py")

    assert names(top) == {"model.py", "environment/x.py"}


def test_what_is_no_file_stays(top):
    write(top, "model.py")
    os.mkfifo(top / "pipe")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.relpath(top / "socket"))
    listener.close()

    assert names(top) == {"model.py"}


def test_private_files_and_folders_stay(top):
    write(top, "model.py", "config.toml", "home/config.toml", "home/dnnamo.db")
    (top / "link").symlink_to("config.toml")

    private = [top / "config.toml", top / "home", top.parent]

    assert names(top, private=private) == {"model.py"}


def test_only_what_is_named_is_looked_at(top):
    write(top, "pkg/__init__.py", "pkg/a/pkg.py", "other/x.py", "requirements.txt", "other.py")

    assert names(top, only=["pkg", "requirements.txt", "absent"]) == {
        *("pkg/__init__.py", "pkg/a/pkg.py", "requirements.txt")
    }


# What each pattern means is git's to say: so git is asked.
PATTERNS = [
    "*.log",
    "!keep.log",
    "build/",
    "/top.txt",
    "a/*.txt",
    "**/deep",
    "deep/**",
    "x?.py",
    "[ab]*.dat",
    "!a/",
    "#comment",
    "\\#hash",
    "trailing   ",
    "space\\ ",
    "!",
    "",
    "größe*",
    "data",
    "!data/keep.txt",
    "*",
    "!*/",
    "!*.py",
    "/*",
    "/a/**/x*",
    "[!x]*.log",
    "[[:upper:][:digit:]]*",
    "*.[a-l]og\r",
    "a[",
    "z[z-a]",
    "model/data",
]
PLACES = ["", "a/", "a/deep/", "build/", "data/", "b/größe/"]
FILES = ["keep.log", "x.log", "top.txt", "xy.py", "a.dat", "c.dat", "#hash", "trailing", "space ", "keep.txt", "größe1"]


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize("seed", range(100))
def test_gitignore_files_mean_what_they_mean_to_git(top, seed):
    chance = random.Random(seed)
    repository = top.parent
    write(top, *(f"{place}{name}" for place in PLACES for name in FILES))
    for place in (repository, top, top / "a", top / "data"):
        if chance.random() < 0.6:
            ignore(place, *chance.sample(PATTERNS, chance.randint(1, 5)))
    environment = {"PATH": os.environ["PATH"], "HOME": str(repository), "GIT_CONFIG_NOSYSTEM": "1"}
    git = ["git", "-C", str(repository)]
    subprocess.run([*git, "init", "-q"], check=True, env=environment)
    if subprocess.run([*git, "check-ignore", "-q", "model"], env=environment).returncode == 0:
        return  # all of the model's folder, which is a test of its own
    listing = [*git, "ls-files", "-z", "--others", "--exclude-standard", "model"]
    listed = subprocess.run(listing, check=True, capture_output=True, text=True, env=environment).stdout

    expected = {name.removeprefix("model/") for name in listed.split("\0") if name}
    assert names(top) == {name for name in expected if not Path(name).name.startswith(".")}


def test_a_repository_ends_where_another_begins(top):
    (top.parent / ".git").mkdir()
    ignore(top.parent, "*.txt")
    write(top, "a.txt")
    assert names(top) == set()

    (top / ".git").mkdir()
    assert names(top) == {"a.txt"}


def test_ignore_files_around_count_in_a_repository_alone(top):
    ignore(top.parent, "*.txt")
    write(top, "a.txt")

    assert names(top) == {"a.txt"}


def test_dnnamoignore_has_the_last_word_of_a_folder(top):
    ignore(top, "*.npz", "*.txt")
    ignore(top, "!weights.npz", "*.md", name=".dnnamoignore")
    write(top, "weights.npz", "other.npz", "a.txt", "a.md", "a/weights.npz")

    assert names(top) == {"weights.npz", "a/weights.npz"}


def test_what_the_repository_ignores_can_be_asked_for(top):
    (top.parent / ".git").mkdir()
    ignore(top.parent, "model/")
    write(top, "model.py", "a/b.py", "a/b.txt")
    assert names(top) == set()

    ignore(top, "!*.py", "!*/", name=".dnnamoignore")
    assert names(top) == {"model.py", "a/b.py"}


def test_data_is_taken_whatever_ignore_files_say(top):
    ignore(top, "*.pb")
    write(top, "saved/model.pb", "x.pb")

    assert names(top, only=["saved"], ignoring=False) == {"saved/model.pb"}


def test_a_link_within_the_folder_is_what_it_leads_to(top):
    write(top, **{"real.py": "x", "shared/a.py": "y"})
    (top / "link.py").symlink_to("real.py")
    (top / "absolute.py").symlink_to(top / "real.py")
    (top / "other").symlink_to("shared")

    found = find(top).files

    assert set(found) == {"real.py", "shared/a.py", "link.py", "absolute.py", "other/a.py"}
    assert found["link.py"].read_text() == "x"
    assert found["other/a.py"].read_text() == "y"


def test_the_folder_itself_may_be_a_link(top, tmp_path):
    write(top, "model.py")
    (tmp_path / "link").symlink_to(top)

    assert names(tmp_path / "link") == {"model.py"}


@pytest.mark.parametrize("target", ["../secret.txt", "..", "/etc/passwd", "/etc", "../model-2/x.py", "/nowhere"])
def test_a_link_that_leads_out_is_named(top, target):
    write(top.parent, "secret.txt", "model-2/x.py")
    write(top, "a/model.py")
    (top / "a" / "out").symlink_to(target.replace("..", "../..", 1) if target.startswith("..") else target)
    if not (top / "a" / "out").exists():
        assert names(top) == {"a/model.py"}  # it leads to nothing, wherever that is
        return

    with pytest.raises(UsageError, match="a/out leads .*dnnamoignore"):
        find(top)


def test_a_link_that_leads_out_may_be_ignored_or_hidden(top):
    write(top, "model.py")
    ignore(top, "out")
    (top / "out").symlink_to("/etc")
    (top / ".out").symlink_to("/etc")

    assert names(top) == {"model.py"}


@pytest.mark.parametrize("target", [".env", ".git/config", "a/x.key", "__pycache__/x"])
def test_a_link_does_not_bring_what_stays_itself(top, target):
    write(top, "model.py", target)
    (top / "innocent.txt").symlink_to(target)

    assert names(top) == {"model.py"}


def test_a_link_to_nothing_stays(top):
    write(top, "model.py")
    (top / "gone").symlink_to("nothing")
    (top / "circle").symlink_to("circle")

    assert names(top) == {"model.py"}


@pytest.mark.parametrize("links", [{"a/b/up": ".."}, {"a/b/c": "."}, {"a/l": "../b", "b/m": "../a"}])
def test_links_that_lead_round_are_named(top, links):
    write(top, "a/x", "b/x", "a/b/x")
    for name, target in links.items():
        (top / name).symlink_to(target)

    with pytest.raises(UsageError, match="leads back to .*, a folder around it"):
        find(top)


def test_a_folder_that_cannot_be_read_is_named(top, monkeypatch):
    write(top, "a/x")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("/a"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UsageError, match=r"model/a cannot be read: Permission denied\."):
        find(top)


def test_more_files_than_can_be_looked_through_end_the_look(top, monkeypatch):
    monkeypatch.setattr(module, "_MOST_ENTRIES", 10)
    write(top, *(f"{number}/x" for number in range(20)))

    found = find(top)

    assert not found.is_whole
    with pytest.raises(UsageError, match="more than can be looked through"):
        check_size(top, found, limit_bytes=2**30)


def test_a_disk_that_takes_too_long_ends_the_look(top, monkeypatch):
    now = iter(range(0, 10_000, 3))
    monkeypatch.setattr(module, "monotonic", lambda: next(now))
    write(top, *map(str, range(20)))

    assert not find(top).is_whole


@pytest.mark.parametrize(("limit", "fits"), [(3000, True), (2999, False)])
def test_the_files_together_have_a_limit(top, limit, fits):
    write(top, **{"a": "x" * 1000, "b/c": "x" * 2000})

    if fits:
        check_size(top, find(top), limit_bytes=limit)
        return
    with pytest.raises(UsageError) as caught:
        check_size(top, find(top), limit_bytes=limit)
    said = str(caught.value)
    for words in (str(top), "2.93 KiB in 2 files", "b/c (1.95 KiB), a (1000 bytes)", ".dnnamoignore", "--no-bundle"):
        assert words in said


def test_their_number_has_a_limit(top, monkeypatch):
    monkeypatch.setattr(module, "MOST_FILES", 3)
    write(top, *"abcd")

    with pytest.raises(UsageError, match="in 4 files; what goes with a job may have .* in 3 files"):
        check_size(top, find(top), limit_bytes=2**30)


def test_every_file_that_stays_has_a_reason(top):
    write(top, "x.key", ".hidden", "a.log", "env/pyvenv.cfg")
    ignore(top, "*.log")

    reasons = find(top).left_out

    assert reasons["x.key"] == "names like *.key are those of secrets"
    assert reasons[".hidden"] == "it is hidden"
    assert reasons["a.log"] == f"{top / '.gitignore'} says so"
    assert reasons["env"] == "it is a virtual environment"
