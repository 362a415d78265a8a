"""What a runner process does with its life: get ready, take the request, become what it asks for, carry it out."""

import faulthandler
import os
import random
import resource
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy.random
import threadpoolctl

from dnnamo.frameworks import PRELOADS
from dnnamo.plugins import installed
from dnnamo.records import JobSpec
from dnnamo.runner.environment import THREAD_VARIABLES, describe
from dnnamo.runner.execute import execute
from dnnamo.runner.preload import preload, preload_profiles
from dnnamo.runner.progress import Counter
from dnnamo.runner.wire import Request, send

__all__ = ["carry_out", "prepare"]


def prepare(packages: Sequence[str]) -> None:
    """Do ahead what every job would have to do, and import frameworks.

    Args:
        packages: Names of packages; those that are no framework are passed over.
    """
    installed("dnnamo.loaders")
    describe()  # libraries find out about the machine once, and keep it
    threadpoolctl.threadpool_info()
    Request.from_json(Request(spec=JobSpec(model="m", method="run_inference"), scratch="/").to_json())  # compiles both
    for package in packages:
        preload(package)
    if any(package in PRELOADS for package in packages):
        preload_profiles()


def carry_out(fds: list[int]) -> None:
    """Carry out the request that the supervisor sent, and report.

    Args:
        fds: Descriptors that came with it: the request as a file, the pipe for the report, the pipe for standard
            output and error, the file for the progress, and the locks of the device, which are left open for all
            processes of the job.
    """
    request_fd, report, output, progress, *locks = fds
    _use_streams(output)
    faulthandler.enable()
    with os.fdopen(request_fd, "rb") as file:
        request = Request.from_json(file.read())
    for fd in locks:
        os.set_inheritable(fd, True)
    _limit_damage()
    sys.argv = [request.spec.model]
    _enter(request.environment)
    send(report, execute(request, Counter(progress)))


def _use_streams(output: int) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(nothing)
    os.close(output)


def _limit_damage() -> None:
    """Leave no memory images behind, and be the first to go where the machine runs out of memory."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123 (not everywhere)
        file.write("1000")


def _enter(environment: Mapping[str, str]) -> None:
    """Take on the job's environment, in a process that may have been started before the job was known."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # it is kept from the first use on
    # What a fresh interpreter takes from the system, and a copy of another process has in common with its siblings.
    random.seed()
    numpy.random.seed()
    count = environment.get("OMP_NUM_THREADS", "")
    # NumPy's libraries have read the variables that this process was started with.
    if count.isdigit() and before != {name: environment.get(name) for name in THREAD_VARIABLES}:
        threadpoolctl.threadpool_limits(int(count))
