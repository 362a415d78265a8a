import json
import subprocess
import sys
from io import BytesIO

import pytest

import dnnamo
from dnnamo.errors import JobNotFound, UsageError
from dnnamo.records import EVENTS_NAME, JobSpec, Operation, Outcome, Profile, ProfiledStep
from tests.trace_file import write_trace


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A data folder of its own, and a broker that is not there: nothing here may need it."""
    monkeypatch.setenv("DNNAMO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DNNAMO_BROKER_URL", "redis://127.0.0.1:1/0")
    monkeypatch.delenv("DNNAMO_DATABASE_URL", raising=False)
    found = dnnamo.client.session().store
    yield tmp_path
    found.close()


@pytest.fixture
def job(home) -> dnnamo.JobHandle:
    return dnnamo.import_trace(write_trace(home / "trace.json"), tags=["theirs"])


def test_an_imported_trace_is_a_job_that_has_succeeded(job, home):
    assert (job.state, job.spec.method, job.spec.n_steps) == ("succeeded", "import_trace", 2)
    assert (job.spec.model, job.spec.tags) == (str(home / "trace.json"), ["theirs"])
    assert [artifact.name for artifact in job.artifacts] == [EVENTS_NAME]
    assert [found.id for found in dnnamo.jobs(method="import_trace", tags=["theirs"])] == [job.id]
    assert job.wait().result.steps is None


def test_a_key_makes_a_repeated_import_the_same_job(home):
    path = write_trace(home / "trace.json")
    first = dnnamo.import_trace(path, key="nightly")

    assert dnnamo.import_trace(path, key="nightly").id == first.id
    assert dnnamo.import_trace(path).id != first.id


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("nowhere.json", None, "There is no file"),
        ("text.txt", "hello", "no profile"),
        ("half.json", '{"a": 3}', "no trace"),
    ],
)
def test_what_is_no_trace_is_refused_and_stores_nothing(home, name, content, says):
    if content is not None:
        (home / name).write_text(content)

    with pytest.raises(UsageError, match=says):
        dnnamo.import_trace(home / name)
    assert dnnamo.jobs() == []


def test_a_relative_path_is_stored_as_an_absolute_one(home, monkeypatch):
    write_trace(home / "trace.json")
    monkeypatch.chdir(home)

    assert dnnamo.import_trace("trace.json").spec.model == str(home / "trace.json")


def test_operations_are_told_at_each_grain(job):
    profile = job.profile

    times = {row.name: (row.calls, row.self_ns, row.total_ns, row.device_ns) for row in profile.ops()}
    assert times["aten::mm"] == (2, 2 * 280_000, 2 * 300_000, 2 * 400_000)
    assert profile.ops()[0].name == profile.ops(top=1)[0].name == "aten::mm"
    assert len(profile.ops(top=1)) == 1
    assert {row.name: row.shapes for row in profile.ops(by="shape")}["aten::mm"] == [[8, 16], [16, 4]]
    assert [(row.name, row.calls, row.device_ns) for row in profile.ops(by="kernel")] == [("gemm", 2, 800_000)]
    assert [(row.number, row.wall_ns) for row in profile.ops(by="step")] == [(0, 900_000), (1, 900_000)]


@pytest.mark.parametrize(
    ("by", "says"), [("shape", "--shapes"), ("layer", "layer"), ("step", "no marked steps"), ("size", "one of name, ")]
)
def test_a_grain_that_the_profile_lacks_is_named_with_what_to_do(home, by, says):
    job = dnnamo.import_trace(write_trace(home / "bare.json", shapes=False, steps=False))

    with pytest.raises(UsageError, match=says):
        job.profile.ops(by=by)


def test_the_figures_are_those_of_the_record(job):
    profile = job.profile

    assert (profile.source, profile.verdict, profile.reasons) == ("kineto", "ok", [])
    assert profile.coverage == pytest.approx(2 * 600 / 1800)
    assert (profile.devices[0].busy_ns, profile.overhead, profile.flops) == (800_000, None, None)
    assert profile.record.events == 12
    assert repr(profile) == f"<profile of job {job.id}: 12 events, ok>"


def test_events_come_whole_or_by_a_stretch_of_time(job):
    whole = job.profile.events()
    first = int(whole.start_ns.min())

    assert len(whole) == 12
    part = job.profile.events(start_ns=first + 600_000, end_ns=first + 640_000)
    assert sorted(part.name.to_list()) == ["ProfilerStep#0", "aten::relu", "gemm"]
    merged = job.profile.events(resolution_ns=10_000_000)
    assert merged.args["merged"].max() > 1


def test_tables_go_over_to_arrow_pandas_and_polars(job):
    profile = job.profile

    assert profile.to_arrow().column("name").to_pylist() == [row.name for row in profile.ops()]
    frame = profile.to_pandas(by="shape").set_index("name")
    assert json.loads(frame.loc["aten::mm", "shapes"]) == [[8, 16], [16, 4]]
    assert str(frame["flops"].dtype) == "Int64"
    assert profile.to_polars(by="step")["wall_ns"].to_list() == [900_000, 900_000]
    assert profile.ops().to_polars().shape == (len(profile.ops()), len(Operation.__struct_fields__))


def test_the_flame_graph_has_host_and_device_time(job):
    (thread,) = job.profile.flame()

    assert thread.name == "main thread"
    step = thread.children[0]
    (linear, relu) = step.children
    assert (linear.name, linear.device_ns, linear.device_total_ns) == ("aten::linear", 0, 400_000)
    assert (relu.name, relu.self_ns) == ("aten::relu", 100_000)


def test_exports_go_to_a_path_or_an_open_file(job, home):
    file = BytesIO()
    job.profile.export("folded", file)
    job.profile.export("folded", home / "stacks.folded")

    assert b"aten::linear;aten::mm 280000" in file.getvalue()
    assert (home / "stacks.folded").read_bytes() == file.getvalue()


def test_a_path_that_ends_with_gz_is_gzipped_and_always_the_same(job, home):
    import gzip

    for name in ("a.csv.gz", "b.csv.gz"):
        job.profile.export("csv", home / name)

    assert (home / "a.csv.gz").read_bytes() == (home / "b.csv.gz").read_bytes()
    assert gzip.decompress((home / "a.csv.gz").read_bytes()).startswith(b'"row"')


def test_an_export_that_fails_leaves_what_was_there(job, home, monkeypatch):
    def fail(*_):
        raise OSError("the disk is full")

    (home / "a.csv").write_text("mine")
    monkeypatch.setattr("dnnamo.profiles.exports.exporter", lambda name: fail)

    with pytest.raises(OSError, match="full"):
        job.profile.export("csv", home / "a.csv")
    assert (home / "a.csv").read_text() == "mine"
    assert sorted(path.name for path in home.glob("*a.csv*")) == ["a.csv"]


def test_a_profile_whose_events_were_not_kept_says_so(home):
    step = ProfiledStep(number=0, wall_ns=5, covered_ns=4, calls=1, self_ns=4)
    record = Profile(source="kineto", events=0, span_ns=5, steps=[step], covered_ns=4, operations={})
    store = dnnamo.client.session().store
    spec = JobSpec(model="/old.json", method="import_trace")
    job_id = store.import_profile(spec, Outcome(state="succeeded", profile=record), files={})

    profile = dnnamo.job(job_id).profile
    assert list(profile.ops()) == []
    with pytest.raises(UsageError, match="events of job .* were not kept"):
        profile.events()


def test_a_job_without_a_profile_says_where_profiles_come_from(home):
    store = dnnamo.client.session().store
    job_id = store.submit(JobSpec(model="demo:mlp", method="run_inference"))
    claim = store.claim(["cpu"], worker="w", lease_s=30)
    store.record(claim, Outcome(state="succeeded"), files={})

    with pytest.raises(UsageError, match="run_inference.*`dnnamo profile`"):
        dnnamo.job(job_id).profile  # noqa: B018
    with pytest.raises(JobNotFound):
        dnnamo.job(job_id + 1)


IMPORT = """
import sys
import dnnamo
job = dnnamo.import_trace(sys.argv[1])
print(job.profile.ops()[0].name)
unwanted = {"torch", "tensorflow", "celery", "redis", "polars"} & set(sys.modules)
assert not unwanted, unwanted
"""


def test_an_import_needs_no_framework_and_no_queue(home):
    path = write_trace(home / "trace.json")
    done = subprocess.run([sys.executable, "-c", IMPORT, str(path)], capture_output=True, text=True, timeout=60)

    assert (done.stdout, done.stderr) == ("aten::mm\n", "")
