import threading
from collections.abc import Iterator, Sequence

import pytest

import dnnamo
from dnnamo import client
from dnnamo.errors import UsageError
from dnnamo.records import Device, JobSpec, Outcome, Progress

SPEC = JobSpec(model="demo:mlp", method="run_inference")


class Nobody:
    """A backend that leaves jobs queued and remembers what it was told."""

    def __init__(self) -> None:
        self.launched: list[tuple[int, Device]] = []
        self.attended: list[int] = []

    def check(self) -> None: ...

    def launch(self, job_id: int, device: Device) -> None:
        self.launched.append((job_id, device))

    def launch_many(self, job_ids: Sequence[int], devices: Sequence[Device]) -> None:
        self.launched += zip(job_ids, devices, strict=True)

    def attend(self, job_id: int, device: Device) -> None:
        self.attended.append(job_id)


@pytest.fixture
def session(tmp_path, monkeypatch) -> Iterator[client.Session]:
    """The session that `dnnamo`'s functions find, over an empty database, with nobody who runs jobs."""
    monkeypatch.setattr(client.Session, "_backend", lambda self, settings: Nobody())
    monkeypatch.setenv("DNNAMO_HOME", str(tmp_path))
    monkeypatch.delenv("DNNAMO_DATABASE_URL", raising=False)
    found = client.session()
    yield found
    found.store.close()


def submitted(**options) -> JobSpec:
    return dnnamo.submit("demo:mlp", "run_inference", **options).spec


@pytest.mark.parametrize(
    ("given", "count"),
    [
        (None, None),
        (4096, 4096),
        ("4096", 4096),
        ("2GiB", 2 * 2**30),
        ("1.5 kib", 1536),
        ("500MB", 500_000_000),
        (" 3 tb ", 3 * 10**12),
        ("7B", 7),
    ],
)
def test_a_size_is_bytes_or_has_a_unit(session, given, count):
    assert submitted(memory=given).memory_bytes == count


def test_each_size_has_its_place(session):
    spec = submitted(memory="1kB", output_limit="2kB", scratch="3kB")

    assert (spec.memory_bytes, spec.output_bytes, spec.scratch_bytes) == (1000, 2000, 3000)


@pytest.mark.parametrize("given", ["", "much", "-1", "1,5GiB", "2GiBs", "2 G i B", "iB", "1e3", "٣", "2GiB 3"])
def test_what_is_no_size_is_refused(session, given):
    with pytest.raises(UsageError, match="memory: .* is no size; write 2GiB"):
        submitted(memory=given)
    assert session.store.jobs() == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"memory": 0}, "at least 1"),
        ({"memory": 1.5}, "int"),
        ({"scratch": "9" * 30}, "scratch"),
        ({"repeats": -1}, "at least 0"),
        ({"tags": [""]}, "tag is empty"),
        ({"tags": [3]}, "tags"),
        ({"tags": "nightly"}, "list of words"),
        ({"capture": "shapes"}, "list of words"),
        ({"capture": ["colours"]}, "colours"),
        ({"python": "python3.12"}, "path of an interpreter"),
        ({"python": ""}, "path of an interpreter"),
    ],
)
def test_options_out_of_their_range_are_refused(session, options, says):
    with pytest.raises(UsageError, match=says):
        submitted(**options)
    assert session.store.jobs() == []


def test_an_interpreter_keeps_its_links(session, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "python").symlink_to("/usr/bin/python3")

    assert submitted(python="x/../venv/python").python == str(tmp_path / "venv" / "python")


def test_tags_are_sorted_and_stand_once(session):
    assert submitted(tags=["small", "nightly", "small"]).tags == ["nightly", "small"]


def test_what_a_profile_records_besides_stands_in_the_job(session):
    spec = dnnamo.submit("demo:mlp", "profile_training", capture=["shapes", "memory", "shapes"], paired=False).spec

    assert (spec.capture, spec.paired) == (["memory", "shapes"], False)
    assert (submitted().capture, submitted().paired) == ([], True)


def test_jobs_are_found_by_all_their_tags(session):
    dnnamo.submit("demo:mlp", "run_inference", tags=["a"])
    both = dnnamo.submit("demo:mlp", "run_inference", tags=["b", "a"])

    assert [job.id for job in dnnamo.jobs(tags=["a", "b"])] == [both.id]


def test_many_jobs_are_stored_and_launched_in_their_order(session):
    specs = [SPEC, JobSpec(model="demo:cnn", method="get_weights", device="gpu")]

    handles = session.submit_many(specs, keys=["one", None])

    assert [job.spec for job in handles] == specs
    assert session.backend.launched == [(handles[0].id, "cpu"), (handles[1].id, "gpu")]
    assert session.submit(SPEC, key="one").id == handles[0].id


def test_the_same_settings_are_the_same_session(session, monkeypatch, tmp_path):
    assert client.session() is session

    monkeypatch.setenv("DNNAMO_DRAIN_S", "3")
    assert client.session() is not session
    monkeypatch.setenv("DNNAMO_DATABASE_URL", f"sqlite:///{tmp_path / 'other.db'}")
    other = client.session()
    assert other.store.url.endswith("other.db")
    monkeypatch.setenv("DNNAMO_DATABASE_URL", f"sqlite:///{tmp_path / 'third.db'}")
    assert client.session() is not other  # though both URLs are masked where they are shown


def test_progress_is_that_of_the_attempt_that_runs(session):
    job = session.submit(SPEC)
    assert job.progress is None

    claim = session.store.claim(["cpu"], worker="w", lease_s=30)
    session.store.renew(claim, lease_s=30, progress=Progress(warmup=2, done=1))
    assert job.progress == Progress(warmup=2, done=1)


def test_waiting_shows_each_look_and_attends_the_job(session):
    job = session.submit(SPEC)
    claim = session.store.claim(["cpu"], worker="w", lease_s=30)
    looked = threading.Event()
    seen = []

    def end() -> None:
        looked.wait()
        session.store.record(claim, Outcome(state="failed", cause="user_error", message="no"), files={})

    ending = threading.Thread(target=end)
    ending.start()
    job.wait(60, on_look=lambda record: (seen.append(record.state), looked.set()))
    ending.join()

    assert set(seen) == {"running"}
    assert session.backend.attended[0] == job.id
    assert job.state == "failed"


def test_all_that_match_are_cancelled(session):
    first = dnnamo.submit("demo:mlp", "run_inference", tags=["a"])
    running = session.store.claim(["cpu"], worker="w", lease_s=30)
    queued = dnnamo.submit("demo:mlp", "run_inference", tags=["a"])
    other = dnnamo.submit("demo:mlp", "run_inference", tags=["b"])
    assert running.job_id == first.id

    done = dnnamo.cancel(tags=["a"])

    assert (done.ended, done.asked) == (1, 1)
    assert (first.state, queued.state, other.state) == ("running", "cancelled", "queued")
    assert first.record.cancel_requested
    done = dnnamo.cancel(everything=True)
    assert (done.ended, other.state) == (1, "cancelled")


@pytest.mark.parametrize("options", [{}, {"tags": []}, {"tags": ["a"], "everything": True}])
def test_cancelling_many_takes_a_clear_word(session, options):
    job = session.submit(SPEC)

    with pytest.raises(UsageError, match="Say which jobs"):
        dnnamo.cancel(**options)
    assert job.state == "queued"


@pytest.fixture
def elsewhere(session, tmp_path):
    """The session, as if workers ran its jobs; and a model file."""
    session.is_embedded = False
    (tmp_path / "model").mkdir()
    path = tmp_path / "model" / "model.py"
    path.write_text("x = 1")
    return path


def test_a_model_that_runs_elsewhere_brings_its_code(session, elsewhere, tmp_path):
    job = dnnamo.submit(elsewhere, "run_inference")

    assert job.spec.model == str(elsewhere)
    assert (job.spec.bundle.files, job.spec.bundle.folders) == (1, [str(elsewhere.parent)])
    elsewhere.unlink()
    job.unbundle(tmp_path / "again" / "here")
    assert (tmp_path / "again" / "here" / "model.py").read_text() == "x = 1"
    with pytest.raises(UsageError, match="has something in it"):
        job.unbundle(tmp_path / "again")


def test_jobs_of_one_model_share_what_is_stored(session, elsewhere):
    one, other = (dnnamo.submit(elsewhere, "run_inference", params={"batch": batch}).spec for batch in (1, 2))

    assert one.bundle == other.bundle
    spec = JobSpec(model=str(elsewhere), method="run_inference")
    assert session.with_code(spec).bundle == one.bundle


def test_a_data_function_goes_along(session, elsewhere):
    (elsewhere.parent / "net.onnx").touch()
    spec = dnnamo.submit(
        f"onnx:{elsewhere.parent}/net.onnx", "run_inference", params={"data": f"{elsewhere}:make"}
    ).spec

    assert spec.bundle.files == 2
    assert spec.params == {"data": f"{elsewhere}:make"}


def test_what_comes_with_dnnamo_brings_nothing(session, elsewhere):
    job = dnnamo.submit("demo:mlp", "run_inference")

    assert job.spec.bundle is None
    with pytest.raises(UsageError, match="brought no code along"):
        job.unbundle(elsewhere.parent)


def test_without_a_bundle_a_file_need_not_be_here(session, elsewhere):
    spec = dnnamo.submit("/models/on/the/worker.py", "run_inference", bundle=False).spec

    assert (spec.model, spec.bundle) == ("/models/on/the/worker.py", None)
    with pytest.raises(UsageError, match="no model file"):
        dnnamo.submit("/models/on/the/worker.py", "run_inference")


def test_a_model_that_runs_here_must_be_here_and_brings_nothing(session, elsewhere):
    session.is_embedded = True

    assert dnnamo.submit(elsewhere, "run_inference").spec.bundle is None
    with pytest.raises(UsageError, match="no model file"):
        dnnamo.submit("/models/on/the/worker.py", "run_inference", bundle=False)


def test_data_and_settings_of_dnnamo_stay_at_home(session, elsewhere, tmp_path):
    """A model may lie in the data folder, which has passwords."""
    (tmp_path / "config.toml").write_text("# nothing yet")
    (tmp_path / "beside.py").touch()

    spec = dnnamo.submit(tmp_path / "beside.py", "run_inference").spec

    assert spec.bundle.files == 2  # it, and the model below
