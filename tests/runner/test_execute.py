import os
import sys
from pathlib import Path
from textwrap import dedent

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from dnnamo.arrays import write_arrays
from dnnamo.graphs import Graph
from dnnamo.profiles.file import read_events
from dnnamo.records import EVENTS_NAME, METHODS, Artifact, Evidence, JobSpec, Setup
from dnnamo.runner import execute as module
from dnnamo.runner.execute import execute
from dnnamo.runner.progress import Counter
from dnnamo.runner.wire import Request

MODEL = """
import numpy as np
from dnnamo import Model, step

class Given(Model):
    weights = {"bias": np.zeros(3)}

    def get_weights(self, keys=None):
        return self.weights

    def set_weights(self, kv):
        self.weights = dict(kv)

    def run_inference(self, n_steps=1):
        return [self.weights["bias"] + 1] * n_steps

    def run_training(self, n_steps=1):
        return [(0.5, None)] * n_steps
"""


@pytest.fixture(autouse=True)
def imports(monkeypatch, tmp_path):
    """Import path and imported modules as they were, whatever a model file does to them."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    for name, imported in list(sys.modules.items()):
        if str(getattr(imported, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def scratch(tmp_path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def carry_out(tmp_path, scratch):
    """Executes a method of a model file whose text continues `MODEL`, or of any model reference."""

    def carry_out(method, text="", *, model=None, weights=None, counter=None, **options):
        path = tmp_path / "given_model.py"
        path.write_text(f"{MODEL}{dedent(text)}\ndef __dnnamo_loader__(**given): return Given(**given)\n")
        spec = JobSpec(
            model=model or str(path),
            method=method,
            weights="digest" if weights else None,
            **{"n_steps": 2, "warmup": 0} | options,
        )
        return execute(Request(spec=spec, scratch=str(scratch), weights=weights and str(weights)), counter)

    return carry_out


@pytest.fixture
def weights_file(tmp_path):
    def write(**arrays) -> Path:
        path = tmp_path / "given.safetensors"
        write_arrays(path, arrays)
        return path

    return write


def a_method(name, body):
    """The text of a class whose one own method does something else."""
    return f"class Given(Given):\n    def {name}(self, *given, **more):\n        {body}\n"


def test_running_gives_step_times_and_predictions(carry_out, scratch):
    outcome = carry_out("run_inference", warmup=1)

    assert (outcome.state, outcome.cause, outcome.message) == ("succeeded", None, None)
    assert outcome.result.steps.count == len(outcome.result.steps.duration_ns) == 2
    assert outcome.result.steps.warmup.count == len(outcome.result.steps.warmup.duration_ns) == 1
    assert outcome.result.predictions.to_dict() == {"kept": 2, "total": 2, "total_bytes": 48}
    assert outcome.artifacts == [Artifact(name="predictions.safetensors", media_type="application/vnd.safetensors")]
    kept = load_file(scratch / "predictions.safetensors")
    assert {name: value.tolist() for name, value in kept.items()} == {"0": [1, 1, 1], "1": [1, 1, 1]}
    assert outcome.environment.affinity


def test_training_gives_losses_and_scores(carry_out):
    outcome = carry_out(
        "run_training",
        a_method("run_training", "self.loss = getattr(self, 'loss', 4) / 2; return [(self.loss, self.loss > 1)]"),
        n_steps=3,
        warmup=1,
    )

    assert outcome.state == "succeeded"
    assert outcome.result.loss == [1, 0.5, 0.25]
    assert outcome.result.score == [0, 0, 0]
    assert outcome.result.steps.warmup.count == 1
    assert outcome.artifacts == []


class GivenWatch:
    """Stands in for `Watch`, for tests alone: the machine is disturbed as often as `disturbed` says."""

    disturbed = 0

    def __init__(self, gpu: str | None = None) -> None:
        self.gpu = gpu

    def __enter__(self) -> "GivenWatch":
        return self

    def __exit__(self, *_: object) -> None:
        type(self).disturbed -= 1
        reasons = ["other processes took 90 % of the measurement's cores"] if self.disturbed >= 0 else []
        self.evidence = Evidence(wall_ns=1, cores=[0], own_cpu_ns=1, foreign_cpu_ns=9, reasons=reasons)


@pytest.mark.parametrize(
    ("disturbed", "repeats", "repeated", "verdict"),
    [(0, 0, 0, "clean"), (1, 0, 0, "tainted"), (1, 3, 1, "clean"), (3, 3, 3, "clean"), (9, 3, 3, "tainted")],
)
@pytest.mark.parametrize("method", ["run_inference", "run_training"])
def test_a_disturbed_measurement_is_repeated_a_bounded_number_of_times(
    carry_out, monkeypatch, method, disturbed, repeats, repeated, verdict
):
    monkeypatch.setattr(module, "Watch", GivenWatch)
    monkeypatch.setattr(GivenWatch, "disturbed", disturbed)

    outcome = carry_out(method, n_steps=2, repeats=repeats)

    evidence = outcome.result.evidence
    assert (evidence.repeated, evidence.verdict) == (repeated, verdict)
    assert len(outcome.result.steps.duration_ns) == 2


def test_what_is_measured_has_evidence_of_this_machine(carry_out):
    evidence = carry_out("run_inference").result.evidence

    assert set(evidence.cores) == os.sched_getaffinity(0)
    assert evidence.wall_ns > 0


def test_what_is_not_measured_has_none(carry_out):
    assert carry_out("get_weights").result.evidence is None


def test_steps_and_losses_are_told_while_the_job_runs(carry_out, tmp_path):
    counter = Counter()
    seen = []
    counter.counted = lambda: seen.append("step")
    counter.keep_loss = lambda loss: seen.append(loss)
    counter.warmed_up = lambda: seen.append("warm-up")

    carry_out("run_training", n_steps=2, warmup=1, counter=counter)

    assert seen == ["warm-up", 0.5, "step", 0.5, "step", 0.5]


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        ("MemoryError()", "oom_host"),
        ('RuntimeError("[enforce fail] DefaultCPUAllocator: can\'t allocate memory: you tried")', "oom_host"),
        ("type('OutOfMemoryError', (RuntimeError,), {})('CUDA out of memory')", "oom_device"),
        ("type('ResourceExhaustedError', (Exception,), {})('OOM on /job:0/device:GPU:0 by')", "oom_device"),
        ("type('ResourceExhaustedError', (Exception,), {})('OOM on /job:0/device:CPU:0 by')", "oom_host"),
        ("RuntimeError('memory of a better time')", "user_error"),
    ],
)
def test_want_of_memory_is_told_by_where_it_was(carry_out, error, cause):
    assert carry_out("run_training", a_method("run_training", f"raise {error}")).cause == cause


def test_params_reach_the_loader_as_keyword_arguments_of_their_json_types(carry_out):
    text = """
    class Given(Given):
        def __init__(self, **given): self.given = given
        def run_training(self, n_steps=1): raise ValueError(sorted(self.given.items()))
    """
    params = {"batch": 16, "deep": False, "rate": 0.5, "sizes": [1]}

    outcome = carry_out("run_training", text, params=params)

    assert str(sorted(params.items())) in outcome.message


def test_weights_are_kept_as_an_artifact(carry_out, scratch):
    outcome = carry_out(
        "get_weights", "Given.weights = {'a': np.arange(6).reshape(2, 3).T, 'b': [True], 3: np.float16(2)}"
    )

    assert [artifact.name for artifact in outcome.artifacts] == ["weights.safetensors"]
    kept = load_file(scratch / "weights.safetensors")
    assert kept["a"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert kept["a"].dtype == np.int64
    assert kept["b"].tolist() == [True]
    assert kept["3"].dtype == np.float16


def test_weights_without_dimensions_keep_their_shape(carry_out, scratch):
    carry_out("get_weights", "Given.weights = {'count': np.array(7)}")

    assert load_file(scratch / "weights.safetensors")["count"].shape == ()


@pytest.mark.parametrize(
    ("keys", "kept"),
    [
        (["b"], ["b"]),
        (["b", "a.x"], ["b", "a.x"]),
        (["a.*"], ["a.x", "a.y"]),
        (["?", "a.y"], ["b", "a.y"]),
    ],
)
def test_only_weights_that_the_keys_stand_for_are_kept(carry_out, scratch, keys, kept):
    outcome = carry_out("get_weights", "Given.weights = {'a.x': [1.0], 'a.y': [2.0], 'b': [3.0]}", keys=keys)

    assert outcome.message is None
    assert sorted(load_file(scratch / "weights.safetensors")) == sorted(kept)


def test_a_pattern_that_stands_for_no_weight_is_named_with_the_nearest(carry_out):
    outcome = carry_out("get_weights", "Given.weights = {'a.x': [1.0]}", keys=["a.x*", "b.*"])

    assert outcome.cause == "user_error"
    assert "The model has no weights named 'b.*'" in outcome.message


def test_weights_that_are_not_a_number_are_refused_and_infinities_taken(carry_out, weights_file):
    values = np.array([1, np.nan, np.inf, np.nan], np.float32)
    given = weights_file(bias=np.ones(3), mask=np.full(2, -np.inf), scale=values.astype(ml_dtypes.bfloat16))

    outcome = carry_out("set_weights", weights=given)

    assert (outcome.state, outcome.cause) == ("failed", "user_error")
    assert "No weight was changed: 1 of the 3 given" in outcome.message
    assert "scale (2 of 4)" in outcome.message


def test_weights_that_were_kept_can_be_set_again(carry_out, scratch):
    if "CI" not in os.environ:
        pytest.importorskip("torch")
    kept = carry_out("get_weights", model="demo:cnn", params={"batch": 1})
    path = (scratch / "weights.safetensors").rename(scratch / "kept.safetensors")

    outcome = carry_out("set_weights", model="demo:cnn", params={"batch": 1}, weights=path)

    assert kept.state == "succeeded"
    assert (outcome.state, outcome.message) == ("succeeded", None)


def test_weights_from_a_file_are_set_before_the_method_is_called(carry_out, weights_file, scratch):
    outcome = carry_out("run_inference", weights=weights_file(bias=np.array([1.0, 2.0, 3.0])))

    assert outcome.state == "succeeded"
    assert load_file(scratch / "predictions.safetensors")["0"].tolist() == [2, 3, 4]


def test_setting_weights_alone_succeeds_and_leaves_no_files(carry_out, weights_file, scratch):
    outcome = carry_out("set_weights", weights=weights_file(bias=np.ones(3)))

    assert (outcome.state, outcome.result.steps, outcome.artifacts) == ("succeeded", None, [])
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("method", ["get_inference_graph", "get_training_graph"])
def test_graphs_are_kept_as_an_artifact(carry_out, monkeypatch, scratch, method):
    monkeypatch.setattr(module, "render_graph", lambda graph: ("graph.py", graph.encode()))

    outcome = carry_out(method, a_method(method, "return 'the graph'"))

    assert outcome.artifacts == [Artifact(name="graph.py", media_type="text/x-python")]
    assert (scratch / "graph.py").read_text() == "the graph"


OWN_GRAPH = """
from dnnamo.graphs import Graph, GraphOperation, GraphTensor
graph = Graph(
    source="given",
    operations=[GraphOperation(number=0, name="o", kind="k" * length, outputs=[made])],
    tensors=[GraphTensor(number=0, name="t", shape=[1])],
)
return graph
"""


def own_graph(length: int = 1, made: int = 0) -> str:
    body = "\n        ".join(OWN_GRAPH.replace("length", str(length)).replace("made", str(made)).split("\n"))
    return a_method("get_training_graph", body)


def test_a_graph_that_the_model_made_itself_is_kept_as_it_is(carry_out, scratch):
    outcome = carry_out("get_training_graph", own_graph())

    assert outcome.artifacts == [Artifact(name="graph.json", media_type="application/json")]
    assert (outcome.graph.source, outcome.graph.operations[0].kind) == ("given", "k")
    assert Graph.from_json((scratch / "graph.json").read_bytes()) == outcome.graph


def test_a_graph_that_does_not_hang_together_is_the_models_fault(carry_out):
    outcome = carry_out("get_training_graph", own_graph(made=5))

    assert (outcome.state, outcome.cause) == ("failed", "user_error")
    assert "Operation 'o' names tensor 5; the graph's tensors are 0 to 0." in outcome.message


def test_a_graph_that_is_too_large_to_store_says_so(carry_out, monkeypatch):
    monkeypatch.setattr(module, "MAX_GRAPH_BYTES", 2**20)
    outcome = carry_out("get_training_graph", own_graph(length=2**20))

    assert (outcome.state, outcome.cause, outcome.graph) == ("failed", "user_error", None)
    assert "of names, shapes and edges, more than the 1.00 MiB that are stored." in outcome.message


@pytest.mark.parametrize("method", ["get_inference_graph", "get_training_graph"])
@pytest.mark.parametrize("name", ["mlp", "cnn", "transformer", "keras_mlp", "keras_cnn"])
def test_the_graph_of_each_demo_is_read(carry_out, scratch, name, method):
    if "CI" not in os.environ:
        pytest.importorskip("tensorflow" if "keras" in name else "torch")
    outcome = carry_out(method, model=f"demo:{name}", params={"batch": 3})

    assert (outcome.state, outcome.message) == ("succeeded", None)
    suffix = "pb" if "keras" in name else "pt2" if "inference" in method else "py"
    assert [artifact.name for artifact in outcome.artifacts] == [f"graph.{suffix}"]
    (given, *_) = (outcome.graph.tensors[number] for number in outcome.graph.inputs)
    assert given.shape[0] == 3
    kept = carry_out("get_weights", model=f"demo:{name}", params={"batch": 3})
    assert kept.graph is None
    weights = {it.name: it.shape for it in outcome.graph.tensors if it.role == "weight"}
    assert weights == {key: list(it.shape) for key, it in load_file(scratch / "weights.safetensors").items()}


PROFILED = """
from dnnamo import step
from dnnamo.profiles.events import Events, Texts
from dnnamo.profiles.recording import Recording
from dnnamo.records import Profile

def recording(n_steps=1, step_ns=1000, **given):
    "A profile of steps that follow each other, in each of which one operation runs half of the time."
    names = [name for number in range(n_steps) for name in (str(number), "matmul")]
    starts = [step_ns * number for number in range(n_steps) for _ in range(2)]
    columns = {
        "name": Texts.of(names),
        "category": Texts.of(["step", "cpu_op"] * n_steps),
        "process": Texts.same("1", len(names)),
        "thread": Texts.same("1", len(names)),
        "start_ns": np.array(starts),
        "duration_ns": np.array([step_ns, step_ns // 2] * n_steps),
    }
    return Recording(source="given", events=Events.of(columns, {}), **given)

class Given(Given):
    def run_inference(self, n_steps=1):
        print(f"run {n_steps}")
        return super().run_inference(n_steps)

    def run_training(self, n_steps=1):
        print(f"run {n_steps}")
        return super().run_training(n_steps)

    def profile_inference(self, n_steps=1):
        print(f"profile {n_steps}")
        return recording(n_steps)

    profile_training = profile_inference

    def get_intermediates(self):
        return {}
"""


@pytest.fixture
def calls(capsys):
    """What was called of the models that were executed, in order, as they print it."""
    return lambda: capsys.readouterr().out.splitlines()


def only_profiles(body):
    """The text of a model that cannot run what it profiles."""
    return f"{PROFILED}\nclass Given:\n    def profile_inference(self, n_steps=1):\n        {body}\n"


@pytest.mark.parametrize("method", ["profile_inference", "profile_training"])
def test_a_profile_is_reported_and_its_events_are_kept(carry_out, scratch, method):
    outcome = carry_out(method, PROFILED, n_steps=3)

    assert (outcome.state, outcome.message) == ("succeeded", None)
    assert outcome.profile.source == "given"
    assert outcome.profile.step_ns == [1000, 1000, 1000]
    assert [(row.name, row.calls, row.self_ns) for row in outcome.profile.operations["name"]] == [("matmul", 3, 1500)]
    assert outcome.artifacts == [Artifact(name=EVENTS_NAME, media_type="application/vnd.apache.parquet")]
    events, metadata = read_events(scratch / EVENTS_NAME)
    assert events.name.to_list() == ["0", "matmul", "1", "matmul", "2", "matmul"]
    assert events.step.tolist() == [0, 0, 1, 1, 2, 2]
    assert metadata["source"] == "given"


@pytest.mark.parametrize(("n_steps", "before", "after"), [(1, 1, 1), (2, 1, 1), (5, 3, 2)])
def test_unprofiled_steps_run_before_and_after_and_are_what_a_step_takes(carry_out, calls, n_steps, before, after):
    outcome = carry_out("profile_training", PROFILED, n_steps=n_steps, warmup=2)

    assert calls() == ["run 1"] * (2 + before) + [f"profile {n_steps}"] + ["run 1"] * after
    overhead, steps = outcome.profile.overhead, outcome.result.steps
    assert (len(overhead.before_ns), len(overhead.after_ns)) == (before, after)
    assert steps.duration_ns == [*overhead.before_ns, *overhead.after_ns]
    assert (steps.count, steps.warmup.count) == (before + after, 2)


def test_the_overhead_is_by_the_models_own_marks_before_the_profilers(carry_out):
    marked = """
    class Given(Given):
        def profile_inference(self, n_steps=1):
            for _ in range(n_steps):
                with step(): pass
            return recording(n_steps, step_ns=10**15)
    """

    by_mark = carry_out("profile_inference", PROFILED + dedent(marked)).profile.overhead
    by_profile = carry_out("profile_inference", PROFILED).profile.overhead

    assert by_mark.profiled_ns < 10**15
    assert by_profile.profiled_ns == 1000


def test_unprofiled_steps_can_be_left_out(carry_out, calls):
    outcome = carry_out("profile_inference", PROFILED, paired=False, n_steps=4, warmup=1)

    assert calls() == ["run 1", "profile 4"]
    assert outcome.profile.overhead is None
    assert (outcome.result.steps.count, outcome.result.steps.duration_ns) == (4, [])


def test_a_model_that_cannot_run_is_profiled_alone(carry_out):
    outcome = carry_out("profile_inference", only_profiles("return recording(n_steps)"), n_steps=4, warmup=5)

    assert outcome.profile.overhead is None
    assert (outcome.result.steps.count, outcome.result.steps.duration_ns) == (4, [])
    assert outcome.result.steps.warmup.count == 0


def test_progress_counts_the_profiled_steps(carry_out):
    counter = Counter()
    seen = []
    counter.counted = lambda: seen.append("step")
    counter.warmed_up = lambda: seen.append("warm-up")
    marked = """
    class Given(Given):
        def profile_inference(self, n_steps=1):
            for _ in range(n_steps):
                with step(): pass
            return recording(n_steps)
    """

    carry_out("profile_inference", PROFILED + dedent(marked), n_steps=3, warmup=1, counter=counter)

    assert seen == ["warm-up", "step", "step", "step"]


def test_a_loss_that_is_not_finite_in_an_unprofiled_step_is_an_error(carry_out):
    text = PROFILED + a_method("run_training", "return [(np.nan, None)]")

    outcome = carry_out("profile_training", text)

    assert "The loss of unprofiled step 0 is nan" in outcome.message


def test_evidence_of_a_disturbed_machine_counts_against_the_profile(carry_out, monkeypatch):
    monkeypatch.setattr(module, "Watch", GivenWatch)
    monkeypatch.setattr(GivenWatch, "disturbed", 1)

    outcome = carry_out("profile_inference", PROFILED)

    assert outcome.result.evidence.verdict == "tainted"
    assert outcome.profile.verdict == "degraded"
    assert any("other processes took 90 %" in reason for reason in outcome.profile.reasons)


def test_a_disturbed_profile_is_made_again_and_read_once(carry_out, calls, monkeypatch):
    monkeypatch.setattr(module, "Watch", GivenWatch)
    monkeypatch.setattr(GivenWatch, "disturbed", 2)

    outcome = carry_out("profile_inference", PROFILED, repeats=3)

    assert outcome.result.evidence.repeated == 2
    assert calls() == ["run 1", "profile 2", "run 1"] * 3
    assert len(outcome.result.steps.duration_ns) == 2
    assert outcome.profile.events == 4


def test_native_files_are_kept_beside_the_events(carry_out, scratch, tmp_path):
    (tmp_path / "given.bin").write_bytes(b"from a file")
    native = f"{{'trace.xplane.pb': b'native', 'given.bin': Path({str(tmp_path / 'given.bin')!r})}}"
    text = PROFILED + a_method("profile_inference", f"from pathlib import Path; return recording(2, native={native})")

    outcome = carry_out("profile_inference", text)

    assert {artifact.name: artifact.media_type for artifact in outcome.artifacts} == {
        EVENTS_NAME: "application/vnd.apache.parquet",
        "trace.xplane.pb": "application/x-protobuf",
        "given.bin": "application/octet-stream",
    }
    assert (scratch / "trace.xplane.pb").read_bytes() == b"native"
    assert (scratch / "given.bin").read_bytes() == b"from a file"


def test_what_the_profiler_did_not_record_of_what_was_asked_for_is_said(carry_out):
    outcome = carry_out(
        "profile_inference",
        PROFILED + a_method("profile_inference", "return recording(2, header={'limits': ['It is a fake.']})"),
        capture=["shapes", "memory", "stacks", "flops"],
    )

    assert outcome.profile.notes == [
        "It is a fake.",
        "This model counts no floating-point operations: it has no count_flops.",
        "The job asked for input shapes, which the model's profiler did not record.",
        "The job asked for allocations and releases, which the model's profiler did not record.",
        "The job asked for Python's calls, which the model's profiler did not record.",
    ]
    assert outcome.profile.flops is None


def test_a_model_is_told_what_to_record(carry_out):
    body = "from dnnamo.model import requested_capture; raise ValueError(sorted(requested_capture()))"

    outcome = carry_out(
        "profile_inference", PROFILED + a_method("profile_inference", body), capture=["stacks", "shapes"]
    )

    assert "['shapes', 'stacks']" in outcome.message


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_flops_are_counted_in_a_step_after_all_others(carry_out, calls, mode):
    counts = """
    from dnnamo.profiles.flops import CountedOperation

    class Given(Given):
        def count_flops(self, mode):
            print(f"count {mode}")
            return [CountedOperation(name="matmul", shapes=None, layer=None, calls=1, flops=64)]
    """

    outcome = carry_out(f"profile_{mode}", PROFILED + dedent(counts), capture=["flops"])

    assert calls() == ["run 1", "profile 2", "run 1", f"count {mode}"]
    assert outcome.profile.flops.flops == 64
    assert outcome.profile.operations["name"][0].flops == 2 * 64
    assert outcome.profile.notes == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise OSError('not here')", "OSError: not here."),
        ("return [1]", "ModelError: count_flops must return a list of dnnamo.profiles.flops.CountedOperation."),
    ],
)
def test_a_count_of_flops_that_fails_leaves_the_profile_as_it_is(carry_out, capfd, body, says):
    outcome = carry_out("profile_inference", PROFILED + a_method("count_flops", body), capture=["flops"])

    assert (outcome.state, outcome.profile.flops) == ("succeeded", None)
    assert outcome.profile.notes == [f"The model's floating-point operations could not be counted: {says}"]
    assert "Traceback (most recent call last)" in capfd.readouterr().err


@pytest.mark.parametrize("method", ["profile_inference", "profile_training"])
@pytest.mark.parametrize("name", ["mlp", "cnn", "transformer"])
def test_demos_are_profiled_from_end_to_end(carry_out, scratch, name, method):
    if "CI" not in os.environ:
        pytest.importorskip("torch")

    outcome = carry_out(method, model=f"demo:{name}", params={"batch": 1})

    assert (outcome.state, outcome.message) == ("succeeded", None)
    assert len(outcome.profile.step_ns) == 2
    assert {"name", "layer"} == set(outcome.profile.operations)
    assert len(outcome.profile.overhead.before_ns) == 1
    assert outcome.environment.libraries["torch"]
    assert len(read_events(scratch / EVENTS_NAME)[0]) == outcome.profile.events


def test_everything_is_captured_of_a_demo_that_is_asked_for(carry_out):
    if "CI" not in os.environ:
        pytest.importorskip("torch")

    outcome = carry_out(
        "profile_training", model="demo:mlp", params={"batch": 1}, capture=["shapes", "memory", "stacks", "flops"]
    )

    assert outcome.profile.notes == []
    assert {"name", "shape", "layer"} == set(outcome.profile.operations)
    assert outcome.profile.peak_bytes["cpu"] > 0
    assert outcome.profile.flops.coverage == 1
    by_shape = [row for row in outcome.profile.operations["shape"] if row.name == "aten::addmm"]
    assert sum(row.flops for row in by_shape) == 2 * 2 * (64 * 256 + 256 * 256 + 256 * 10)
    by_layer = {row.name: row.flops for row in outcome.profile.operations["layer"]}
    assert by_layer["2"] >= 2 * 3 * 2 * 256 * 256


RETURNED = {
    "torch": """
        import torch
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as finished:
            torch.ones(3) + 1
        return finished
    """,
    "a trace that torch exported": """
        import torch
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as finished:
            torch.ones(3) + 1
        finished.export_chrome_trace(path + "/trace.json")
        return path + "/trace.json"
    """,
    "a trace as a path": """
        import json
        from pathlib import Path
        event = {"ph": "X", "cat": "cpu_op", "name": "aten::add", "ts": 1.5, "dur": 2, "pid": 1, "tid": 1}
        Path(path, "other.json").write_text(json.dumps({"traceEvents": [event]}))
        return Path(path, "other.json")
    """,
    "xspace": """
        import tensorflow as tf
        tf.profiler.experimental.start(path)
        tf.ones((64, 64)) @ tf.ones((64, 64))
        tf.profiler.experimental.stop()
        return next(Path(path).rglob("*.xplane.pb")).read_bytes()
    """,
    "a log folder": """
        import tensorflow as tf
        tf.profiler.experimental.start(path)
        tf.ones((64, 64)) @ tf.ones((64, 64))
        tf.profiler.experimental.stop()
        return path
    """,
    "run metadata": """
        import tensorflow as tf
        metadata = tf.compat.v1.RunMetadata()
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            product = tf.linalg.matmul(*[tf.random.uniform((64, 64))] * 2)
            options = tf.compat.v1.RunOptions(trace_level=tf.compat.v1.RunOptions.FULL_TRACE)
            session.run(product, options=options, run_metadata=metadata)
        return metadata
    """,
    "recording": "return recording(n_steps)",
}


@pytest.mark.parametrize(
    ("kind", "source", "operation"),
    [
        ("torch", "kineto", "aten::add"),
        ("a trace that torch exported", "kineto", "aten::add"),
        ("a trace as a path", "chrome", "aten::add"),
        ("xspace", "xspace", "MatMul"),
        ("a log folder", "xspace", "MatMul"),
        ("run metadata", "run_metadata", "RandomUniform"),  # oneDNN puts its own in place of MatMul
        ("recording", "given", "matmul"),
    ],
)
def test_a_model_of_the_users_own_may_return_any_kind_of_profile(carry_out, tmp_path, kind, source, operation):
    body = dedent(RETURNED[kind])
    if "CI" not in os.environ:
        for framework in ("torch", "tensorflow"):
            if f"import {framework}" in body:
                pytest.importorskip(framework)
    lines = [f"path = {str(tmp_path)!r}", "from pathlib import Path", *body.strip().splitlines()]

    outcome = carry_out("profile_inference", only_profiles("\n        ".join(lines)), n_steps=1)

    assert (outcome.state, outcome.message) == ("succeeded", None)
    assert outcome.profile.source == source
    assert operation in {row.name for row in outcome.profile.operations["name"]}
    assert outcome.artifacts[0].name == EVENTS_NAME


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("3", "An object of type builtins.int holds no profile"),
        ("None", "An object of type builtins.NoneType holds no profile"),
        ("b'GIF89a'", "A bytes object of 6 bytes holds no profile"),
        ("'/absent/trace.json'", "/absent/trace.json"),
    ],
)
def test_what_is_no_profile_is_the_models_fault_and_the_error_lists_what_is(carry_out, tmp_path, value, says):
    outcome = carry_out("profile_inference", only_profiles(f"return {value}"))

    assert (outcome.state, outcome.cause) == ("failed", "user_error")
    assert f"What profile_inference of {tmp_path}/given_model.py returned is no profile: " in outcome.message
    assert says in outcome.message
    if "holds no profile" in says:
        for kind in ("torch.profiler.profile", "trace file", "log folder", "XSpace", "RunMetadata", "Recording"):
            assert kind in outcome.message


def test_a_profiler_that_still_runs_is_named(carry_out):
    if "CI" not in os.environ:
        pytest.importorskip("torch")

    outcome = carry_out("profile_inference", only_profiles("import torch; return torch.profiler.profile()"))

    assert "was not run, or is still running" in outcome.message


def test_predictions_are_kept_up_to_a_budget_first_step_first(carry_out, scratch, monkeypatch):
    monkeypatch.setattr(module, "PREDICTION_BYTES", 100)

    outcome = carry_out("run_inference", n_steps=6)

    assert outcome.result.predictions.to_dict() == {"kept": 4, "total": 6, "total_bytes": 144}
    assert set(load_file(scratch / "predictions.safetensors")) == {"0", "1", "2", "3"}


def test_a_budget_that_is_spent_exactly_is_not_exceeded(carry_out, monkeypatch):
    monkeypatch.setattr(module, "PREDICTION_BYTES", 48)

    assert carry_out("run_inference", n_steps=2).result.predictions.kept == 2


def test_predictions_that_are_all_too_large_leave_no_file(carry_out, scratch, monkeypatch):
    monkeypatch.setattr(module, "PREDICTION_BYTES", 10)

    outcome = carry_out("run_inference")

    assert outcome.result.predictions.to_dict() == {"kept": 0, "total": 2, "total_bytes": 48}
    assert (outcome.artifacts, list(scratch.iterdir())) == ([], [])


@pytest.mark.parametrize("value", ["'a cat'", "None", "{'a': 1}", "object()", "[[1], [1, 2]]", "1j"])
def test_predictions_that_are_no_arrays_are_not_kept(carry_out, value):
    outcome = carry_out("run_inference", a_method("run_inference", f"return [{value}]"))

    assert (outcome.state, outcome.result.predictions, outcome.artifacts) == ("succeeded", None, [])


def test_a_prediction_that_is_a_number_is_kept_without_dimensions(carry_out, scratch):
    carry_out("run_inference", a_method("run_inference", "return [0.5]"))

    assert load_file(scratch / "predictions.safetensors")["0"].shape == ()


@pytest.mark.parametrize("options", ["requires_grad=True", "dtype=torch.bfloat16"])
def test_predictions_that_numpy_cannot_take_do_not_fail_the_job(carry_out, options):
    if "CI" not in os.environ:
        pytest.importorskip("torch")
    body = f"import torch; return [torch.ones(2, {options})]"

    outcome = carry_out("run_inference", a_method("run_inference", body))

    assert (outcome.state, outcome.message) == ("succeeded", None)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_raises_is_a_user_error_that_says_where(carry_out, weights_file, method, capfd, tmp_path):
    weights = weights_file(bias=np.ones(3)) if method == "set_weights" else None

    outcome = carry_out(method, a_method(method, "raise ValueError('no good')"), weights=weights)

    line = (tmp_path / "given_model.py").read_text()[: (tmp_path / "given_model.py").read_text().index("raise")]
    assert (outcome.state, outcome.cause) == ("failed", "user_error")
    assert f"The {method} of {tmp_path}/given_model.py raised ValueError: no good" in outcome.message
    assert f"{tmp_path}/given_model.py:{line.count(chr(10)) + 1}" in outcome.message
    assert "log" in outcome.message
    assert outcome.environment.affinity
    assert "Traceback (most recent call last)" in capfd.readouterr().err


def test_a_failure_keeps_nothing_of_what_was_done(carry_out):
    text = a_method("run_training", "self.n = getattr(self, 'n', 0) + 1; return [(0.5 if self.n < 3 else 'x', None)]")

    outcome = carry_out("run_training", text, n_steps=5)

    assert (outcome.state, outcome.result, outcome.profile, outcome.artifacts) == ("failed", None, None, [])


@pytest.mark.parametrize(
    "text", ["raise RuntimeError('no good')", "class Given:\n    def __init__(self): raise RuntimeError('no good')"]
)
def test_a_loader_that_raises_is_named_as_the_loader(carry_out, text):
    outcome = carry_out("run_inference", text)

    assert outcome.cause == "user_error"
    assert "The loader of " in outcome.message
    assert "RuntimeError: no good at " in outcome.message
    assert "given_model.py:" in outcome.message


def test_a_file_whose_own_import_fails_shows_that_error(carry_out):
    outcome = carry_out("run_inference", "import absent_given_library")

    assert outcome.cause == "user_error"
    assert "ModuleNotFoundError: No module named 'absent_given_library'" in outcome.message
    assert "There is no" not in outcome.message


@pytest.mark.parametrize("error", ["SystemExit(3)", "KeyboardInterrupt", "GeneratorExit", "StopIteration('x')"])
def test_nothing_that_user_code_raises_escapes(carry_out, error):
    outcome = carry_out("run_inference", a_method("run_inference", f"raise {error}"))

    assert (outcome.state, outcome.cause) == ("failed", "user_error")
    assert f"raised {error.partition('(')[0]}" in outcome.message


def test_an_error_that_cannot_say_what_it_is_does_not_escape(carry_out):
    text = """
    class Mute(Exception):
        def __str__(self): raise RuntimeError("not me")
    class Given(Given):
        def run_inference(self, n_steps=1): raise Mute
    """

    outcome = carry_out("run_inference", text)

    assert (outcome.state, outcome.cause) == ("failed", "user_error")
    assert "raised Mute" in outcome.message


def test_a_message_with_half_a_surrogate_pair_can_be_reported(carry_out):
    outcome = carry_out(
        "run_inference", a_method("run_inference", "raise OSError(b'caf\\xe9'.decode('utf-8', 'surrogateescape'))")
    )

    assert type(outcome).from_json(outcome.to_json()).cause == "user_error"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        ("MemoryError", "oom_host"),
        ("type('OutOfMemoryError', (RuntimeError,), {})('full')", "oom_device"),
        ("type('Later', (type('OutOfMemoryError', (RuntimeError,), {}),), {})('full')", "oom_device"),
        ("NotImplementedError('later')", "user_error"),
    ],
)
def test_causes_tell_what_ran_out(carry_out, error, cause):
    outcome = carry_out("run_inference", a_method("run_inference", f"raise {error}"))

    assert outcome.cause == cause


def test_memory_that_the_host_lacks_is_the_cause(carry_out):
    outcome = carry_out("run_inference", a_method("run_inference", "return [np.ones((2**40, 2**10))]"))

    assert outcome.cause == "oom_host"
    assert "MemoryError" in outcome.message


@pytest.mark.parametrize("method", [method for method in METHODS if "profile" in method or "graph" in method])
def test_a_method_that_the_model_lacks_is_named_with_those_that_it_has(carry_out, method, tmp_path):
    outcome = carry_out(method)

    assert (outcome.state, outcome.cause) == ("failed", "unsupported")
    assert outcome.message == (
        f"The model {tmp_path}/given_model.py does not implement {method}. "
        "It implements get_weights, set_weights, run_inference, run_training."
    )


def test_weights_for_a_model_that_takes_none_are_unsupported(carry_out, weights_file):
    text = "class Given:\n    def run_inference(self, n_steps=1): return [1.0]"

    outcome = carry_out("run_inference", text, weights=weights_file(bias=np.ones(3)))

    assert outcome.cause == "unsupported"
    assert "does not implement set_weights. It implements run_inference." in outcome.message


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"0.weight": np.ones((2, 2))}, "0.weight has shape [2, 2], the model's is [256, 64]"),
        (
            {"0.wieght": np.ones(2)},
            "The model has no weights named '0.wieght' (the nearest is '0.weight'); nothing was changed.",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(carry_out, weights_file, arrays, says):
    if "CI" not in os.environ:
        pytest.importorskip("torch")

    outcome = carry_out("run_inference", model="demo:mlp", weights=weights_file(**arrays))

    assert outcome.cause == "user_error"
    assert says in outcome.message


@pytest.mark.parametrize(("warmup", "phase"), [(2, "warm-up step 1"), (0, "training step 1")])
def test_a_loss_that_is_not_finite_names_phase_and_step(carry_out, warmup, phase):
    text = a_method("run_training", "self.n = getattr(self, 'n', 0) + 1; return [(np.nan if self.n == 2 else 1, None)]")

    outcome = carry_out("run_training", text, warmup=warmup, n_steps=3)

    assert outcome.cause == "user_error"
    assert f"The loss of {phase} is nan" in outcome.message


@pytest.mark.parametrize(
    ("method", "value", "says"),
    [
        ("run_inference", "None", "run_inference must return a list of one item a step; it returned a NoneType."),
        ("run_inference", "[1, 2]", "asked for 1 steps and returned a list of 2 items"),
        ("run_training", "['low']", "the loss of step 0 is a str"),
        ("get_weights", "[1]", "get_weights must return a dict from identifiers to arrays, not a list."),
        (
            "get_weights",
            "{'a': 1, 'b': 'x', 'c': None}",
            "get_weights returned values that are no arrays of numbers: b, c.",
        ),
        ("get_intermediates", "3", "get_intermediates must return a dict from identifiers to arrays, not a int."),
        ("get_inference_graph", "3", "The model returned a graph of type builtins.int"),
        ("profile_inference", "{}", "An object of type builtins.dict holds no profile that Dnnamo can read."),
    ],
)
def test_a_method_that_returns_something_else_says_what(carry_out, method, value, says):
    outcome = carry_out(method, a_method(method, f"return {value}"))

    assert (outcome.state, outcome.cause) == ("failed", "user_error")
    assert says in outcome.message


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("/absent/model.py", "There is no model file /absent/model.py"),
        ("absent_given.model", "There is no module 'absent_given.model'"),
        ("demo:mpl", "There is no demo:mpl. Did you mean demo:mlp?"),
    ],
)
def test_a_model_that_is_not_there_is_a_user_error(carry_out, reference, says):
    outcome = carry_out("run_inference", model=reference)

    assert outcome.cause == "user_error"
    assert says in outcome.message


def refuses(device):
    raise module.Unsupported(f"no {device} here")


CONFIGURED = """
class Given(Given):
    def configure(self, setup):
        if setup.jit_compile:
            from dnnamo.errors import Unsupported
            raise Unsupported("it has no XLA")
        self.weights = {"bias": np.full(3, setup.accumulate + (setup.precision == "float16"))}
"""


def test_a_model_is_set_up_as_the_job_asks_and_before_its_weights_are_set(carry_out, scratch, weights_file):
    setup = Setup(precision="float16")
    assert carry_out("get_weights", CONFIGURED, setup=setup).state == "succeeded"
    assert load_file(scratch / "weights.safetensors")["bias"].tolist() == [2, 2, 2]

    carry_out("get_weights", CONFIGURED, setup=setup, weights=weights_file(bias=np.zeros(3)))
    assert load_file(scratch / "weights.safetensors")["bias"].tolist() == [0, 0, 0]


def test_a_model_is_not_set_up_where_nothing_is_asked_for(carry_out, scratch):
    assert carry_out("get_weights", CONFIGURED).state == "succeeded"
    assert load_file(scratch / "weights.safetensors")["bias"].tolist() == [0, 0, 0]


def test_options_that_a_model_does_not_take_are_unsupported(carry_out):
    outcome = carry_out("run_inference", setup=Setup(precision="float16", channels_last=True))

    assert (outcome.state, outcome.cause) == ("failed", "unsupported")
    assert "precision=float16, channels_last=True" in outcome.message
    assert "given_model.py has no method configure" in outcome.message


def test_an_option_that_a_model_cannot_do_is_unsupported_with_its_reason(carry_out):
    outcome = carry_out("run_inference", CONFIGURED, setup=Setup(jit_compile=True))

    assert outcome.cause == "unsupported"
    assert "given_model.py cannot be set up with jit_compile=True: it has no XLA" in outcome.message


@pytest.mark.parametrize(("setup", "cause"), [(Setup(precision="float16"), "unsupported"), (Setup(), "user_error")])
def test_an_operation_that_a_number_type_lacks_is_unsupported(carry_out, setup, cause):
    refusing = a_method("run_inference", "raise NotImplementedError('not implemented for Half')")

    assert carry_out("run_inference", CONFIGURED + refusing, setup=setup).cause == cause


RANDOM = """
import random
made = random.random()
class Given(Given):
    def __init__(self): self.given = [random.random() + np.random.random()]
    def run_training(self, n_steps=1): return [made + random.random()] * n_steps
    def get_weights(self, keys=None): return {"made": np.array([made]), "given": np.array(self.given)}
"""


def test_with_a_seed_a_model_is_made_and_trained_of_the_same_numbers(carry_out, scratch):
    def numbers(seed):
        carry_out("get_weights", RANDOM, seed=seed)
        weights = load_file(scratch / "weights.safetensors")
        outcome = carry_out("run_training", RANDOM, seed=seed, warmup=None)
        assert outcome.result.steps.warmup.count == 5
        return weights["made"][0], weights["given"][0], outcome.result.loss

    assert numbers(1) == numbers(1)
    assert all(one != two for one, two in zip(numbers(1), numbers(2), strict=True))


def test_a_device_that_no_framework_in_use_has_is_unsupported(carry_out, monkeypatch):
    framework = type("Framework", (), {"check_device": staticmethod(refuses)})
    monkeypatch.setattr(module, "in_use", lambda: [framework, framework])

    outcome = carry_out("run_inference", device="gpu")

    assert (outcome.cause, outcome.message) == ("unsupported", "no gpu here")


def test_a_device_that_one_framework_in_use_has_will_do(carry_out, monkeypatch):
    frameworks = [type("Framework", (), {"check_device": staticmethod(check)}) for check in (refuses, lambda _: None)]
    monkeypatch.setattr(module, "in_use", lambda: frameworks)

    assert carry_out("run_inference", device="gpu").state == "succeeded"
