import os
import socket
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from dnnamo.records import Gpu
from dnnamo.runner import environment
from dnnamo.runner.environment import describe, gpus_and_driver


class NoDriver(Exception):
    pass


@pytest.fixture
def nvml(monkeypatch) -> ModuleType:
    """A fake NVML of two GPUs that notes how often it was opened and closed."""
    fake = ModuleType("pynvml")
    fake.open = 0

    def change(by):
        fake.open += by

    fake.NVMLError = NoDriver
    fake.nvmlInit = lambda: change(1)
    fake.nvmlShutdown = lambda: change(-1)
    fake.nvmlDeviceGetCount = lambda: 2
    fake.nvmlDeviceGetHandleByIndex = lambda index: index
    fake.nvmlDeviceGetName = lambda handle: f"GPU {handle}"
    fake.nvmlDeviceGetUUID = lambda handle: f"uuid-{handle}"
    fake.nvmlDeviceGetMemoryInfo = lambda handle: SimpleNamespace(total=2**30 * (handle + 1))
    fake.nvmlSystemGetDriverVersion = lambda: "570.1"
    monkeypatch.setattr(environment, "pynvml", fake)
    return fake


def test_describes_this_machine_and_process():
    found = describe()

    assert found.hostname == socket.gethostname()
    assert found.affinity == sorted(os.sched_getaffinity(0))
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert found.memory_bytes > 2**20
    assert found.python == f"CPython {'.'.join(map(str, sys.version_info[:3]))}"
    assert found.os.startswith("Linux ")
    assert found.cpu


def test_is_the_same_as_long_as_nothing_changes():
    assert describe().digest == describe().digest


def test_thread_variables_are_kept_where_they_are_numbers(monkeypatch):
    monkeypatch.setattr(environment, "in_use", lambda: iter([]))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("MKL_NUM_THREADS", "all")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "")
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        monkeypatch.delenv(name, raising=False)

    assert describe().threads == {"OMP_NUM_THREADS": 3}


def test_the_frameworks_in_use_add_their_libraries_and_threads(monkeypatch):
    fakes = [
        SimpleNamespace(libraries=lambda: {"a": "1"}, threads=lambda: {"a.intraop": 2}),
        SimpleNamespace(libraries=lambda: {"b": "2"}, threads=dict),
    ]
    monkeypatch.setattr(environment, "in_use", lambda: iter(fakes))

    found = describe()

    assert found.libraries == {"numpy": np.__version__, "a": "1", "b": "2"}
    assert found.threads["a.intraop"] == 2


def test_gpus_are_described_as_nvml_sees_them(nvml):
    gpus = [Gpu(name="GPU 0", uuid="uuid-0", memory_bytes=2**30), Gpu(name="GPU 1", uuid="uuid-1", memory_bytes=2**31)]

    assert gpus_and_driver() == (gpus, "570.1")
    assert describe().gpus == gpus
    assert describe().driver == "570.1"
    assert nvml.open == 0


def test_without_a_driver_there_are_no_gpus(nvml):
    def fails():
        raise NoDriver

    nvml.nvmlInit = fails

    assert gpus_and_driver() == ([], None)


def test_a_gpu_that_does_not_answer_is_left_out_and_nvml_closed(nvml):
    name_of = nvml.nvmlDeviceGetName

    def fails_for_the_first(handle):
        if handle == nvml.nvmlDeviceGetHandleByIndex(0):
            raise NoDriver
        return name_of(handle)

    nvml.nvmlDeviceGetName = fails_for_the_first

    assert gpus_and_driver() == ([Gpu(name="GPU 1", uuid="uuid-1", memory_bytes=2**31)], "570.1")
    assert nvml.open == 0


def test_what_the_kernel_does_not_say_is_none(monkeypatch):
    monkeypatch.setattr(environment, "_lines", lambda path: [])

    found = describe()

    assert found.governor is None
    assert found.cpu
