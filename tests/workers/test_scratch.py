import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dnnamo_workers.scratch import Scratch
from tests.modes import obeying_modes


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def scratch() -> Iterator[Scratch]:
    scratch = Scratch()
    yield scratch
    scratch.close()


def test_a_folder_is_gone_with_all_that_is_in_it(scratch):
    with scratch.folder() as folder:
        (folder / "a").mkdir()
        (folder / "a" / "b").write_text("c")

    assert not folder.exists()


def test_what_is_read_only_goes_too(scratch, place):
    with obeying_modes():
        with scratch.folder() as folder:
            (folder / "a" / "b").mkdir(parents=True)
            (folder / "a" / "b" / "file").write_text("text")
            (folder / "a" / "link").symlink_to(place)
            for path in (folder / "a" / "b", folder / "a", folder):
                path.chmod(0o500)
            (folder / "a" / "b").chmod(0)

        assert not folder.exists()
    assert place.stat().st_mode & 0o777 == 0o700  # what a link leads to stays as it was


def test_folders_are_apart(scratch):
    with scratch.folder() as one, scratch.folder() as other:
        assert one != other


def test_nothing_is_left_when_it_is_closed(place):
    scratch = Scratch()
    with scratch.folder():
        scratch.close()

    assert list(place.iterdir()) == []


def test_a_living_process_keeps_its_folders(scratch, place):
    with scratch.folder() as folder:
        Scratch().close()

        assert folder.exists()


def test_what_a_killed_process_left_goes_with_the_next_that_starts(place):
    program = """
import os, signal, sys, tempfile
tempfile.tempdir = sys.argv[1]
from dnnamo_workers.scratch import Scratch
with Scratch().folder() as folder:
    (folder / "file").write_text("text")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program, str(place)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert len(list(place.iterdir())) == 1

    scratch = Scratch()

    assert len(list(place.iterdir())) == 1
    scratch.close()
    assert list(place.iterdir()) == []


def test_other_peoples_files_stay(place):
    (place / "dnnamo-scratch-file").write_text("not a folder")
    (place / "dnnamo-scratch-link").symlink_to(place / "elsewhere")
    (place / "elsewhere").mkdir()
    (place / "elsewhere" / "file").write_text("text")

    Scratch().close()

    assert (place / "elsewhere" / "file").exists()
    assert sorted(path.name for path in place.iterdir()) == ["dnnamo-scratch-file", "dnnamo-scratch-link", "elsewhere"]
