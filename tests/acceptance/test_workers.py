"""Workers come, go and die; jobs do not mind."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text

from dnnamo.records import Device
from dnnamo_workers.devices import device_classes
from tests.acceptance.place import BRIEF, QUICK, Place, stop, until
from tests.servers import start_redis
from tests.test_compose import worker_command

SLOW = """
import time
class M:
    def run_inference(self, n_steps=1):
        with open({marks!r}, "a+") as file:
            file.write("begun ")
            file.seek(0)
            executions = len(file.read().split())
        if executions <= {times}:
            time.sleep({seconds})
        return [1.0]
def __dnnamo_loader__():
    return M()
"""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Place]:
    """A place with a broker of its own and no worker yet."""
    with start_redis(tmp_path / "redis") as url:
        yield Place(tmp_path, broker_url=url)


def slow_model(place: Place, *, seconds: float = 100, times: int = 1) -> tuple[Path, Path]:
    """A model that takes so long the first times and none from then on, and the file that tells how often it ran."""
    marks = place.home / "marks"
    marks.touch()
    return place.file("slow.py", SLOW.format(marks=str(marks), seconds=seconds, times=times)), marks


def begun(marks: Path) -> int:
    return marks.read_text().split().count("begun")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP])
def test_idle_worker_ends_with_0_when_told_to_stop(own: Place, number: signal.Signals) -> None:
    with own.worker() as worker:
        worker.send_signal(number)
        assert worker.wait(60) == 0
    assert own.json("doctor")[-1]["finding"] == "none"


NO_GPU = "gpu" not in device_classes()
GPU = pytest.param("gpu", marks=[pytest.mark.gpu, pytest.mark.skipif(NO_GPU, reason="needs a CUDA device")])


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_worker_of_the_compose_file_serves_its_queue(own: Place, device: Device) -> None:
    with own.worker(worker_command(device), fresh=True) as worker:
        serving = own.json("doctor")[-1]["finding"]
        assert f":{worker.pid} ({device};" in serving


@pytest.mark.skipif(not NO_GPU, reason="this machine has a GPU")
def test_worker_for_gpus_where_there_is_none_ends_with_2(own: Place) -> None:
    done = own.dnnamo(*worker_command("gpu")[1:], code=2)
    assert "sees no GPU" in done.stderr
    assert "CUDA_VISIBLE_DEVICES" in done.stderr


def test_more_slots_than_cores_end_with_2(own: Place) -> None:
    done = own.dnnamo("worker", "--slots", 10_000, code=2)
    assert "--slots" in done.stderr
    assert "10000" in done.stderr


def test_jobs_submitted_before_any_worker_are_run_by_the_first(own: Place) -> None:
    ids = [own.submit("run_inference", QUICK, *BRIEF) for _ in range(6)]
    assert {row["state"] for row in own.json("ls")} == {"queued"}
    assert "No worker serves queue cpu" in own.dnnamo("submit", "run_inference", QUICK).stderr
    with own.worker():
        own.dnnamo("wait", *ids)


def test_greater_priority_starts_first(own: Place) -> None:
    low = own.submit("run_inference", QUICK, *BRIEF)
    high = own.submit("run_inference", QUICK, *BRIEF, "--priority", 5)
    with own.worker():
        own.dnnamo("wait", low, high)
    started = {row["id"]: row["started"] for row in (own.json("show", it) for it in (low, high))}
    assert started[high] < started[low]


def test_stopping_worker_finishes_what_is_short(own: Place) -> None:
    model, marks = slow_model(own, seconds=1)
    with own.worker() as worker:
        job_id = own.submit("run_inference", model, *BRIEF)
        until(lambda: begun(marks) == 1)
        assert stop(worker) == 0
    assert own.json("show", job_id)["state"] == "succeeded"


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_stopping_worker_hands_back_what_is_long_and_another_runs_it(own: Place, signals: list[signal.Signals]) -> None:
    model, marks = slow_model(own)
    with own.worker(DNNAMO_DRAIN_S="0.5") as worker:
        job_id = own.submit("run_inference", model, *BRIEF)
        until(lambda: begun(marks) == 1)
        for number in signals:
            worker.send_signal(number)
            time.sleep(0.1)  # as between two presses of a key
        assert worker.wait(60) == 0
    assert own.json("show", job_id)["state"] == "queued"
    with own.worker():
        own.dnnamo("wait", job_id)
    assert [attempt["state"] for attempt in own.json("show", job_id)["attempts"]] == ["handed_back", "succeeded"]


def test_job_of_a_killed_worker_is_run_again_once_its_lease_is_over(own: Place) -> None:
    model, marks = slow_model(own)
    with own.worker() as worker:
        job_id = own.submit("run_inference", model, *BRIEF)
        until(lambda: begun(marks) == 1)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    assert own.json("show", job_id)["state"] == "running"
    with own.store() as store, store.engine.begin() as connection:  # half a minute passes
        connection.execute(text("UPDATE jobs SET lease_until = '2020-01-01 00:00:00.000000'"))
    with own.worker():
        own.dnnamo("wait", job_id)
    assert [attempt["state"] for attempt in own.json("show", job_id)["attempts"]] == ["lost", "succeeded"]


def test_runner_dies_with_its_worker(own: Place) -> None:
    pids = own.home / "pids"
    model = own.file(
        "sleeper.py",
        "import os, time\n"
        "class M:\n"
        "    def run_inference(self, n_steps=1):\n"
        f"        open({str(pids)!r}, 'w').write(str(os.getpid()))\n"
        "        time.sleep(100)\n"
        "def __dnnamo_loader__():\n"
        "    return M()\n",
    )
    with own.worker() as worker:
        own.submit("run_inference", model)
        until(lambda: pids.exists() and pids.read_text() != "")
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    until(lambda: not Path(f"/proc/{pids.read_text()}").exists())


def test_queued_job_is_cancelled_at_once_and_a_running_one_soon(own: Place) -> None:
    model, marks = slow_model(own)
    with own.worker():
        running = own.submit("run_inference", model, *BRIEF)
        queued = own.submit("run_inference", model)
        until(lambda: begun(marks) == 1)
        own.dnnamo("cancel", running, queued)
        assert own.json("show", queued)["state"] == "cancelled"
        own.dnnamo("wait", running, code=1)
    shown = own.json("show", running)
    assert (shown["state"], shown["cause"]) == ("cancelled", "cancelled")
    assert own.json("show", queued)["attempts"] == []
    assert begun(marks) == 1


def test_two_slots_run_two_jobs_side_by_side(own: Place) -> None:
    model, marks = slow_model(own, times=2)
    ids = [own.submit("run_inference", model, *BRIEF) for _ in range(3)]
    with own.worker(["dnnamo", "worker", "--queue", "cpu", "--slots", "2"]):
        until(lambda: begun(marks) == 2)
        assert sorted(row["state"] for row in own.json("ls")) == ["queued", "running", "running"]
        own.dnnamo("cancel", *ids)


def test_cpu_worker_leaves_gpu_jobs_alone(own: Place) -> None:
    gpu = own.submit("run_inference", QUICK, "--device", "gpu")
    with own.worker():
        own.json("run", QUICK, *BRIEF)
        assert own.json("show", gpu)["state"] == "queued"
        assert "no worker serves queue gpu" in own.dnnamo("ls").stderr


def test_hint_that_says_nothing_true_does_nothing(own: Place) -> None:
    from celery import Celery

    with own.worker():
        forger = Celery(broker=own.environment["DNNAMO_BROKER_URL"])
        for args in (["cpu"], ["gpu"], ["rm -rf /"], [], [1, 2, 3]):
            forger.send_task("dnnamo.work", args=args, queue="dnnamo.cpu")
        forger.send_task("os.system", args=["true"], queue="dnnamo.cpu")
        forger.close()
        assert own.json("run", QUICK, *BRIEF)["id"] == 1
    assert len(own.json("show", 1)["attempts"]) == 1


def test_user_code_sees_no_passwords_and_never_runs_in_the_worker(own: Place) -> None:
    model = own.file(
        "curious.py",
        "import os, sys\n"
        "class M:\n"
        "    def run_inference(self, n_steps=1):\n"
        "        print([name for name in os.environ if name.endswith('_URL')], 'celery' in sys.modules, os.getpid())\n"
        "        return [0.0]\n"
        "def __dnnamo_loader__():\n"
        "    return M()\n",
    )
    with own.worker() as worker:
        job_id = own.submit("run_inference", model, *BRIEF)
        own.dnnamo("wait", job_id)
        log = own.dnnamo("logs", job_id).stdout
    assert log.startswith("[] False ")
    assert str(worker.pid) not in log.split()


DAEMON = """
import os, time
class M:
    def run_inference(self, n_steps=1):
        if os.path.exists({marks!r}):
            return [1.0]
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                with open({marks!r} + ".new", "w") as file:
                    file.write(str(os.getpid()))
                os.rename({marks!r} + ".new", {marks!r})
                time.sleep(1000)
            os._exit(0)
        os.wait()
        time.sleep(1000)
def __dnnamo_loader__():
    return M()
"""


def test_nothing_of_a_job_is_left_when_what_keeps_it_is_killed(own: Place) -> None:
    marks = own.home / "daemon"
    model = own.file("daemon.py", DAEMON.format(marks=str(marks)))
    with own.worker() as worker:
        job_id = own.submit("run_inference", model, *BRIEF)
        until(marks.exists)
        (keeper,) = psutil.Process(worker.pid).children()
        daemon = psutil.Process(int(marks.read_text()))
        until(lambda: daemon.ppid() == keeper.pid)

        keeper.kill()

        until(lambda: not daemon.is_running())
        assert [attempt["cause"] for attempt in own.ended(job_id)["attempts"]] == ["signal", None]


def test_up_is_a_whole_cluster_in_one_command(tmp_path: Path) -> None:
    said = tmp_path / "said"
    with said.open("wb") as output, Place(tmp_path).started("up", output=output, fresh=True) as cluster:
        until(lambda: said.read_text().endswith("\n"))
        name, _, url = said.read_text().splitlines()[0].removeprefix("export ").partition("=")
        inside = Place(tmp_path, broker_url=url)
        assert name == "DNNAMO_BROKER_URL"
        assert inside.json("run", QUICK, *BRIEF)["state"] == "succeeded"
        assert str(cluster.pid) in inside.json("show", 1)["attempts"][0]["worker"]
        assert stop(cluster) == 0


def test_job_of_a_killed_process_is_run_by_whoever_waits_for_it(tmp_path: Path) -> None:
    place = Place(tmp_path)
    model, marks = slow_model(place)
    with place.started("submit", "run_inference", model, *BRIEF) as submit:
        until(lambda: begun(marks) == 1)
        submit.kill()
    with place.store() as store, store.engine.begin() as connection:  # half a minute passes
        connection.execute(text("UPDATE jobs SET lease_until = '2020-01-01 00:00:00.000000'"))
    place.dnnamo("wait", 1)
    assert [attempt["state"] for attempt in place.json("show", 1)["attempts"]] == ["lost", "succeeded"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_run_cancels_its_job(tmp_path: Path, number: signal.Signals) -> None:
    place = Place(tmp_path)
    model, marks = slow_model(place)
    said = tmp_path / "said"
    with said.open("wb") as errors, place.started("run", model, *BRIEF, errors=errors) as run:
        until(lambda: begun(marks) == 1)
        os.killpg(run.pid, number)
        assert run.wait(60) == 1
    assert "Traceback" not in said.read_text()
    assert "Cancelling job 1" in said.read_text()
    assert place.json("show", 1)["state"] == "cancelled"
