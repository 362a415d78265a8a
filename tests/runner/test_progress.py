import math
import os

import pytest

from dnnamo.records import Progress
from dnnamo.runner.progress import NOTHING_YET, PROGRESS_BYTES, Counter, read_progress


@pytest.fixture
def shared():
    fd = os.memfd_create("progress")
    os.write(fd, NOTHING_YET)
    yield fd
    os.close(fd)


def seen(fd) -> Progress:
    return read_progress(os.pread(fd, PROGRESS_BYTES, 0))


def test_another_process_sees_each_step(shared):
    assert seen(shared) == Progress()
    counter = Counter(shared)
    assert seen(shared) == Progress()

    counter.warmed_up()
    counter.warmed_up()
    counter.counted()
    counter.keep_loss(0.5)

    assert seen(shared) == Progress(warmup=2, done=1, loss=0.5)


def test_steps_that_are_repeated_are_counted_anew(shared):
    counter = Counter(shared)
    counter.warmed_up()
    counter.counted()

    counter.recount()

    assert seen(shared) == Progress(warmup=1, done=0)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_not_told(shared, loss):
    Counter(shared).keep_loss(loss)

    assert seen(shared).loss is None


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * PROGRESS_BYTES, b"\xff" * 1000])
def test_whatever_user_code_wrote_there_can_be_read(content):
    progress = read_progress(content)

    assert progress.warmup >= 0
    assert progress.done >= 0


def test_nobody_needs_to_watch():
    Counter().counted()
