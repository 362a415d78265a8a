import fcntl
import json
import os
import re
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dnnamo.records import Gpu
from dnnamo_workers.devices import DeviceBusy, Place
from dnnamo_workers.locks import try_lock

GPU = Gpu(name="H100", uuid="GPU-5b2f0001-aa", memory_bytes=1)
CORES = Place("cpu", (0, 1), 2)

HOLD = """
import subprocess, sys
from pathlib import Path
from dnnamo_workers.devices import Place
from dnnamo_workers.locks import try_lock

fds = try_lock(Place("cpu", (1, 2), 2), worker="there:1", folder=Path(sys.argv[1]))
inheriting = subprocess.Popen(["cat"], pass_fds=fds) if sys.argv[2] == "with a child" else None
print(inheriting.pid if inheriting else 0, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "locks"


@contextmanager
def holder(folder: Path, how: str = "alone") -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """A process that holds the cores 1 and 2 until it dies; and the id of its child, if it has one that inherits."""
    command = [sys.executable, "-c", HOLD, str(folder), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
        process.kill()


def close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def is_free(folder: Path, place: Place) -> bool:
    try:
        close(try_lock(place, worker="me", folder=folder))
    except DeviceBusy:
        return False
    return True


def test_a_lock_is_held_until_its_descriptors_are_closed(folder):
    before = len(list(Path("/proc/self/fd").iterdir()))
    fds = try_lock(CORES, worker="here:1", folder=folder)

    assert not any(os.get_inheritable(fd) for fd in fds)
    assert not is_free(folder, Place("cpu", (1,), 1))
    assert is_free(folder, Place("cpu", (2,), 1))
    close(fds)
    assert is_free(folder, CORES)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_all_locks_are_taken_or_none(folder):
    fds = try_lock(Place("cpu", (2,), 1), worker="here:1", folder=folder)

    assert not is_free(folder, Place("gpu", (0, 1, 2), 3, GPU))
    assert is_free(folder, CORES)
    close(fds)


def test_a_gpu_is_locked_whatever_the_cores(folder):
    fds = try_lock(Place("gpu", (0,), 1, GPU), worker="here:1", folder=folder)

    with pytest.raises(DeviceBusy, match=f"{GPU.uuid} is used by here:1"):
        try_lock(Place("gpu", (1,), 1, GPU), worker="me", folder=folder)
    close(fds)


def test_who_waits_hears_who_has_it_and_how_long(folder):
    with holder(folder) as (process, _), pytest.raises(DeviceBusy) as caught:
        try_lock(CORES, worker="me", folder=folder)

    assert re.fullmatch(rf"core 1 is used by there:1 \(process {process.pid}\), for \d+ s", str(caught.value))


def test_a_holder_that_is_killed_frees_its_locks(folder):
    with holder(folder) as (process, _):
        assert not is_free(folder, CORES)
        process.kill()
        process.wait()

        assert is_free(folder, CORES)


def test_a_process_that_inherited_the_locks_keeps_them_when_the_holder_is_killed(folder):
    with holder(folder, "with a child") as (process, child):
        ended = os.pidfd_open(child)
        process.kill()
        process.wait()
        assert not is_free(folder, CORES)

        assert process.stdin is not None
        process.stdin.close()  # which ends the child
        assert select.select([ended], [], [], 30)[0]
        os.close(ended)
        assert is_free(folder, CORES)


def test_everybody_may_use_the_files_whatever_the_umask(folder):
    before = os.umask(0o077)
    try:
        close(try_lock(Place("cpu", (0,), 1), worker="here:1", folder=folder))
    finally:
        os.umask(before)

    assert folder.stat().st_mode & 0o7777 == 0o1777
    assert (folder / "cpu-0.lock").stat().st_mode & 0o7777 == 0o1666


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_users_share_the_locks():
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        folder = Path(name) / "locks"
        close(try_lock(CORES, worker="root", folder=folder))
        os.seteuid(65534)
        try:
            fds = try_lock(CORES, worker="nobody", folder=folder)
        finally:
            os.seteuid(0)

        with pytest.raises(DeviceBusy, match="core 0 is used by nobody"):
            try_lock(CORES, worker="root", folder=folder)
        close(fds)


def test_a_file_that_was_removed_is_no_lock(folder, monkeypatch):
    """Between opening and locking, another process removes the file and locks its successor."""
    close(try_lock(CORES, worker="here:1", folder=folder))
    other: list[int] = []
    flock = fcntl.flock

    def remove_first(fd: int, operation: int) -> None:
        monkeypatch.undo()
        (folder / "cpu-0.lock").unlink()
        other.extend(try_lock(Place("cpu", (0,), 1), worker="other", folder=folder))
        flock(fd, operation)

    monkeypatch.setattr("fcntl.flock", remove_first)
    with pytest.raises(DeviceBusy, match="core 0 is used by other"):
        try_lock(CORES, worker="here:1", folder=folder)
    close(other)


def plant_symlink(path: Path, target: Path) -> None:
    path.symlink_to(target)


def plant_hard_link(path: Path, target: Path) -> None:
    path.hardlink_to(target)


def plant_pipe(path: Path, target: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("plant", [plant_symlink, plant_hard_link, plant_pipe])
def test_a_planted_file_is_not_written_to(folder, tmp_path, plant):
    target = tmp_path / "precious"
    target.write_text("precious")
    folder.mkdir()
    plant(folder / "cpu-0.lock", target)

    with pytest.raises(DeviceBusy, match="the lock of core 0, .*cpu-0.lock, cannot be used: .*owner or root"):
        try_lock(CORES, worker="me", folder=folder)
    assert target.read_text() == "precious"


def test_a_planted_folder_is_not_followed(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder.symlink_to(elsewhere)

    with pytest.raises(DeviceBusy, match="the folder of the locks, .* cannot be used"):
        try_lock(CORES, worker="me", folder=folder)
    assert not any(elsewhere.iterdir())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "another process"),
        (b'{"worker": 3}', "another process"),
        (json.dumps({"worker": "\x1b[2J\nx", "pid": 7, "since": 1e300}).encode(), r"\?\[2J\?x \(process 7\), for 0 s"),
    ],
)
def test_what_others_wrote_into_a_file_is_not_trusted(folder, content, said):
    fds = try_lock(Place("cpu", (0,), 1), worker="here:1", folder=folder)
    (folder / "cpu-0.lock").write_bytes(content)

    with pytest.raises(DeviceBusy, match=f"core 0 is used by {said}$"):
        try_lock(CORES, worker="me", folder=folder)
    close(fds)
