import errno
import json
import logging
import os
import re
import selectors
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from safetensors.numpy import save

import dnnamo
import dnnamo_workers
from dnnamo.bundles.archive import Content, pack
from dnnamo.errors import DatabaseUnavailable
from dnnamo.records import Bundle, Claim, Outcome
from dnnamo.records import JobSpec as Spec
from dnnamo.settings import Settings
from dnnamo_storage import Renewal, Store
from dnnamo_workers import process, supervisor
from dnnamo_workers.devices import plan
from dnnamo_workers.embedded import Embedded
from dnnamo_workers.scratch import Scratch
from dnnamo_workers.slots import RunnerUnavailable, Slot
from dnnamo_workers.supervisor import Drain, supervise

PATIENCE_S = 30

MODEL = """
import ctypes, os, signal, subprocess, sys, time
from pathlib import Path
from dnnamo import Model

def report_pipe():
    return next(fd for fd in range(3, 20) if os.path.exists(f"/proc/self/fd/{{fd}}")
                and os.readlink(f"/proc/self/fd/{{fd}}").startswith("pipe:"))

HERE = Path(__file__).parent

class Given(Model):
    def run_inference(self, n_steps=1):
{body}
        return [0.5] * n_steps

    def get_weights(self, keys=None):
        return {{"a": [1.0, 2.0]}}

    def set_weights(self, kv):
        print({{name: value.tolist() for name, value in kv.items()}})

def __dnnamo_loader__():
    return Given()
"""

SLEEPS = "(HERE / 'pid').write_text(str(os.getpid())); os.rename(HERE / 'pid', HERE / 'running'); time.sleep(1000)"


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Looks and beats that come often, and no patience with a runner that ignores SIGTERM."""
    monkeypatch.setattr(supervisor, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(supervisor, "_LOOK_S", 0.05)
    monkeypatch.setattr(supervisor, "GRACE_S", 1.0)


@pytest.fixture
def store(tmp_path):
    with Store.open(f"sqlite:///{tmp_path / 'dnnamo.db'}") as store:
        yield store


@pytest.fixture
def spec(tmp_path) -> Callable[..., Spec]:
    """Writes a model file whose `run_inference` does what the text says; returns a spec of it."""

    def spec(text: str = "pass", **values) -> Spec:
        path = tmp_path / "given_model.py"
        path.write_text(MODEL.format(body="\n".join(" " * 8 + line for line in dedent(text).splitlines())))
        return Spec(**{"model": str(path), "method": "run_inference", "n_steps": 1, "warmup": 0} | values)

    return spec


@pytest.fixture(scope="module")
def slots():
    """Makes slots with given settings, each once, so that most tests share a zygote."""
    made = {}
    scratch = Scratch()

    def slot(**settings) -> Slot:
        key = repr(settings)
        if key not in made:
            made[key] = Slot(plan(["cpu"], 1)[0], worker="w", settings=Settings(**settings), scratch=scratch)
        return made[key]

    yield slot
    for each in made.values():
        each.close()
    scratch.close()


@pytest.fixture
def slot(slots) -> Slot:
    return slots()


@pytest.fixture
def see_through(store, slot):
    """Runs a job to its end, a second time if its worker would, and returns it as it is stored then."""

    def see_through(spec: Spec, slot: Slot = slot):
        job_id = store.submit(spec)
        while (claim := store.claim([spec.device], worker="w", lease_s=60, job_id=job_id)) is not None:
            supervise(store, claim, slot=slot, drain=Drain())
        return store.job(job_id)

    return see_through


@pytest.fixture
def in_background(store, slot):
    """Starts to see a claim through while the test does something else."""

    def in_background(claim: Claim, drain: Drain | None = None) -> "InBackground":
        return InBackground(store, claim, slot, drain or Drain())

    return in_background


def claim_of(store: Store, spec: Spec, lease_s: float = 60) -> Claim:
    claim = store.claim([spec.device], worker="w", lease_s=lease_s, job_id=store.submit(spec))
    assert claim is not None
    return claim


def log_of(store: Store, job_id: int) -> str:
    (digest,) = (artifact.digest for artifact in store.artifacts(job_id) if artifact.name == "log.txt")
    return store.read_artifact(digest).decode()


class InBackground:
    """A supervised attempt that goes on while the test does something."""

    def __init__(self, store: Store, claim: Claim, slot: Slot, drain: Drain) -> None:
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=[store, claim, slot, drain], daemon=True)
        self._thread.start()

    def _run(self, store: Store, claim: Claim, slot: Slot, drain: Drain) -> None:
        try:
            supervise(store, claim, slot=slot, drain=drain)
        except BaseException as error:
            self._errors.append(error)

    def end(self) -> None:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        assert self._errors == []


def pid_once_running(folder: Path) -> int:
    """The runner's process id, once its model is being run."""
    deadline = time.monotonic() + PATIENCE_S
    while not (folder / "running").exists():  # written by another process, which cannot set an event of ours
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return int((folder / "running").read_text())


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_success_is_recorded_with_its_result_files_and_environment(store, spec, see_through):
    job = see_through(spec("print('hello')", n_steps=3))

    (attempt,) = job.attempts
    assert (job.state, job.cause, job.message) == ("succeeded", None, None)
    assert (attempt.state, attempt.worker) == ("succeeded", "w")
    assert store.environment(attempt.environment).affinity
    assert store.result(job.id).steps.count == 3
    assert {artifact.name for artifact in store.artifacts(job.id)} == {"log.txt", "predictions.safetensors"}
    assert log_of(store, job.id) == "hello\n" * 3


def test_a_failure_is_recorded_with_its_message_and_log(store, spec, see_through):
    job = see_through(spec("raise ValueError('no good')"))

    assert (job.state, job.cause) == ("failed", "user_error")
    assert "run_inference of" in job.message
    assert "ValueError: no good" in job.message
    assert store.result(job.id) is None
    assert "Traceback" in log_of(store, job.id)
    assert job.attempts[0].environment


@pytest.mark.parametrize(
    ("text", "name"),
    [("ctypes.string_at(0)", "SIGSEGV"), ("os.abort()", "SIGABRT"), ("os.kill(os.getpid(), signal.SIGFPE)", "SIGFPE")],
)
def test_a_crash_names_the_signal_the_method_and_the_model(store, spec, text, name, see_through):
    job = see_through(spec(f"print('last words'); {text}"))

    assert (job.state, job.cause) == ("failed", "signal")
    assert f"killed by {name} while it ran run_inference of {job.spec.model}" in job.message
    assert "log" in job.message
    assert log_of(store, job.id).startswith("last words\n")


def test_a_kill_from_outside_is_no_want_of_memory(store, spec, see_through):
    job = see_through(spec("os.kill(os.getpid(), signal.SIGKILL)"))

    assert job.cause == "signal"
    assert "killed by SIGKILL" in job.message


def test_a_process_that_was_reaped_before_anyone_looked_has_ended():
    gone = subprocess.Popen(["true"])
    gone.wait()
    fd = process._open_process(gone.pid)
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        assert selector.select(timeout=5)
    os.close(fd)


def test_a_signal_without_a_name_is_recorded_by_its_number(store, spec, see_through):
    job = see_through(spec("os.kill(os.getpid(), 40)"))

    assert (job.state, job.cause) == ("failed", "signal")
    assert "40" in job.message


def test_an_exit_past_python_is_the_users_error(store, spec, see_through):
    job = see_through(spec("os._exit(3)"))

    assert (job.state, job.cause) == ("failed", "user_error")
    assert "exited with code 3" in job.message
    assert "os._exit" in job.message


FORGERIES = {
    "no JSON": b"hello",
    "no outcome": b"{}",
    "no ending": Outcome(state="running").to_json(),
    "a file it did not write": Outcome.from_dict(
        {"state": "succeeded", "artifacts": [{"name": "absent.py", "media_type": "text/x-python"}]}
    ).to_json(),
    "a file elsewhere": Outcome.from_dict(
        {"state": "succeeded", "artifacts": [{"name": "../../given_model.py", "media_type": "text/x-python"}]}
    ).to_json(),
    "the log": Outcome.from_dict(
        {"state": "succeeded", "artifacts": [{"name": "log.txt", "media_type": "text/plain"}]}
    ).to_json(),
}


@pytest.mark.parametrize("payload", FORGERIES.values(), ids=FORGERIES.keys())
def test_a_report_that_user_code_made_up_is_the_users_error(store, spec, payload, see_through):
    frame = len(payload).to_bytes(4) + payload

    job = see_through(spec(f"os.write(report_pipe(), {frame!r}); os._exit(0)"))

    assert (job.state, job.cause) == ("failed", "user_error")
    assert log_of(store, job.id) == ""


@pytest.mark.parametrize("target", ["/etc/hostname", "given_model.py"])
def test_an_artifact_that_is_a_link_is_refused(store, spec, target, see_through):
    text = f"""
    import dnnamo.runner.execute as execute
    add = execute._Returned.add
    def link(self, name):
        path = self.scratch / name
        path.unlink()
        path.symlink_to(HERE / {target!r})
        add(self, name)
    execute._Returned.add = link
    """
    job = see_through(spec(text))

    assert (job.state, job.cause) == ("failed", "user_error")
    assert "'predictions.safetensors'" in job.message
    assert [artifact.name for artifact in store.artifacts(job.id)] == ["log.txt"]


def test_a_job_over_its_time_limit_is_ended(store, spec, tmp_path, see_through):
    job = see_through(spec(f"print('started', flush=True); {SLEEPS}", timeout_s=2))

    assert (job.state, job.cause) == ("failed", "timeout")
    assert "2 s, the time limit" in job.message
    assert log_of(store, job.id) == "started\n"
    assert is_gone(pid_once_running(tmp_path))


def test_a_job_within_its_time_limit_is_left_alone(store, spec, see_through):
    assert see_through(spec(timeout_s=PATIENCE_S)).state == "succeeded"


def test_a_running_job_that_is_cancelled_is_ended(store, spec, tmp_path, in_background):
    claim = claim_of(store, spec(f"print('started'); {SLEEPS}"))
    attempt = in_background(claim)
    pid = pid_once_running(tmp_path)

    store.cancel(claim.job_id)
    attempt.end()

    job = store.job(claim.job_id)
    assert (job.state, job.cause) == ("cancelled", "cancelled")
    assert job.attempts[0].state == "cancelled"
    assert log_of(store, job.id) == "started\n"
    assert is_gone(pid)


def test_a_lease_is_renewed_as_long_as_the_job_runs(store, spec, monkeypatch, in_background):
    leases, enough = [], threading.Event()
    renew = store.renew

    def counted(claim, *, lease_s, progress) -> Renewal:
        leases.append(lease_s)
        renewal = renew(claim, lease_s=lease_s, progress=progress)
        if len(leases) == 3:
            enough.set()
        return renewal

    monkeypatch.setattr(store, "renew", counted)
    claim = claim_of(store, spec(SLEEPS), lease_s=0.2)  # would be over long before the third beat is
    attempt = in_background(claim)
    assert enough.wait(PATIENCE_S)

    assert store.reap() == []
    assert set(leases) == {supervisor.LEASE_S}

    store.cancel(claim.job_id)
    attempt.end()


def test_an_attempt_that_is_no_longer_current_records_nothing_and_ends_its_runner(
    store, spec, tmp_path, monkeypatch, in_background
):
    monkeypatch.setattr(supervisor, "HEARTBEAT_S", 2.0)
    claim = claim_of(store, spec(SLEEPS), lease_s=0.01)
    attempt = in_background(claim)
    pid = pid_once_running(tmp_path)

    assert store.reap() == [claim.job_id]
    second = store.claim(["cpu"], worker="other", lease_s=60, job_id=claim.job_id)
    attempt.end()

    job = store.job(claim.job_id)
    assert is_gone(pid)
    assert (job.state, second.attempt) == ("running", 2)
    assert [(one.worker, one.state) for one in job.attempts] == [("w", "lost"), ("other", "running")]
    assert store.artifacts(claim.job_id) == []


def test_an_outcome_that_comes_too_late_is_dropped(store, spec, tmp_path, monkeypatch, caplog, in_background):
    monkeypatch.setattr(supervisor, "HEARTBEAT_S", 60.0)
    text = "(HERE / 'running').write_text(str(os.getpid()))\nwhile not (HERE / 'go').exists(): time.sleep(0.01)"
    claim = claim_of(store, spec(text), lease_s=0.01)
    attempt = in_background(claim)
    pid_once_running(tmp_path)
    store.reap()

    (tmp_path / "go").touch()
    with caplog.at_level(logging.WARNING):
        attempt.end()

    job = store.job(claim.job_id)
    assert (job.state, job.attempts[0].state) == ("queued", "lost")
    assert store.result(claim.job_id) is None
    assert "no longer current" in caplog.text


def test_a_drain_hands_running_jobs_back_and_ends_their_runners(store, spec, tmp_path, in_background):
    drain = Drain(limit_s=0)
    claim = claim_of(store, spec(SLEEPS))
    attempt = in_background(claim, drain)
    pid = pid_once_running(tmp_path)

    drain.begin()
    attempt.end()

    job = store.job(claim.job_id)
    assert is_gone(pid)
    assert (job.state, job.attempts[0].state) == ("queued", "handed_back")
    assert store.artifacts(claim.job_id) == []


def test_a_drain_gives_running_jobs_their_time(store, spec, slot):
    drain = Drain(limit_s=PATIENCE_S)
    drain.begin()
    claim = claim_of(store, spec())

    supervise(store, claim, slot=slot, drain=drain)

    assert store.job(claim.job_id).state == "succeeded"


def test_a_drain_begins_once(monkeypatch):
    now = 100.0
    monkeypatch.setattr(supervisor, "monotonic", lambda: now)
    drain = Drain(limit_s=10)
    assert (drain.has_begun, drain.is_over) == (False, False)

    drain.begin()
    now = 109.0
    drain.begin()
    assert (drain.has_begun, drain.is_over) == (True, False)

    now = 110.0
    assert drain.is_over


def test_a_database_that_goes_away_for_a_beat_ends_nothing(store, spec, tmp_path, monkeypatch, caplog, in_background):
    failed, renew = threading.Event(), store.renew

    def fails_once(claim, **given) -> Renewal:
        if not failed.is_set():
            failed.set()
            raise DatabaseUnavailable("the database is away")
        return renew(claim, **given)

    monkeypatch.setattr(store, "renew", fails_once)
    text = "(HERE / 'running').write_text('1')\nwhile not (HERE / 'go').exists(): time.sleep(0.01)"
    claim = claim_of(store, spec(text))
    attempt = in_background(claim)
    with caplog.at_level(logging.WARNING):
        assert failed.wait(PATIENCE_S)
        (tmp_path / "go").touch()
        attempt.end()

    assert store.job(claim.job_id).state == "succeeded"
    assert "lease not renewed: the database is away" in caplog.text


def test_a_database_that_goes_away_at_the_end_is_asked_again(store, spec, monkeypatch, see_through):
    record, asked = store.record, []

    def fails_once(*arguments, **files):
        asked.append(1)
        if len(asked) == 1:
            raise DatabaseUnavailable("the database is away")
        return record(*arguments, **files)

    monkeypatch.setattr(store, "record", fails_once)

    job = see_through(spec())

    assert (job.state, len(asked)) == ("succeeded", 2)
    assert "predictions.safetensors" in {artifact.name for artifact in store.artifacts(job.id)}


def environment_of(store, see_through, spec, **values):
    """What the runner of a job has in its environment."""
    job = see_through(spec("import json; print(json.dumps(dict(os.environ)))", **values))
    return json.loads(log_of(store, job.id))


def test_secrets_do_not_reach_the_runner(store, spec, monkeypatch, see_through):
    monkeypatch.setenv("DNNAMO_DATABASE_URL", "postgresql://u:hunter2@h/d")
    monkeypatch.setenv("DNNAMO_BROKER_URL", "redis://:hunter2@h")
    monkeypatch.setenv("GIVEN", "yes")

    environment = environment_of(store, see_through, spec)

    assert not any("hunter2" in value for value in environment.values())
    assert environment["GIVEN"] == "yes"


def test_a_cpu_job_sees_no_gpu(store, spec, monkeypatch, see_through):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")

    assert environment_of(store, see_through, spec)["CUDA_VISIBLE_DEVICES"] == ""


THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)


def test_threads_are_set_for_every_library(store, spec, monkeypatch, see_through):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")

    environment = environment_of(store, see_through, spec, threads=3)

    assert {name: environment[name] for name in THREADS} == dict.fromkeys(THREADS, "3")


def test_without_a_number_of_threads_there_is_one_for_each_core(store, spec, monkeypatch, see_through, slot):
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")

    environment = environment_of(store, see_through, spec)

    assert environment["OMP_NUM_THREADS"] == "7"  # whoever started the worker said so
    assert {environment[name] for name in THREADS[1:]} == {str(slot.place.threads)}


def test_weights_come_from_the_store(store, spec, tmp_path, see_through):
    digest = store.put_artifact(save({"a": np.array([3.0])}))

    job = see_through(spec(method="set_weights", weights=digest))

    assert (job.state, job.message) == ("succeeded", None)
    assert log_of(store, job.id) == "{'a': [3.0]}\n"


def test_the_scratch_folder_is_gone_afterwards(store, spec, tmp_path, monkeypatch, see_through):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()

    job = see_through(spec("time.sleep(0)"))

    assert job.state == "succeeded"
    assert list((tmp_path / "temporary").iterdir()) == []


def test_embedded_runs_jobs_in_the_order_of_their_launch(store, spec):
    embedded = Embedded(store, Settings())
    first, second = store.submit(spec()), store.submit(spec())

    embedded.launch(second, "cpu")
    embedded.launch(first, "cpu")
    _attend_until_over(embedded, store, first, second)

    assert store.job(second).started < store.job(first).started
    assert store.job(first).state == "succeeded"


def test_embedded_leaves_a_claimed_job_to_its_claimant(store, spec):
    embedded = Embedded(store, Settings())
    claim = claim_of(store, spec())
    other = store.submit(spec())

    embedded.launch(claim.job_id, "cpu")
    embedded.launch(other, "cpu")
    _attend_until_over(embedded, store, other)

    assert store.job(claim.job_id).state == "running"


def test_embedded_raises_what_kept_a_job_from_running(store, spec, monkeypatch):
    def fails(*_, **__):
        raise DatabaseUnavailable("the database is away")

    embedded = Embedded(store, Settings())
    monkeypatch.setattr(store, "claim", fails)

    with pytest.raises(DatabaseUnavailable, match="away"):
        _attend_until_over(embedded, store, store.submit(spec()))


def _attend_until_over(embedded, store, *job_ids):
    deadline = time.monotonic() + PATIENCE_S
    while not all(store.job(job_id).is_over for job_id in job_ids):
        for job_id in job_ids:
            embedded.attend(job_id, "cpu")
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_job_over_its_memory_limit_is_ended_and_the_figures_are_told(spec, see_through):
    text = "held = []\nwhile True: held.append(bytearray(b'x' * (8 << 20))); time.sleep(0.001)"

    job = see_through(spec(text, memory_bytes=300 << 20))

    assert (job.state, job.cause) == ("failed", "oom_host")
    figures = re.search(r"(\d+\.\d\d) MiB of 300\.00 MiB\.", job.message)
    assert 300 <= float(figures[1]) < 600


def test_the_memory_of_all_processes_of_a_job_counts(spec, see_through):
    text = """
    for _ in range(4):
        if os.fork() == 0:
            held = bytearray(b"x" * (100 << 20))
            time.sleep(1000)
    time.sleep(1000)
    """
    assert see_through(spec(text, memory_bytes=300 << 20)).cause == "oom_host"


def test_pages_that_processes_share_count_once(spec, see_through):
    text = """
    held = bytearray(b"x" * (150 << 20))
    children = []
    for _ in range(6):
        children.append(os.fork())
        if children[-1] == 0:
            time.sleep(0.5)
            os._exit(0)
    for child in children:
        os.waitpid(child, 0)
    """
    job = see_through(spec(text, memory_bytes=400 << 20))

    assert (job.state, job.message) == ("succeeded", None)


def test_a_job_within_its_limits_is_left_alone(spec, see_through):
    text = "print('x' * 1000); held = bytearray(b'x' * (20 << 20))"

    job = see_through(spec(text, memory_bytes=400 << 20, output_bytes=2000, scratch_bytes=10**6))

    assert (job.state, job.message) == ("succeeded", None)


def test_memory_that_python_cannot_have_is_no_error_of_the_users(spec, see_through):
    job = see_through(spec("bytearray(1 << 60)"))

    assert (job.state, job.cause) == ("failed", "oom_host")
    assert "MemoryError" in job.message


@pytest.mark.parametrize("text", ["while True: os.write(1, b'x' * 65536)", "os.write(1, b'x' * 30000)"])
def test_a_job_that_writes_too_much_is_ended(store, spec, text, see_through):
    job = see_through(spec(text, output_bytes=20000))

    assert (job.state, job.cause) == ("failed", "output_limit")
    assert re.search(r"KiB of 19\.53 KiB\.", job.message)
    assert log_of(store, job.id).startswith("xxx")


def test_a_scratch_folder_that_grows_too_large_ends_the_job(spec, see_through):
    text = """
    folder = Path(os.environ["TMPDIR"])
    for number in range(10**6):
        (folder / str(number)).write_bytes(b"x" * (1 << 20))
    """
    job = see_through(spec(text, scratch_bytes=50 << 20))

    assert (job.state, job.cause) == ("failed", "scratch_limit")
    assert re.search(r"MiB of 50\.00 MiB\.", job.message)


def test_a_job_of_too_many_processes_is_ended(store, spec, slots, see_through):
    text = """
    for _ in range(60):
        if os.fork() == 0:
            time.sleep(1000)
    time.sleep(1000)
    """
    job = see_through(spec(text), slots(process_limit=30))

    assert (job.state, job.cause) == ("failed", "process_limit")
    assert re.search(r"\d+ of 30 processes\.", job.message)


def test_limits_of_the_worker_hold_where_the_job_has_none(spec, slots, see_through):
    slot = slots(output_limit=1000, time_limit_s=1.0)

    assert see_through(spec("print('x' * 2000)"), slot).cause == "output_limit"
    assert see_through(spec("print('x' * 2000)", output_bytes=5000), slot).state == "succeeded"
    assert see_through(spec(SLEEPS), slot).cause == "timeout"


def test_a_crash_is_tried_a_second_time(spec, see_through):
    text = "(HERE / 'tried').exists() or ((HERE / 'tried').touch(), os.abort())"

    job = see_through(spec(text))

    assert [(attempt.state, attempt.cause) for attempt in job.attempts] == [("failed", "signal"), ("succeeded", None)]
    assert job.state == "succeeded"


def test_an_interpreter_that_the_worker_does_not_allow_is_refused(spec, see_through):
    job = see_through(spec(python="/usr/bin/python3"))

    assert (job.state, job.cause) == ("failed", "unsupported")
    assert "/usr/bin/python3" in job.message
    assert "DNNAMO_PYTHONS" in job.message


def test_a_job_runs_with_the_interpreter_that_it_names(store, spec, slots, tmp_path, see_through):
    python = tmp_path / "venv" / "bin" / "python"
    venv.create(tmp_path / "venv", symlinks=True)
    packages = tmp_path / "venv" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    ours = [str(Path(module.__file__).parents[1]) for module in (dnnamo, dnnamo_workers, np)]
    (packages / "ours.pth").write_text("\n".join(ours))

    job = see_through(spec("print(sys.executable)", python=str(python)), slots(pythons=str(python)))

    assert (job.state, job.message) == ("succeeded", None)
    assert log_of(store, job.id) == f"{python}\n"


@pytest.mark.parametrize("content", ["#!/bin/sh\necho no Dnnamo here >&2; exit 3\n", None])
def test_an_interpreter_that_cannot_run_it_says_why(spec, slots, tmp_path, content, see_through):
    python = tmp_path / "python"
    if content:
        python.write_text(content)
        python.chmod(0o755)

    job = see_through(spec(python=str(python)), slots(pythons=str(python)))

    assert (job.state, job.cause) == ("failed", "unsupported")
    assert str(python) in job.message
    assert ("no Dnnamo here" if content else "No such file") in job.message
    assert "Dnnamo must be installed there" in job.message


def test_a_model_outside_of_the_roots_is_refused(spec, slots, tmp_path, see_through):
    (tmp_path / "models").mkdir()

    job = see_through(spec(), slots(model_roots=str(tmp_path / "models")))

    assert (job.state, job.cause) == ("failed", "unsupported")
    assert str(tmp_path / "models") in job.message
    assert see_through(spec(), slots(model_roots=str(tmp_path))).state == "succeeded"


def test_a_measurement_has_evidence(store, spec, see_through):
    job = see_through(spec("time.sleep(0.001)", n_steps=3))

    evidence = store.result(job.id).evidence
    assert evidence.wall_ns >= 3_000_000
    assert set(evidence.cores) == os.sched_getaffinity(0)


def test_progress_travels_with_the_heartbeat(store, spec, in_background):
    claim = claim_of(store, spec("time.sleep(0.05)", n_steps=10**4))
    attempt = in_background(claim)
    deadline = time.monotonic() + PATIENCE_S
    while not ((progress := store.job(claim.job_id).progress) and progress.done > 2):
        assert time.monotonic() < deadline
        time.sleep(0.01)

    store.cancel(claim.job_id)
    attempt.end()
    assert store.job(claim.job_id).progress is None


@pytest.fixture
def bundled(store):
    """Stores files as the code of a job, and returns a spec that brings them along from a folder that is not there."""

    def bundled(text: str = "pass", *, data: bytes | None = None, digest: str | None = None, **values) -> Spec:
        model = MODEL.format(body="\n".join(" " * 8 + line for line in dedent(text).splitlines()))
        content = {"given_model.py": Content(model.encode()), "beside/data.txt": Content(b"x" * 100_000)}
        data = pack(content) if data is None else data
        store.put_artifact(data)
        bundle = Bundle(digest=digest or sha256(data).hexdigest(), size=0, files=2, folders=["/nowhere"])
        given = {"model": "/nowhere/given_model.py", "method": "run_inference", "n_steps": 1, "warmup": 0}
        return Spec(**given | {"bundle": bundle} | values)

    return bundled


def test_code_that_a_job_brings_is_run_from_a_read_only_folder_that_is_gone_then(see_through, bundled, store):
    job = see_through(
        bundled(
            """
            print("at", HERE, Path.cwd() == HERE, oct(HERE.stat().st_mode))
            print(*sorted(str(path.relative_to(HERE)) for path in HERE.rglob("*")))
            print("cache", os.environ["PYTHONDONTWRITEBYTECODE"], sys.dont_write_bytecode)
            """
        )
    )

    assert job.state == "succeeded", job.message
    log = logged(store, job)
    assert "True 0o40500\nbeside beside/data.txt given_model.py\ncache 1 True\n" in log
    folder = Path(log.split()[1])
    assert folder.parent.name.startswith("dnnamo-scratch-")
    assert not folder.exists()


def logged(store: Store, job) -> str:
    (artifact,) = [artifact for artifact in store.artifacts(job.id) if artifact.name == "log.txt"]
    return store.read_artifact(artifact.digest).decode()


def test_code_does_not_count_as_scratch(see_through, bundled):
    assert see_through(bundled("time.sleep(0.2)", scratch_bytes=50_000)).state == "succeeded"


def test_a_job_without_code_keeps_its_bytecode(see_through, spec, store):
    job = see_through(spec("print('cache', os.environ.get('PYTHONDONTWRITEBYTECODE'))"))

    assert f"cache {os.environ.get('PYTHONDONTWRITEBYTECODE')}" in logged(store, job)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"digest": sha256(b"never stored").hexdigest()}, "no longer stored"),
        ({"data": b"no archive"}, "no archive of files"),
        ({"data": pack({"../given_model.py": Content(b"")})}, "leads elsewhere"),
    ],
)
def test_bad_code_fails_with_the_cause_and_the_next_job_runs(see_through, bundled, spec, values, says):
    job = see_through(bundled(**values))

    assert (job.state, job.cause) == ("failed", "bad_bundle")
    assert says in job.message
    assert len(job.attempts) == 1
    assert see_through(spec()).state == "succeeded"


def test_code_that_was_changed_in_the_database_is_not_unpacked(see_through, bundled, store, monkeypatch):
    monkeypatch.setattr(store, "read_artifact", lambda digest: pack({"given_model.py": Content(b"other")}))

    job = see_through(bundled())

    assert (job.state, job.cause) == ("failed", "bad_bundle")
    assert "not what was submitted" in job.message


def test_a_full_disk_hands_the_job_back(store, bundled, slot, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(supervisor, "unpack", fail)
    job_id = store.submit(bundled())
    claim = store.claim(["cpu"], worker="w", lease_s=60, job_id=job_id)

    with pytest.raises(RunnerUnavailable, match="No space left"):
        supervise(store, claim, slot=slot, drain=Drain())
    assert store.job(job_id).state == "queued"


def test_a_file_that_cannot_be_written_fails_the_job(see_through, bundled, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENAMETOOLONG, "File name too long")

    monkeypatch.setattr(supervisor, "unpack", fail)

    assert "File name too long" in see_through(bundled()).message


def test_a_worker_with_model_roots_refuses_code(see_through, bundled, slots, tmp_path):
    job = see_through(bundled(), slots(model_roots=(tmp_path,)))

    assert (job.state, job.cause) == ("failed", "unsupported")
    for words in ("DNNAMO_MODEL_ROOTS", str(tmp_path), "--no-bundle"):
        assert words in job.message
