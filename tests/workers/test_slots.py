import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dnnamo.errors import Unsupported
from dnnamo.records import Environment, Gpu, JobSpec, Outcome
from dnnamo.runner.proc import children_of
from dnnamo.runner.wire import Request
from dnnamo.settings import Settings
from dnnamo_workers import slots
from dnnamo_workers.devices import DeviceBusy, DeviceLost, Place, plan
from dnnamo_workers.keeper import Keeper, KeeperFailed
from dnnamo_workers.scratch import Scratch
from dnnamo_workers.slots import RunnerUnavailable, Slot

MODEL = """
import os
class M:
    def run_inference(self, n_steps=1):
        print(os.getppid())
        return [0.5] * n_steps
def __dnnamo_loader__():
    return M()
"""


@pytest.fixture
def make(tmp_path) -> Iterator[Callable[..., Slot]]:
    made = []
    scratch = Scratch()

    def make(place: Place | None = None, **settings) -> Slot:
        place = place or plan(["cpu"], 1)[0]
        made.append(Slot(place, worker="given", settings=Settings(home=tmp_path / "home", **settings), scratch=scratch))
        return made[-1]

    yield make
    for slot in made:
        slot.close()
    scratch.close()


@pytest.fixture
def spec(tmp_path) -> JobSpec:
    path = tmp_path / "given_model.py"
    path.write_text(MODEL)
    return JobSpec(model=str(path), method="run_inference", n_steps=1, warmup=0)


def run(slot: Slot, spec: JobSpec) -> tuple[Outcome, int]:
    """Run a job; return its outcome and the number that it printed: by default the process that forked its runner."""
    with slot.folder() as folder:
        request = Request(spec=spec, scratch=str(folder), environment=slot.environment(spec, temporary=folder))
        with slot.run(request) as runner:
            while runner.pump(1.0):
                pass
        assert runner.outcome is not None, runner.log.decode()
        slot.learn(spec, runner.outcome)
        return runner.outcome, int(runner.log)


def with_libraries(*names: str) -> Outcome:
    environment = Environment(
        hostname="h",
        os="o",
        cpu="c",
        cores=1,
        affinity=[0],
        governor=None,
        memory_bytes=1,
        python="p",
        libraries=dict.fromkeys(names, "1"),
        threads={},
    )
    return Outcome(state="succeeded", environment=environment)


def test_jobs_of_one_slot_are_forked_by_one_process(make, spec):
    slot = make()
    (first, keeper), (second, same) = run(slot, spec), run(slot, spec)

    assert (first.state, second.state) == ("succeeded", "succeeded")
    assert keeper == same


def test_a_process_is_ready_that_has_imported_what_the_last_job_did(make, spec, monkeypatch):
    started = []

    class Counted(Keeper):
        def __init__(self, kind, **given) -> None:
            super().__init__(kind, **given)
            started.append(kind)

    monkeypatch.setattr(slots, "Keeper", Counted)
    slot = make()
    slot.learn(spec, with_libraries("numpy", "torch"))

    slot.get_ready(spec)
    run(slot, spec)

    assert [kind.preload for kind in started] == [("torch",)]


def test_a_process_for_a_framework_that_cannot_be_forked_serves_one_job(make, spec):
    slot = make()
    slot.learn(spec, with_libraries("numpy", "tensorflow"))

    _, first = run(slot, spec)
    slot.learn(spec, with_libraries("numpy", "tensorflow"))
    _, second = run(slot, spec)

    assert first != second


def test_a_slot_with_a_gpu_never_forks_what_may_have_touched_cuda(make, spec, guarded):
    slot = make(guarded)

    assert run(slot, spec)[1] != run(slot, spec)[1]


def test_a_keeper_that_died_between_two_jobs_is_replaced(make, spec, caplog):
    slot = make()
    _, keeper = run(slot, spec)
    os.kill(keeper, signal.SIGKILL)

    with caplog.at_level(logging.INFO):
        outcome, other = run(slot, spec)

    assert outcome.state == "succeeded"
    assert other != keeper
    assert "keeper" in caplog.text


def test_a_machine_that_can_start_nothing_says_so(make, spec, monkeypatch):
    def fails(*_, **__):
        raise KeeperFailed("no more processes")

    monkeypatch.setattr(slots, "Keeper", fails)

    with pytest.raises(RunnerUnavailable, match="no more processes"):
        run(make(), spec)


def test_an_interpreter_that_is_not_allowed_is_refused_before_anything_starts(make, spec):
    before = children_of(os.getpid())
    named = JobSpec(model=spec.model, method=spec.method, python="/opt/python")

    with pytest.raises(Unsupported, match="It allows: /a/python, /b/python"):
        run(make(pythons="/a/python:/b/python"), named)
    assert children_of(os.getpid()) == before


def test_two_slots_with_the_same_cores_take_turns(make):
    one, other = make(), make()
    with one.locked(), pytest.raises(DeviceBusy, match="given"), other.locked():
        pass
    with other.locked():
        pass


def test_the_cores_are_free_only_when_the_last_process_of_the_job_has_gone(make, spec):
    one, other = make(), make()
    with one.locked():
        run(one, spec)
    with other.locked():
        pass


def test_secrets_and_the_gpu_stay_out_of_a_cpu_jobs_environment(make, spec, monkeypatch):
    monkeypatch.setenv("DNNAMO_DATABASE_URL", "postgresql://u:hunter2@h/d")
    monkeypatch.setenv("DNNAMO_BROKER_URL", "redis://:hunter2@h")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")

    environment = make().environment(spec, temporary=Path("/tmp/x"))

    assert not any("hunter2" in value for value in environment.values())
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert environment["TMPDIR"] == "/tmp/x"


class FakeGuard:
    """A fake of `GpuGuard`, for tests alone: says of the GPU what the test wants."""

    busy: str | None = None
    lost: str | None = None

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu

    def check_free(self) -> None:
        if self.busy:
            raise DeviceBusy(self.busy)

    def check_clean(self) -> None:
        if self.lost:
            raise DeviceLost(self.lost)

    def close(self) -> None:
        self.gpu = None


@pytest.fixture
def guarded(monkeypatch) -> Place:
    monkeypatch.setattr(slots, "GpuGuard", FakeGuard)
    cores = tuple(sorted(os.sched_getaffinity(0)))
    return Place("gpu", cores, len(cores), Gpu(name="H100", uuid="GPU-1234-5678", memory_bytes=1))


def test_a_gpu_job_sees_its_gpu_alone(make, spec, guarded):
    assert make(guarded).environment(spec, temporary=Path())["CUDA_VISIBLE_DEVICES"] == "GPU-1234-5678"


def test_a_gpu_that_others_use_is_busy_and_its_locks_are_free_again(make, guarded, monkeypatch):
    monkeypatch.setattr(FakeGuard, "busy", "GPU-1234… is used by process 7")

    with pytest.raises(DeviceBusy, match="process 7"), make(guarded).locked():
        pass
    monkeypatch.setattr(FakeGuard, "busy", None)
    with make(guarded).locked():
        pass


def test_a_gpu_that_a_job_left_full_is_lost(make, guarded, monkeypatch):
    monkeypatch.setattr(FakeGuard, "lost", "GPU-1234… has 3.00 GiB more in use")

    with pytest.raises(DeviceLost, match=r"3\.00 GiB"), make(guarded).locked():
        pass


THREADS = """
import torch
class M:
    def run_inference(self, n_steps=1):
        print(torch.get_num_threads())
        return [0.5] * n_steps
def __dnnamo_loader__():
    return M()
"""


def test_thread_counts_are_the_jobs_whether_its_framework_was_imported_ahead_or_not(make, spec):
    Path(spec.model).write_text(THREADS)
    three = JobSpec(model=spec.model, method=spec.method, n_steps=1, warmup=0, threads=3)
    slot = make()

    # The first job imports the framework itself, the others find it imported.
    counts = [run(slot, asked)[1] for asked in (three, three, spec)]

    assert counts == [3, 3, slot.place.threads]
    assert run(make(), spec)[1] == slot.place.threads
