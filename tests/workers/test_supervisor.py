import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from safetensors.numpy import save

from dnnamo.errors import DatabaseUnavailable
from dnnamo.records import Claim, Outcome
from dnnamo.records import JobSpec as Spec
from dnnamo_storage import Renewal, Store
from dnnamo_workers import supervisor
from dnnamo_workers.embedded import Embedded
from dnnamo_workers.supervisor import Drain, supervise

PATIENCE_S = 30

MODEL = """
import ctypes, os, signal, sys, time
from pathlib import Path
from dnnamo import Model

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


def claim_of(store: Store, spec: Spec, lease_s: float = 60) -> Claim:
    claim = store.claim([spec.device], worker="w", lease_s=lease_s, job_id=store.submit(spec))
    assert claim is not None
    return claim


def see_through(store: Store, spec: Spec):
    """Run a job to its end and return it as it is stored then."""
    claim = claim_of(store, spec)
    supervise(store, claim, drain=Drain())
    return store.job(claim.job_id)


def log_of(store: Store, job_id: int) -> str:
    (digest,) = (artifact.digest for artifact in store.artifacts(job_id) if artifact.name == "log.txt")
    return store.read_artifact(digest).decode()


class InBackground:
    """A supervised attempt that goes on while the test does something."""

    def __init__(self, store: Store, claim: Claim, drain: Drain | None = None) -> None:
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=[store, claim, drain or Drain()], daemon=True)
        self._thread.start()

    def _run(self, store: Store, claim: Claim, drain: Drain) -> None:
        try:
            supervise(store, claim, drain=drain)
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


def test_a_success_is_recorded_with_its_result_files_and_environment(store, spec):
    job = see_through(store, spec("print('hello')", n_steps=3))

    (attempt,) = job.attempts
    assert (job.state, job.cause, job.message) == ("succeeded", None, None)
    assert (attempt.state, attempt.worker) == ("succeeded", "w")
    assert store.environment(attempt.environment).affinity
    assert store.result(job.id).steps.count == 3
    assert {artifact.name for artifact in store.artifacts(job.id)} == {"log.txt", "predictions.safetensors"}
    assert log_of(store, job.id) == "hello\n" * 3


def test_a_failure_is_recorded_with_its_message_and_log(store, spec):
    job = see_through(store, spec("raise ValueError('no good')"))

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
def test_a_crash_names_the_signal_the_method_and_the_model(store, spec, text, name):
    job = see_through(store, spec(f"print('last words'); {text}"))

    assert (job.state, job.cause) == ("failed", "signal")
    assert f"killed by {name} while it ran run_inference of {job.spec.model}" in job.message
    assert "log" in job.message
    assert log_of(store, job.id).startswith("last words\n")


def test_a_kill_from_outside_hints_at_the_memory(store, spec):
    job = see_through(store, spec("os.kill(os.getpid(), signal.SIGKILL)"))

    assert job.cause == "signal"
    assert "SIGKILL" in job.message
    assert "memory runs out" in job.message


def test_a_signal_without_a_name_is_recorded_by_its_number(store, spec):
    job = see_through(store, spec("os.kill(os.getpid(), 40)"))

    assert (job.state, job.cause) == ("failed", "signal")
    assert "40" in job.message


def test_an_exit_past_python_is_the_users_error(store, spec):
    job = see_through(store, spec("os._exit(3)"))

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
def test_a_report_that_user_code_made_up_is_the_users_error(store, spec, payload):
    frame = len(payload).to_bytes(4) + payload

    job = see_through(store, spec(f"os.write(int(sys.argv[1]), {frame!r}); os._exit(0)"))

    assert (job.state, job.cause) == ("failed", "user_error")
    assert log_of(store, job.id) == ""


@pytest.mark.parametrize("target", ["/etc/hostname", "given_model.py"])
def test_an_artifact_that_is_a_link_is_refused(store, spec, target):
    text = f"""
    import dnnamo.runner.execute as execute
    add = execute._Returned._add
    def link(self, name):
        path = self.scratch / name
        path.unlink()
        path.symlink_to(HERE / {target!r})
        add(self, name)
    execute._Returned._add = link
    """
    job = see_through(store, spec(text))

    assert (job.state, job.cause) == ("failed", "user_error")
    assert "'predictions.safetensors'" in job.message
    assert [artifact.name for artifact in store.artifacts(job.id)] == ["log.txt"]


def test_a_job_over_its_time_limit_is_ended(store, spec, tmp_path):
    job = see_through(store, spec(f"print('started', flush=True); {SLEEPS}", timeout_s=2))

    assert (job.state, job.cause) == ("failed", "timeout")
    assert "2 s, the time limit" in job.message
    assert log_of(store, job.id) == "started\n"
    assert is_gone(pid_once_running(tmp_path))


def test_a_job_within_its_time_limit_is_left_alone(store, spec):
    assert see_through(store, spec(timeout_s=PATIENCE_S)).state == "succeeded"


def test_a_running_job_that_is_cancelled_is_ended(store, spec, tmp_path):
    claim = claim_of(store, spec(f"print('started'); {SLEEPS}"))
    attempt = InBackground(store, claim)
    pid = pid_once_running(tmp_path)

    store.cancel(claim.job_id)
    attempt.end()

    job = store.job(claim.job_id)
    assert (job.state, job.cause) == ("cancelled", "cancelled")
    assert job.attempts[0].state == "cancelled"
    assert log_of(store, job.id) == "started\n"
    assert is_gone(pid)


def test_a_lease_is_renewed_as_long_as_the_job_runs(store, spec, monkeypatch):
    leases, enough = [], threading.Event()
    renew = store.renew

    def counted(claim, *, lease_s) -> Renewal:
        leases.append(lease_s)
        renewal = renew(claim, lease_s=lease_s)
        if len(leases) == 3:
            enough.set()
        return renewal

    monkeypatch.setattr(store, "renew", counted)
    claim = claim_of(store, spec(SLEEPS), lease_s=0.2)  # would be over long before the third beat is
    attempt = InBackground(store, claim)
    assert enough.wait(PATIENCE_S)

    assert store.reap() == []
    assert set(leases) == {supervisor.LEASE_S}

    store.cancel(claim.job_id)
    attempt.end()


def test_an_attempt_that_is_no_longer_current_records_nothing_and_ends_its_runner(store, spec, tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "HEARTBEAT_S", 2.0)
    claim = claim_of(store, spec(SLEEPS), lease_s=0.01)
    attempt = InBackground(store, claim)
    pid = pid_once_running(tmp_path)

    assert store.reap() == [claim.job_id]
    second = store.claim(["cpu"], worker="other", lease_s=60, job_id=claim.job_id)
    attempt.end()

    job = store.job(claim.job_id)
    assert is_gone(pid)
    assert (job.state, second.attempt) == ("running", 2)
    assert [(one.worker, one.state) for one in job.attempts] == [("w", "lost"), ("other", "running")]
    assert store.artifacts(claim.job_id) == []


def test_an_outcome_that_comes_too_late_is_dropped(store, spec, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(supervisor, "HEARTBEAT_S", 60.0)
    text = "(HERE / 'running').write_text(str(os.getpid()))\nwhile not (HERE / 'go').exists(): time.sleep(0.01)"
    claim = claim_of(store, spec(text), lease_s=0.01)
    attempt = InBackground(store, claim)
    pid_once_running(tmp_path)
    store.reap()

    (tmp_path / "go").touch()
    with caplog.at_level(logging.WARNING):
        attempt.end()

    job = store.job(claim.job_id)
    assert (job.state, job.attempts[0].state) == ("queued", "lost")
    assert store.result(claim.job_id) is None
    assert "no longer current" in caplog.text


def test_a_drain_hands_running_jobs_back_and_ends_their_runners(store, spec, tmp_path):
    drain = Drain(limit_s=0)
    claim = claim_of(store, spec(SLEEPS))
    attempt = InBackground(store, claim, drain)
    pid = pid_once_running(tmp_path)

    drain.begin()
    attempt.end()

    job = store.job(claim.job_id)
    assert is_gone(pid)
    assert (job.state, job.attempts[0].state) == ("queued", "handed_back")
    assert store.artifacts(claim.job_id) == []


def test_a_drain_gives_running_jobs_their_time(store, spec):
    drain = Drain(limit_s=PATIENCE_S)
    drain.begin()
    claim = claim_of(store, spec())

    supervise(store, claim, drain=drain)

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


def test_a_database_that_goes_away_for_a_beat_ends_nothing(store, spec, tmp_path, monkeypatch, caplog):
    failed, renew = threading.Event(), store.renew

    def fails_once(claim, *, lease_s) -> Renewal:
        if not failed.is_set():
            failed.set()
            raise DatabaseUnavailable("the database is away")
        return renew(claim, lease_s=lease_s)

    monkeypatch.setattr(store, "renew", fails_once)
    text = "(HERE / 'running').write_text('1')\nwhile not (HERE / 'go').exists(): time.sleep(0.01)"
    claim = claim_of(store, spec(text))
    attempt = InBackground(store, claim)
    with caplog.at_level(logging.WARNING):
        assert failed.wait(PATIENCE_S)
        (tmp_path / "go").touch()
        attempt.end()

    assert store.job(claim.job_id).state == "succeeded"
    assert "lease not renewed: the database is away" in caplog.text


def test_a_database_that_goes_away_at_the_end_is_asked_again(store, spec, monkeypatch):
    record, asked = store.record, []

    def fails_once(*arguments, **files):
        asked.append(1)
        if len(asked) == 1:
            raise DatabaseUnavailable("the database is away")
        return record(*arguments, **files)

    monkeypatch.setattr(store, "record", fails_once)

    job = see_through(store, spec())

    assert (job.state, len(asked)) == ("succeeded", 2)
    assert "predictions.safetensors" in {artifact.name for artifact in store.artifacts(job.id)}


def environment_of(store, spec, **values):
    """What the runner of a job has in its environment."""
    job = see_through(store, spec("import json; print(json.dumps(dict(os.environ)))", **values))
    return json.loads(log_of(store, job.id))


def test_secrets_do_not_reach_the_runner(store, spec, monkeypatch):
    monkeypatch.setenv("DNNAMO_DATABASE_URL", "postgresql://u:hunter2@h/d")
    monkeypatch.setenv("DNNAMO_BROKER_URL", "redis://:hunter2@h")
    monkeypatch.setenv("GIVEN", "yes")

    environment = environment_of(store, spec)

    assert not any("hunter2" in value for value in environment.values())
    assert environment["GIVEN"] == "yes"


def test_a_cpu_job_sees_no_gpu(store, spec, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")

    assert environment_of(store, spec)["CUDA_VISIBLE_DEVICES"] == ""


def test_a_gpu_job_sees_the_gpus_of_its_worker(store, spec, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")

    assert environment_of(store, spec, device="gpu")["CUDA_VISIBLE_DEVICES"] == "0"


THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)


def test_threads_are_set_for_every_library(store, spec, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")

    environment = environment_of(store, spec, threads=3)

    assert {name: environment[name] for name in THREADS} == dict.fromkeys(THREADS, "3")


def test_without_a_number_of_threads_the_choice_is_left_alone(store, spec, monkeypatch):
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")

    environment = environment_of(store, spec)

    assert {name: environment[name] for name in THREADS if name in environment} == {"OMP_NUM_THREADS": "7"}


def test_weights_come_from_the_store(store, spec, tmp_path):
    digest = store.put_artifact(save({"a": np.array([3.0])}))

    job = see_through(store, spec(method="set_weights", weights=digest))

    assert (job.state, job.message) == ("succeeded", None)
    assert log_of(store, job.id) == "{'a': [3.0]}\n"


def test_the_scratch_folder_is_gone_afterwards(store, spec, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()

    job = see_through(store, spec("time.sleep(0)"))

    assert job.state == "succeeded"
    assert list((tmp_path / "temporary").iterdir()) == []


def test_embedded_runs_jobs_in_the_order_of_their_launch(store, spec):
    embedded = Embedded(store)
    first, second = store.submit(spec()), store.submit(spec())

    embedded.launch(second, "cpu")
    embedded.launch(first, "cpu")
    _attend_until_over(embedded, store, first, second)

    assert store.job(second).started < store.job(first).started
    assert store.job(first).state == "succeeded"


def test_embedded_leaves_a_claimed_job_to_its_claimant(store, spec):
    embedded = Embedded(store)
    claim = claim_of(store, spec())
    other = store.submit(spec())

    embedded.launch(claim.job_id, "cpu")
    embedded.launch(other, "cpu")
    _attend_until_over(embedded, store, other)

    assert store.job(claim.job_id).state == "running"


def test_embedded_raises_what_kept_a_job_from_running(store, spec, monkeypatch):
    def fails(*_, **__):
        raise DatabaseUnavailable("the database is away")

    embedded = Embedded(store)
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
