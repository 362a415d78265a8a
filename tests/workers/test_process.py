import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from dnnamo.records import JobSpec, Progress
from dnnamo.runner.wire import Request
from dnnamo_workers.keeper import Keeper, Kind
from dnnamo_workers.process import CappedLog, RunnerProcess

PATIENCE_S = 30

MODEL = """
import ctypes, os, signal, subprocess, sys, time
from dnnamo import Model

def report_pipe():
    return next(fd for fd in range(3, 20) if os.path.exists(f"/proc/self/fd/{{fd}}")
                and os.readlink(f"/proc/self/fd/{{fd}}").startswith("pipe:"))

class Given(Model):
    def run_inference(self, n_steps=1):
{body}
        return [0.5] * n_steps

def __dnnamo_loader__():
    return Given()
"""


def make_keeper(*, forks: bool) -> Keeper:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    keeper = Keeper(Kind(forks=forks), environment=environment, cores=sorted(os.sched_getaffinity(0)))
    keeper.wait_ready(PATIENCE_S)
    return keeper


@pytest.fixture(scope="module")
def zygote() -> Iterator[Keeper]:
    keeper = make_keeper(forks=True)
    yield keeper
    keeper.close()


@pytest.fixture(params=["zygote", "ahead"])
def keeper(request) -> Iterator[Keeper]:
    """One that forks, the same for all tests, and one that was started for a single job."""
    if request.param == "zygote":
        yield request.getfixturevalue("zygote")
    else:
        keeper = make_keeper(forks=False)
        yield keeper
        keeper.close()


@pytest.fixture
def start(tmp_path, keeper):
    """Starts a runner on a model whose `run_inference` does what the text says, in a folder of its own."""

    def start(
        text: str = "pass", *, name: str = "given_model.py", steps: int = 1, warmup: int = 0, **environment: str
    ) -> RunnerProcess:
        path = tmp_path / name
        path.write_text(MODEL.format(body="\n".join(" " * 8 + line for line in dedent(text).splitlines())))
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        spec = JobSpec(model=str(path), method="run_inference", n_steps=steps, warmup=warmup)
        environment = {**os.environ, "HERE": str(tmp_path), **environment}
        return RunnerProcess(keeper, Request(spec=spec, scratch=str(scratch), environment=environment))

    return start


def pump_to_the_end(runner: RunnerProcess) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while runner.pump(deadline - time.monotonic()):
        assert time.monotonic() < deadline, runner.log.decode()


def pump_until(runner: RunnerProcess, text: bytes) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while text not in runner.log:
        assert runner.pump(deadline - time.monotonic()), runner.log.decode()
        assert time.monotonic() < deadline, runner.log.decode()


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie, which nobody may be there to reap in a container, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pid: int) -> None:
    # SIGKILL takes effect when the kernel gets to it, which nothing reports for somebody else's child.
    deadline = time.monotonic() + PATIENCE_S
    while is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} still runs"
        time.sleep(0.01)


def test_a_report_comes_back_and_the_runner_ends(start):
    with start() as runner:
        assert runner.returncode is None
        pump_to_the_end(runner)

        assert runner.returncode == 0
        assert runner.outcome.state == "succeeded"
        assert runner.log == b""


def test_standard_output_and_error_come_together_in_order(start):
    text = """
    print("one")
    print("two", file=sys.stderr)
    os.write(1, b"three\\n")
    os.system("echo four")
    print("five", end="")
    """
    with start(text) as runner:
        pump_to_the_end(runner)

        assert runner.log == b"one\ntwo\nthree\nfour\nfive"


def test_output_of_any_length_is_taken_and_capped(start):
    with start("print('a' * (3 << 20), end='z')") as runner:
        pump_to_the_end(runner)

        assert runner.outcome.state == "succeeded"
        dropped = (3 << 20) + 1 - (2 << 20)
        middle = f"\n[{dropped} bytes of output left out]\n".encode()
        assert runner.log == b"a" * (1 << 20) + middle + b"a" * ((1 << 20) - 1) + b"z"


def test_a_report_larger_than_a_pipe_arrives_whole(start):
    with start("import dnnamo; raise dnnamo.DnnamoError('x' * 10**6)") as runner:
        pump_to_the_end(runner)

        assert runner.outcome.cause == "user_error"
        assert len(runner.outcome.message) == 10**6


def test_the_model_reads_an_empty_standard_input(start):
    with start("print(repr(sys.stdin.read()), os.read(0, 10))") as runner:
        pump_to_the_end(runner)

        assert runner.log == b"'' b''\n"


def test_the_environment_is_the_one_given(start):
    with start("print(os.environ['GIVEN'])", GIVEN="yes") as runner:
        pump_to_the_end(runner)

        assert runner.log == b"yes\n"


def test_the_working_folder_does_not_shadow_libraries(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise AssertionError('shadowed')")
    monkeypatch.chdir(tmp_path)

    make_keeper(forks=True).close()


@pytest.mark.parametrize("name", ["torch.py", "tensorflow.py"])
def test_a_model_file_may_have_a_frameworks_name(start, name):
    with start(name=name) as runner:
        pump_to_the_end(runner)

        assert runner.outcome is not None, runner.log.decode()
        assert runner.outcome.state == "succeeded"


@pytest.mark.parametrize(
    "text",
    [
        "raise OSError(b'caf\\xe9'.decode('utf-8', 'surrogateescape'))",
        "raise type('Mute', (Exception,), {'__str__': lambda self: 1 / 0})",
        "sys.stderr.close(); raise ValueError('no')",
        "sys.stdout = sys.stderr = None; raise ValueError('no')",
        "raise SystemExit(0)",
        "sys.setrecursionlimit(100); f = lambda: f(); f()",
    ],
)
def test_whatever_the_model_raises_there_is_a_report(start, text):
    with start(text) as runner:
        pump_to_the_end(runner)

        assert runner.outcome is not None, runner.log.decode()
        assert (runner.outcome.state, runner.outcome.cause) == ("failed", "user_error")


@pytest.mark.parametrize("text", ["sys.stdout.close()", "sys.stdout = None", "os.close(1)", "os.chdir('/')"])
def test_a_model_that_meddles_with_its_process_can_succeed(start, text):
    with start(text) as runner:
        pump_to_the_end(runner)

        assert (runner.returncode, runner.outcome.state) == (0, "succeeded")


def test_threads_and_exit_functions_of_the_model_hold_nothing_up(start):
    text = """
    import atexit, threading
    threading.Thread(target=time.sleep, args=[1000]).start()
    atexit.register(time.sleep, 1000)
    """
    with start(text) as runner:
        pump_to_the_end(runner)

        assert (runner.returncode, runner.outcome.state) == (0, "succeeded")


def test_an_exit_past_python_leaves_no_report(start):
    with start("print('last words'); os._exit(3)") as runner:
        pump_to_the_end(runner)

        assert (runner.returncode, runner.outcome) == (3, None)
        assert runner.log == b"last words\n"


def test_a_crash_is_told_by_its_signal_and_where_it_was(start):
    with start("ctypes.string_at(0)") as runner:
        pump_to_the_end(runner)

        assert (runner.returncode, runner.outcome) == (-signal.SIGSEGV, None)
        assert b"Segmentation fault" in runner.log
        assert b"given_model.py" in runner.log


def test_an_abort_is_told_by_its_signal(start):
    with start("os.abort()") as runner:
        pump_to_the_end(runner)

        assert (runner.returncode, runner.outcome) == (-signal.SIGABRT, None)


def test_what_user_code_writes_to_the_pipe_is_a_value_error(start):
    with start("os.write(report_pipe(), b'\\0\\0\\0\\2{}'); os._exit(0)") as runner:
        pump_to_the_end(runner)

        with pytest.raises(ValueError):
            _ = runner.outcome


def test_processes_of_the_model_do_not_get_the_pipe(start):
    with start("print(subprocess.run(['ls', '/proc/self/fd'], capture_output=True).stdout.split())") as runner:
        pump_to_the_end(runner)

        assert runner.log.strip() == b"[b'0', b'1', b'2', b'3']"


def test_a_runner_that_heeds_sigterm_is_stopped_by_it(start):
    with start("print('ready'); time.sleep(1000)") as runner:
        pump_until(runner, b"ready\n")

        runner.stop(PATIENCE_S)

        assert runner.returncode == -signal.SIGTERM


def test_a_runner_that_ignores_sigterm_is_killed_after_the_grace(start):
    with start("signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready'); time.sleep(1000)") as runner:
        pump_until(runner, b"ready\n")
        begun = time.monotonic()

        runner.stop(0.5)

        assert runner.returncode == -signal.SIGKILL
        assert 0.5 <= time.monotonic() - begun < PATIENCE_S


def test_a_runner_that_writes_without_end_can_be_stopped(start):
    text = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: os.write(1, b'x' * 65536)"
    with start(text) as runner:
        pump_until(runner, b"xxxx")

        runner.stop(0.2)

        assert runner.returncode == -signal.SIGKILL


def test_what_is_said_on_sigterm_is_kept(start):
    text = """
    def end(*_):
        print("ending")
        os._exit(7)
    signal.signal(signal.SIGTERM, end)
    print("ready")
    time.sleep(1000)
    """
    with start(text) as runner:
        pump_until(runner, b"ready\n")

        runner.stop(PATIENCE_S)

        assert (runner.returncode, runner.log) == (7, b"ready\nending\n")


CHILD = "child = subprocess.Popen([sys.executable, '-c', '{code}'])\nprint('child', child.pid, end='!')\n"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)"


def child_of(runner: RunnerProcess) -> int:
    pump_until(runner, b"!")
    return int(runner.log.partition(b"child ")[2].partition(b"!")[0])


def test_children_are_gone_after_a_report(start):
    with start(CHILD.format(code=STUBBORN)) as runner:
        child = child_of(runner)
        pump_to_the_end(runner)
        assert runner.outcome.state == "succeeded"

    wait_until_gone(child)


def test_children_are_gone_after_a_crash(start):
    with start(CHILD.format(code=STUBBORN) + "os.abort()") as runner:
        child = child_of(runner)
        pump_to_the_end(runner)

    wait_until_gone(child)


def test_children_are_gone_after_a_stop(start):
    with start(CHILD.format(code=STUBBORN) + "time.sleep(1000)") as runner:
        child = child_of(runner)
        assert is_alive(child)
        runner.stop(0.1)

    wait_until_gone(child)


def test_leaving_the_block_ends_a_runner_that_nobody_stopped(start):
    with start(CHILD.format(code=STUBBORN) + "time.sleep(1000)") as runner:
        child = child_of(runner)

    assert runner.returncode == -signal.SIGKILL
    wait_until_gone(child)


DAEMON = """
lives, says_so = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("child", os.getpid(), end="!")
        os.write(says_so, b"+")
        time.sleep(1000)
    os._exit(0)
os.wait()
os.read(lives, 1)
"""


@pytest.mark.parametrize("ending", ["pass", "os.abort()", "os._exit(0)"])
def test_a_daemon_is_gone_when_the_job_has_ended(start, ending):
    with start(DAEMON + ending) as runner:
        daemon = child_of(runner)
        pump_to_the_end(runner)

        assert not is_alive(daemon)


def test_a_tree_of_processes_that_forks_on_is_ended(start):
    text = """
    for _ in range(40):
        if os.fork() == 0:
            os.setpgid(0, 0)
            for _ in range(3):
                if os.fork() == 0:
                    time.sleep(1000)
            time.sleep(1000)
    print("child", os.getpid(), end="!")
    time.sleep(1000)
    """
    with start(text) as runner:
        child_of(runner)
        pids = runner.pids
        assert len(pids) > 40
        runner.kill()

        assert runner.returncode == -signal.SIGKILL
        assert [pid for pid in pids if is_alive(pid)] == []


def test_all_of_a_job_dies_with_its_supervisor(tmp_path):
    supervisor = tmp_path / "supervisor.py"
    path = tmp_path / "given_model.py"
    body = dedent(DAEMON) + "print('runner', os.getpid(), end='.')\ntime.sleep(1000)"
    path.write_text(MODEL.format(body="\n".join(" " * 8 + line for line in body.splitlines())))
    supervisor.write_text(
        dedent(f"""
        import os, signal
        from dnnamo.records import JobSpec
        from dnnamo.runner.wire import Request
        from dnnamo_workers.keeper import Keeper, Kind
        from dnnamo_workers.process import RunnerProcess
        spec = JobSpec(model={str(path)!r}, method="run_inference", n_steps=1, warmup=0)
        environment = {{**os.environ, "PYTHONUNBUFFERED": "1"}}
        keeper = Keeper(Kind(), environment=environment, cores=[0])
        keeper.wait_ready({PATIENCE_S})
        runner = RunnerProcess(keeper, Request(spec=spec, scratch={str(tmp_path)!r}, environment=environment))
        while b"." not in runner.log:
            assert runner.pump(1), runner.log
        print("keeper", keeper.pid, end=";", flush=True)
        os.write(1, runner.log)
        os.kill(os.getpid(), signal.SIGKILL)
        """)
    )
    done = subprocess.run([sys.executable, supervisor], capture_output=True, timeout=PATIENCE_S)

    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    pids = [int(number) for number in re.findall(rb"(?:keeper|child|runner) (\d+)", done.stdout)]
    assert len(pids) == 3
    for pid in pids:
        wait_until_gone(pid)


def test_the_runner_dies_with_its_keeper(tmp_path):
    keeper = make_keeper(forks=True)
    path = tmp_path / "given_model.py"
    path.write_text(MODEL.format(body="        print('child', os.getpid(), end='!')\n        time.sleep(1000)"))
    spec = JobSpec(model=str(path), method="run_inference", n_steps=1, warmup=0)
    with RunnerProcess(keeper, Request(spec=spec, scratch=str(tmp_path), environment=dict(os.environ))) as runner:
        child = child_of(runner)
        os.kill(keeper.pid, signal.SIGKILL)
        pump_to_the_end(runner)

        assert (runner.returncode, runner.is_orphaned) == (-signal.SIGKILL, True)
    wait_until_gone(child)
    keeper.close()


def test_progress_is_seen_while_the_job_runs(start):
    text = """
    import dnnamo
    dnnamo.report_loss(0.25)
    self.calls = getattr(self, "calls", 0) + 1
    if self.calls == 4:
        print("ready")
        time.sleep(1000)
    """
    with start(text, steps=3, warmup=2) as runner:
        pump_until(runner, b"ready\n")

        assert runner.progress == Progress(warmup=2, done=1, loss=0.25)
        runner.kill()


def open_files() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_no_file_descriptors_are_left(start, keeper):
    before = open_files()
    with start() as runner:
        pump_to_the_end(runner)

    assert open_files() == before


def test_a_keeper_leaves_none_either():
    before = open_files()
    make_keeper(forks=True).close()

    assert open_files() == before


def capped(limit, *pieces):
    log = CappedLog(limit)
    for piece in pieces:
        log.write(piece)
    return log.content


@pytest.mark.parametrize(
    "pieces", [[b"abcdef"], [b"ab", b"cdef"], [b"a", b"b", b"c", b"d", b"e", b"f"], [b"", b"abcdef"]]
)
def test_a_log_within_twice_the_limit_is_whole(pieces):
    assert capped(3, *pieces) == b"abcdef"


@pytest.mark.parametrize(
    ("data", "dropped"), [(b"abc123xyz", 3), (b"abc1xyz", 1), (b"abc" + b"0" * 10**5 + b"xyz", 10**5)]
)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 10**6])
def test_a_longer_log_keeps_its_head_and_tail_exactly(data, dropped, size):
    pieces = [data[start : start + size] for start in range(0, len(data), size)]

    assert capped(3, *pieces) == b"abc" + f"\n[{dropped} bytes of output left out]\n".encode() + b"xyz"


def test_a_log_can_be_read_as_it_grows():
    log = CappedLog(2)
    contents = []
    for piece in (b"ab", b"cd", b"ef", b"gh"):
        log.write(piece)
        contents.append(log.content)

    gap = "\n[{} bytes of output left out]\n".format
    assert contents == [
        b"ab",
        b"abcd",
        b"ab" + gap(2).encode() + b"ef",
        b"ab" + gap(4).encode() + b"gh",
    ]
