import os
import subprocess
import sys
from pathlib import Path

import pynvml
import pytest
import torch

from dnnamo.errors import UsageError
from dnnamo.records import Gpu
from dnnamo.runner import evidence
from dnnamo_workers import devices
from dnnamo_workers.devices import (
    DeviceBusy,
    DeviceLost,
    GpuGuard,
    PhysicalCore,
    Place,
    device_classes,
    physical_cores,
    plan,
    share_cores,
    visible,
    visible_gpus,
)
from tests.fake_nvml import FakeGpu, FakeNvml

MIB = 1 << 20

A = Gpu(name="H100", uuid="GPU-5b2f0001-aa", memory_bytes=80 << 30)
B = Gpu(name="H100", uuid="GPU-5b2f0002-bb", memory_bytes=80 << 30)
C = Gpu(name="A2", uuid="GPU-0c000003-cc", memory_bytes=16 << 30)

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

USE_GPU = """
import sys
import torch
kept = torch.ones(256 << 20, dtype=torch.uint8, device="cuda")
torch.cuda.synchronize()
print("ready", flush=True)
sys.stdin.read()
"""


class Machine:
    """A folder like the kernel's of CPUs, and the affinity of this process on it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sysfs = folder
        self._cpus: set[int] = set()
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(self._cpus))

    def add(self, *cpus: int, package: int = 0, node: int = 0, capacity: int | None = None, siblings: bool = True):
        for cpu in cpus:
            self._cpus.add(cpu)
            topology = self.sysfs / f"cpu{cpu}" / "topology"
            topology.mkdir(parents=True)
            (topology / "physical_package_id").write_text(f"{package}\n")
            (topology / "core_id").write_text(f"{cpus[0]}\n")
            if siblings:
                (topology / "thread_siblings_list").write_text(",".join(map(str, cpus)) + "\n")
            (topology.parent / f"node{node}").mkdir()
            if capacity is not None:
                (topology.parent / "cpu_capacity").write_text(f"{capacity}\n")

    def use(self, *cpus: int) -> None:
        self._cpus = set(cpus)

    def share(self, count: int) -> list[tuple[int, ...]]:
        return share_cores(physical_cores(sysfs=self.sysfs), count)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path / "cpu", monkeypatch)


@pytest.fixture
def nvml(monkeypatch):
    """Puts a fake of pynvml with these GPUs in place."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def put(*gpus: FakeGpu, error: type[pynvml.NVMLError] | None = None) -> FakeNvml:
        fake = FakeNvml(*gpus, error=error)
        monkeypatch.setattr(devices, "pynvml", fake)
        monkeypatch.setattr(evidence, "pynvml", fake)
        return fake

    return put


@pytest.fixture
def smt(machine):
    """Two processors of four cores of two threads each, numbered as Linux does on most machines."""
    for core in range(8):
        machine.add(core, core + 8, package=core // 4, node=core // 4)
    return machine


def test_this_machine_s_cores_are_those_of_the_affinity():
    cores = physical_cores()

    assert sorted(cpu for core in cores for cpu in core.cpus) == sorted(os.sched_getaffinity(0))


def test_threads_of_one_core_are_found_together(smt):
    assert [core.cpus for core in physical_cores(sysfs=smt.sysfs)] == [(core, core + 8) for core in range(8)]


def test_without_a_list_of_siblings_core_id_and_package_tell(machine):
    machine.add(0, 2, siblings=False)
    machine.add(1, 3, siblings=False)

    assert [core.cpus for core in physical_cores(sysfs=machine.sysfs)] == [(0, 2), (1, 3)]


def test_where_nothing_tells_each_cpu_is_a_core(machine):
    machine.use(3, 1, 2)

    assert physical_cores(sysfs=machine.sysfs) == [PhysicalCore(0, 0, (cpu,)) for cpu in (1, 2, 3)]


def test_cores_come_in_the_order_of_processors_and_nodes(machine):
    for cpu, package, node in [(0, 1, 2), (1, 0, 1), (2, 1, 2), (3, 0, 0)]:
        machine.add(cpu, package=package, node=node)

    assert machine.share(2) == [(1, 3), (0, 2)]


@pytest.mark.parametrize(
    ("count", "shares"),
    [
        (1, [tuple(range(16))]),
        (2, [(0, 1, 2, 3, 8, 9, 10, 11), (4, 5, 6, 7, 12, 13, 14, 15)]),
        (3, [(0, 1, 8, 9), (2, 3, 10, 11), (4, 5, 12, 13)]),
        (8, [(core, core + 8) for core in range(8)]),
        (9, [(cpu,) for cpu in range(9)]),
        (16, [(cpu,) for cpu in range(16)]),
    ],
)
def test_slots_get_whole_cores_as_long_as_there_are_enough(smt, count, shares):
    assert smt.share(count) == shares


def test_a_core_of_which_one_thread_may_be_used_counts(smt):
    smt.use(0, 1, 2, 3, 8, 9)

    assert smt.share(2) == [(0, 2, 8), (1, 3, 9)]


def test_slots_of_a_mixed_processor_get_as_many_fast_cores_each(machine):
    for cpu in (0, 2, 4, 6):
        machine.add(cpu, cpu + 1, capacity=1024 - cpu)
    for cpu in range(8, 16):
        machine.add(cpu, capacity=600)

    assert machine.share(2) == [(0, 1, 2, 3, 8, 9, 10, 11), (4, 5, 6, 7, 12, 13, 14, 15)]
    assert machine.share(4)[3] == (6, 7, 14, 15)
    assert machine.share(8) == [(cpu,) for cpu in range(8, 16)]
    assert len(set().union(*machine.share(12))) == 16


def test_more_slots_than_cpus_are_refused(smt):
    smt.use(0, 1, 2, 5)

    with pytest.raises(UsageError, match=r"5 slots \(--slots.* may use 4: 0-2,5\. Lower --slots.*CUDA_VISIBLE_DEVICES"):
        smt.share(5)


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        (None, [A, B, C]),
        ("", []),
        ("-1", []),
        ("1", [B]),
        ("2,0", [C, A]),
        ("0, 1", [A, B]),
        ("0,7,1", [A]),
        ("0,0,1", [A]),
        ("GPU-5b2f0002-bb", [B]),
        ("GPU-0c,GPU-5b2f0001", [C, A]),
        ("GPU-5b2f", []),
        ("MIG-12345678", []),
        ("0,,1", [A]),
    ],
)
def test_visible_gpus_are_those_that_cuda_would_see(setting, found):
    assert visible([A, B, C], setting) == found


def test_an_instance_of_a_divided_gpu_is_visible_by_its_name():
    instance = Gpu(name="H100 MIG 1g.10gb", uuid="MIG-77000000-dd", memory_bytes=10 << 30)

    assert visible([A, instance], "MIG-77") == [instance]


def test_gpus_are_found_by_nvml_which_is_let_go_of(nvml, monkeypatch):
    fake = nvml(FakeGpu("GPU-a"), FakeGpu("GPU-b", name="A2", total=16 << 30))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")

    assert visible_gpus() == [Gpu(name="A2", uuid="GPU-b", memory_bytes=16 << 30)]
    assert device_classes() == ["cpu", "gpu"]
    assert fake.opened == 0


def test_a_divided_gpu_is_its_instances(nvml):
    nvml(FakeGpu("GPU-a", instances=[FakeGpu("MIG-1"), FakeGpu("MIG-2")]), FakeGpu("GPU-b", instances=[]))

    assert [gpu.uuid for gpu in visible_gpus()] == ["MIG-1", "MIG-2"]


def test_a_gpu_that_does_not_answer_is_left_out(nvml, caplog):
    nvml(FakeGpu("GPU-a", error=pynvml.NVMLError_GpuIsLost), FakeGpu("GPU-b", has_memory=False))

    assert [(gpu.uuid, gpu.memory_bytes) for gpu in visible_gpus()] == [("GPU-b", 0)]
    assert "GPU 0 is left out: NVML says GPU is lost" in caplog.text


def test_without_a_driver_there_is_the_cpu(nvml):
    nvml(error=pynvml.NVMLError_LibraryNotFound)

    assert device_classes() == ["cpu"]


def test_a_plan_has_the_slots_of_the_cpu_and_one_a_gpu_with_cores_of_their_own(nvml, smt):
    nvml(FakeGpu("GPU-5b2f0001-aa"), FakeGpu("GPU-0c000003-cc"))

    places = plan(["cpu", "gpu"], 2, sysfs=smt.sysfs)

    assert [place.device for place in places] == ["cpu", "cpu", "gpu", "gpu"]
    assert [place.cores for place in places] == [(0, 1, 8, 9), (2, 3, 10, 11), (4, 5, 12, 13), (6, 7, 14, 15)]
    assert [place.threads for place in places] == [2, 2, 2, 2]
    assert [str(place) for place in places[1:3]] == [
        "cores 2-3,10-11",
        "GPU-5b2f… (NVIDIA H100 80GB HBM3) with cores 4-5,12-13",
    ]
    assert len(plan(["gpu"], 7, sysfs=smt.sysfs)) == 2
    assert str(Place("cpu", (4,), 1)) == "core 4"


def test_a_plan_with_more_slots_than_cpus_is_refused(nvml, smt):
    nvml(FakeGpu("GPU-a"), FakeGpu("GPU-b"))
    smt.use(0, 1, 2)

    with pytest.raises(UsageError, match="4 slots .* may use 3: 0-2"):
        plan(["cpu", "gpu"], 2, sysfs=smt.sysfs)


@pytest.mark.parametrize(
    ("error", "setting", "why"),
    [
        (None, "7", "CUDA_VISIBLE_DEVICES=7 names none"),
        (pynvml.NVMLError_LibRmVersionMismatch, None, "NVML says RM has detected an NVML/RM version mismatch"),
    ],
)
def test_a_worker_of_gpu_jobs_without_a_gpu_is_refused(nvml, monkeypatch, error, setting, why):
    nvml(FakeGpu("GPU-a"), error=error)
    if setting:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)

    with pytest.raises(UsageError, match=f"queue gpu and sees no GPU: {why}.*--queue cpu"):
        plan(["gpu"], 1)


def test_the_environment_names_the_gpu_by_uuid_or_none():
    assert Place("gpu", (0,), 1, A).environment == {
        "CUDA_VISIBLE_DEVICES": A.uuid,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    assert Place("cpu", (0,), 1).environment["CUDA_VISIBLE_DEVICES"] == ""


def test_a_gpu_that_a_living_process_of_others_uses_is_busy(nvml):
    gpu = FakeGpu(A.uuid)
    nvml(gpu)
    guard = GpuGuard(A)
    gone = subprocess.Popen(["true"])
    gone.wait()

    gpu.pids = [gone.pid]
    guard.check_free()
    gpu.pids = [os.getpid()]
    with pytest.raises(DeviceBusy, match=rf"GPU-5b2f… \(H100\) is used by process {os.getpid()}"):
        guard.check_free()
    assert guard.foreign_pids(own=[os.getpid()]) == []


def test_memory_that_nobody_is_seen_to_hold_makes_a_gpu_busy(nvml):
    gpu = FakeGpu(A.uuid)
    nvml(gpu)
    guard = GpuGuard(A)

    gpu.used += 60 * MIB
    guard.check_free()
    gpu.used += 1024 * MIB
    with pytest.raises(DeviceBusy, match=r"1\.06 GiB in use of which no holder is seen"):
        guard.check_free()


def test_what_counts_as_idle_is_the_least_that_was_seen_without_processes(nvml):
    gpu = FakeGpu(A.uuid, used=9000 * MIB, pids=[os.getpid()])
    nvml(gpu)
    guard = GpuGuard(A)
    gpu.pids, gpu.used = [], 4000 * MIB
    guard.check_free()
    gpu.used = 500 * MIB
    guard.check_free()
    gpu.used = 600 * MIB

    with pytest.raises(DeviceBusy, match=r"100\.00 MiB"):
        guard.check_free()


def test_memory_that_comes_back_late_is_waited_for(nvml):
    gpu = FakeGpu(A.uuid)
    fake = nvml(gpu)
    guard = GpuGuard(A)
    gpu.used += 3000 * MIB

    def free(gpu: FakeGpu) -> None:
        gpu.used -= 1000 * MIB

    fake.on_memory = free
    guard.check_clean()
    assert gpu.used == 500 * MIB


def test_memory_that_does_not_come_back_loses_the_gpu(nvml):
    gpu = FakeGpu(A.uuid)
    nvml(gpu)
    guard = GpuGuard(A)
    gpu.used += 2048 * MIB

    with pytest.raises(DeviceLost, match=r"2\.00 GiB more in use than when it was idle.*--gpu-reset"):
        guard.check_clean(timeout_s=0)
    gpu.pids = [os.getpid()]
    guard.check_clean(timeout_s=0)


@pytest.mark.parametrize("act", [GpuGuard.check_free, GpuGuard.check_clean, GpuGuard.foreign_pids])
def test_a_gpu_that_falls_off_the_bus_is_lost(nvml, act):
    gpu = FakeGpu(A.uuid)
    fake = nvml(gpu)
    guard = GpuGuard(A)
    gpu.error = pynvml.NVMLError_GpuIsLost

    with pytest.raises(DeviceLost, match="does not answer: NVML says GPU is lost.*Xid"):
        act(guard)
    guard.close()
    assert fake.opened == 0


def test_a_gpu_that_is_not_there_is_lost(nvml):
    nvml(FakeGpu(B.uuid))

    with pytest.raises(DeviceLost, match="NVML says Not Found"):
        GpuGuard(A)


def test_a_gpu_without_memory_of_its_own_is_judged_by_its_processes(nvml):
    gpu = FakeGpu(A.uuid, has_memory=False)
    nvml(gpu)
    guard = GpuGuard(A)

    assert guard.memory_used_bytes() is None
    guard.check_free()
    guard.check_clean()


@pytest.mark.gpu
@needs_gpu
def test_on_a_gpu_a_process_of_others_is_seen_and_its_memory_comes_back():
    place = plan(["gpu"], 1)[0]
    assert place.gpu is not None
    guard = GpuGuard(place.gpu)
    before = guard.foreign_pids()  # this process may be one, after other tests
    command = [sys.executable, "-c", USE_GPU]
    with subprocess.Popen(
        command, env=os.environ | place.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == b"ready\n"
        assert guard.foreign_pids(own=before) == [user.pid]
        with pytest.raises(DeviceBusy, match=rf"is used by process.*\b{user.pid}\b"):
            guard.check_free()
        user.kill()
    guard.check_clean()
    assert guard.foreign_pids() == before
    guard.close()
