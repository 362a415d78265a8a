import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import pynvml
import pytest
import torch

from dnnamo.records import Evidence
from dnnamo.runner import evidence
from dnnamo.runner.evidence import Watch, _difference, _Look, disturbances
from tests.fake_nvml import FakeGpu, FakeNvml

MS = 1_000_000
S = 1000 * MS
UUID = "GPU-5b2f0001-aa"

BURN = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
print(os.getpid(), flush=True)
while time.process_time() < float(sys.argv[2]):
    pass
"""

START_ORPHAN = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", *sys.argv[1:]])
"""

# Programs that measure, in a process without the threads and children that other tests left behind: where one of those
# runs, a delay counts as the process' own doing. Each prints the evidence, and the CPU time that another process had
# meanwhile, by the clock that the kernel has for it (clock_getcpuclockid(3)).
MEASURE_BESIDE = """
import os, sys, time
import msgspec
from dnnamo.runner.evidence import Watch
from dnnamo.runner.proc import descendants

core, other, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
clock = (~other << 3) | 2
os.sched_setaffinity(0, {core})
assert other not in descendants(os.getpid())
before = time.clock_gettime_ns(clock)
with Watch() as watch:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
taken = time.clock_gettime_ns(clock) - before
print(msgspec.json.encode([watch.evidence, taken]).decode())
"""

MEASURE_CHILDREN = """
import os, subprocess, sys, time
import msgspec
from dnnamo.runner.evidence import Watch

core, burn = sys.argv[1:]
os.sched_setaffinity(0, {int(core)})
with subprocess.Popen([sys.executable, "-c", burn, core, "30"], stdout=subprocess.PIPE) as child:
    child.stdout.readline()
    clock = (~child.pid << 3) | 2
    before = time.clock_gettime_ns(clock)
    with Watch() as watch:
        subprocess.run([sys.executable, "-c", burn, core, "0.2"], check=True, stdout=subprocess.PIPE)
        end = time.process_time() + 0.1
        while time.process_time() < end:
            pass
        taken = time.clock_gettime_ns(clock) - before
    child.kill()
print(msgspec.json.encode([watch.evidence, taken]).decode())
"""


@pytest.fixture
def core() -> int:
    """One of the cores that may be used."""
    return max(os.sched_getaffinity(0))


def measured(program: str, *arguments: object) -> tuple[Evidence, int]:
    """Run a program that measures in an interpreter of its own; return what it prints."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return msgspec.json.decode(
        subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout, type=tuple[Evidence, int]
    )


@contextmanager
def orphan(core: int) -> Iterator[int]:
    """A process that keeps a core busy, for half a minute at most, and does not descend from this one."""
    with subprocess.Popen(
        [sys.executable, "-c", START_ORPHAN, BURN, str(core), "30"], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.wait()
        ended = os.pidfd_open(pid)
        try:
            yield pid
        finally:
            signal.pidfd_send_signal(ended, signal.SIGKILL)
            select.select([ended], [], [], 30)
            os.close(ended)


def burn(seconds: float) -> None:
    """Take this much CPU time, however long that takes."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def seen(**figures: object) -> Evidence:
    quiet = {"wall_ns": S, "cores": [0], "own_cpu_ns": S, "foreign_cpu_ns": 0}
    return msgspec.convert(quiet | figures, Evidence)


def look(**figures: object) -> _Look:
    nothing = {"at": 0, "own": 0, "children": {}, "unused": {0: 0}, "steal": {0: 0}, "threads": {}, "throttles": {}}
    return _Look(**(nothing | figures))


@pytest.mark.parametrize(
    ("figures", "reasons"),
    [
        ({}, []),
        ({"foreign_cpu_ns": 50 * MS}, []),
        ({"foreign_cpu_ns": 120 * MS}, ["other processes took 12.0% of the measurement's cores (bound 5.0%)"]),
        ({"foreign_cpu_ns": 190 * MS, "cores": [0, 1, 2, 3]}, []),
        (
            {"foreign_cpu_ns": 240 * MS, "cores": [0, 1, 2, 3]},
            ["other processes took 6.0% of the measurement's cores (bound 5.0%)"],
        ),
        ({"foreign_cpu_ns": 30 * MS, "wall_ns": 50 * MS}, []),
        (
            {"foreign_cpu_ns": 40 * MS, "wall_ns": 50 * MS},
            ["other processes took 80.0% of the measurement's cores (bound 60.0%)"],
        ),
        ({"foreign_cpu_ns": 59 * MS, "wall_ns": 50 * MS, "cores": [0, 1, 2, 3]}, []),
        ({"steal_ns": 30 * MS}, []),
        ({"steal_ns": 40 * MS}, ["the hypervisor kept back 4.0% of the measurement's cores (bound 3.0%)"]),
        ({"steal_ns": 190 * MS, "wall_ns": 10 * S}, []),
        ({"delayed_ns": 900 * MS}, []),
        ({"throttles": 0}, []),
        ({"throttles": 2}, ["the cores were slowed down for heat or power (count 2, bound 0)"]),
        ({"foreign_gpu_pids": [7, 4711]}, ["the GPU was used by other processes: 7, 4711"]),
        ({"gpu_throttles": ["software power cap"]}, []),
        (
            {"gpu_throttles": ["hardware thermal slowdown", "software power cap"]},
            ["the GPU's clocks were held down: hardware thermal slowdown"],
        ),
    ],
)
def test_figures_beyond_their_bounds_are_reasons(figures, reasons):
    assert disturbances(seen(**figures)) == reasons


@pytest.mark.parametrize(
    ("wall_ns", "delay_ns", "reasons"),
    [
        (S, 50 * MS, []),
        (S, 60 * MS, ["a thread waited 6.0% of the time for a core (bound 5.0%)"]),
        (10 * MS, 5 * MS, []),
        (10 * MS, 6 * MS, ["a thread waited 60.0% of the time for a core (bound 50.0%)"]),
    ],
)
def test_a_thread_that_waited_is_a_reason(wall_ns, delay_ns, reasons):
    assert disturbances(seen(wall_ns=wall_ns), longest_delay_ns=delay_ns) == reasons


def test_all_figures_are_differences():
    before = look(
        at=5 * S,
        own=3 * S,
        children={7: S},
        unused={0: 2 * S, 1: 3 * S},
        steal={0: S, 1: 0},
        threads={1: (S, 7 * MS), 2: (S, S)},
        throttles={"core": 3, "package": 9},
    )
    after = look(
        at=6 * S,
        own=3 * S + 700 * MS,
        children={7: S + 200 * MS, 8: 100 * MS},
        unused={0: 2 * S, 1: 3 * S + 900 * MS},
        steal={0: S, 1: 20 * MS},
        threads={1: (S + 690 * MS, 9 * MS), 3: (0, 4 * MS)},
        throttles={"core": 3, "package": 11, "new": 5},
    )

    assert _difference([0, 1], before, after) == (
        Evidence(
            wall_ns=S,
            cores=[0, 1],
            own_cpu_ns=S,
            foreign_cpu_ns=100 * MS,
            delayed_ns=6 * MS,
            steal_ns=20 * MS,
            throttles=2,
        ),
        0,  # thread 1 and the children 7 and 8 share two cores
    )


@pytest.mark.parametrize(("rivals", "longest_ns"), [({}, 80 * MS), ({2: (S, 0)}, 0), ({2: (9 * MS, 0)}, 80 * MS)])
def test_delays_count_unless_the_own_threads_may_have_had_the_core(rivals, longest_ns):
    after = look(at=S, threads={1: (S, 80 * MS), **rivals})

    assert _difference([0], look(), after)[1] == longest_ns


def test_foreign_time_is_never_negative():
    after = look(at=S, own=2 * S, unused={0: 2 * S})

    assert _difference([0], look(), after)[0].foreign_cpu_ns == 0


@pytest.fixture
def files(monkeypatch) -> dict[str, str]:
    """What the kernel's files say; those that are not in it do not exist."""
    files: dict[str, str] = {}
    monkeypatch.setattr(evidence, "read", lambda path: files.get(path, ""))
    return files


def test_a_machine_that_tells_nothing_counts_as_quiet(files):
    with Watch() as watch:
        burn(0.05)

    assert watch.evidence.foreign_cpu_ns == 0
    assert watch.evidence.throttles is None
    assert watch.evidence.reasons == []


def test_lines_of_zeros_tell_nothing(files):
    core = min(os.sched_getaffinity(0))
    files["/proc/stat"] = f"cpu  0 0 0 0 0 0 0 0 0 0\ncpu{core} 0 0 0 0 0 0 0 0 0 0\nintr 0\n"

    with Watch() as watch:
        burn(0.05)

    assert watch.evidence.foreign_cpu_ns == 0


def test_unused_and_stolen_time_are_read_for_the_cores_asked_for(files):
    files["/proc/stat"] = "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 1 2 3 40 5 6 7 8 9 10\ncpu11 1 0 0 7 0 0 0 0\nintr 5\ncpu1 1"

    assert evidence._core_times([0, 1]) == ({0: 530 * MS}, {0: 80 * MS})


def test_throttling_is_what_the_counters_of_the_cores_say(files):
    core = min(os.sched_getaffinity(0))
    folder = f"/sys/devices/system/cpu/cpu{core}/thermal_throttle"
    files[f"{folder}/core_throttle_count"] = "4\n"
    files[f"{folder}/package_throttle_count"] = "7\n"

    with Watch() as watch:
        files[f"{folder}/core_throttle_count"] = "6\n"

    assert watch.evidence.throttles == 2
    assert watch.evidence.verdict == "tainted"


def test_own_cpu_time_counts_children_alive_and_dead(core):
    found, of_child = measured(MEASURE_CHILDREN, core, BURN)

    # The living child's figure is the sum of two that are cut to 10 ms.
    assert found.own_cpu_ns >= of_child + 280 * MS
    assert found.own_cpu_ns <= found.wall_ns + 20 * MS
    assert found.cores == [core]


def test_a_busy_process_of_others_on_the_same_core_taints_the_measurement(core):
    with orphan(core) as pid:
        found, taken = measured(MEASURE_BESIDE, core, pid, 0.3)

    # Others may have used the core as well; the orphan's time before and after the window is within the tolerance.
    assert taken - 40 * MS <= found.foreign_cpu_ns <= found.wall_ns - 250 * MS
    assert found.own_cpu_ns == pytest.approx(300 * MS, abs=30 * MS)
    assert found.delayed_ns >= taken - 40 * MS
    assert found.verdict == "tainted"
    assert [reason[:20] for reason in found.reasons[:1]] == ["other processes took"]
    assert any(reason.startswith("a thread waited") for reason in found.reasons)


def test_a_window_shorter_than_the_kernel_s_ticks_is_tainted_by_its_delay(core):
    with orphan(core) as pid:
        found, _ = measured(MEASURE_BESIDE, core, pid, 0.03)

    assert any(reason.startswith("a thread waited") for reason in found.reasons)


def test_a_block_that_raises_leaves_no_evidence():
    watch = Watch()
    with pytest.raises(ZeroDivisionError), watch:
        1 / 0  # noqa: B018

    assert not hasattr(watch, "evidence")


@pytest.fixture
def watch_gpu(monkeypatch) -> Callable[[FakeGpu], FakeNvml]:
    """Puts a fake of pynvml with one GPU in place."""

    def put(gpu: FakeGpu) -> FakeNvml:
        fake = FakeNvml(gpu)
        monkeypatch.setattr(evidence, "pynvml", fake)
        return fake

    return put


def test_a_gpu_that_only_this_job_uses_is_no_reason(watch_gpu, files):
    gpu = FakeGpu(UUID, pids=[os.getpid()], clock_reasons=pynvml.nvmlClocksEventReasonGpuIdle)
    fake = watch_gpu(gpu)

    with Watch(UUID) as watch:
        assert fake.opened == 1
        gpu.clock_reasons = pynvml.nvmlClocksEventReasonSwPowerCap

    assert fake.opened == 0
    assert watch.evidence.foreign_gpu_pids == []
    assert watch.evidence.gpu_throttles == ["software power cap"]
    assert watch.evidence.verdict == "clean"


def test_what_others_do_to_a_gpu_before_or_after_is_a_reason(watch_gpu, files):
    gpu = FakeGpu(UUID, pids=[os.getppid()], clock_reasons=pynvml.nvmlClocksEventReasonHwThermalSlowdown)
    watch_gpu(gpu)

    with Watch(UUID) as watch:
        gpu.pids, gpu.clock_reasons = [], 0

    assert watch.evidence.foreign_gpu_pids == [os.getppid()]
    assert watch.evidence.reasons == [
        f"the GPU was used by other processes: {os.getppid()}",
        "the GPU's clocks were held down: hardware thermal slowdown",
    ]


@pytest.mark.parametrize("uuid", [UUID, "GPU-other"])
def test_a_gpu_that_cannot_be_watched_is_a_reason(watch_gpu, files, uuid):
    gpu = FakeGpu(UUID)
    fake = watch_gpu(gpu)

    with Watch(uuid) as watch:
        gpu.error = pynvml.NVMLError_GpuIsLost

    (reason,) = watch.evidence.reasons
    assert reason.startswith(f"{uuid} could not be watched: NVML says ")
    assert fake.opened == 0


def test_no_driver_is_a_reason_where_a_gpu_is_to_be_watched(watch_gpu, files):
    watch_gpu(FakeGpu(UUID)).error = pynvml.NVMLError_DriverNotLoaded

    with Watch(UUID) as watch:
        pass

    assert watch.evidence.reasons == [f"{UUID} could not be watched: NVML says Driver Not Loaded"]


def test_watching_needs_neither_the_queue_nor_the_database_nor_a_framework():
    code = "import sys, dnnamo.runner.evidence; print([n for n in sys.modules if n in sys.argv])"
    heavy = ["celery", "kombu", "sqlalchemy", "torch", "tensorflow", "numpy"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_this_process_is_not_foreign():
    uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    matrix = torch.ones(2048, 2048, device="cuda")

    with Watch(uuid) as watch:
        matrix @ matrix
        torch.cuda.synchronize()

    assert os.getpid() not in watch.evidence.foreign_gpu_pids
    assert not any("could not be watched" in reason for reason in watch.evidence.reasons)
    assert set(watch.evidence.gpu_throttles) <= set(evidence._HELD_DOWN.values())
