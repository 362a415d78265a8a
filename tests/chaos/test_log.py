import os
import time
from concurrent.futures import ThreadPoolExecutor

from tests.chaos.log import append, read, runs_of


def test_lines_of_many_writers_come_back_whole(tmp_path):
    path = tmp_path / "log"
    with ThreadPoolExecutor(8) as writers:
        for number in range(200):
            writers.submit(append, str(path), job=number, run=number * 2, event="began")

    lines = read(path)

    assert sorted((line.job, line.run) for line in lines) == [(number, number * 2) for number in range(200)]
    assert {line.pid for line in lines} == {os.getpid()}
    assert all(abs(line.wall - time.time()) < 60 for line in lines)


def test_a_log_that_nobody_wrote_is_empty(tmp_path):
    assert read(tmp_path / "log") == []


def test_runs_are_found_by_job_and_event(tmp_path):
    path = str(tmp_path / "log")
    append(path, job=1, run=10, event="began")
    append(path, job=1, run=11, event="began", pid=5)
    append(path, job=2, run=12, event="began")
    append(path, job=1, run=10, event="ended")

    lines = read(tmp_path / "log")

    assert (runs_of(lines, 1), runs_of(lines, 1, "ended"), runs_of(lines, 3)) == ([10, 11], [10], [])
    assert lines[1].pid == 5
