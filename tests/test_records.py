import json
from datetime import UTC, datetime

import msgspec
import pytest

from dnnamo.errors import UsageError
from dnnamo.records import (
    METHODS,
    Artifact,
    Attempt,
    Backlog,
    Claim,
    DeviceTime,
    Environment,
    Evidence,
    FlopCount,
    Gpu,
    Job,
    JobSpec,
    Operation,
    Outcome,
    Overhead,
    Predictions,
    Profile,
    ProfiledStep,
    Progress,
    Result,
    Setup,
    Steps,
    Warmup,
    Worker,
)
from tests.graphs.drawn import GRAPH

SPEC = JobSpec(model="demo:mlp", method="run_inference", params={"a": 1, "b": [1.5, None, {"c": "é"}], "d": True})
NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
ENVIRONMENT = Environment(
    hostname="h",
    os="Linux 6",
    cpu="a cpu",
    cores=4,
    affinity=[0, 2],
    governor=None,
    memory_bytes=2**40,
    python="CPython 3.11",
    libraries={"torch": "2", "numpy": "1"},
    threads={"torch.intraop": 2, "OMP_NUM_THREADS": 2},
    gpus=[Gpu(name="H200", uuid="GPU-1", memory_bytes=2**37)],
    driver="570",
)
OPERATION = Operation(name="aten::mm", calls=2, self_ns=3, total_ns=4, device_ns=5, shapes=[[1, 2], []])
PROFILE = Profile(
    source="kineto",
    events=7,
    span_ns=40,
    steps=[
        ProfiledStep(number=3, wall_ns=10, covered_ns=5, calls=1, self_ns=5, device_ns=2, peak_bytes=2**40),
        ProfiledStep(number=4, wall_ns=20, covered_ns=10, calls=1, self_ns=5),
    ],
    covered_ns=15,
    operations={"shape": [OPERATION], "kernel": []},
    devices=[
        DeviceTime(
            device=1,
            total_ns=20,
            busy_ns=12,
            compute_ns=9,
            communication_ns=5,
            exposed_communication_ns=2,
            copy_ns=3,
            exposed_copy_ns=1,
            idle_ns=8,
            waiting_for_host_ns=6,
            gap_ns=2,
        )
    ],
    peak_bytes={"cpu": 5, "gpu 1": 2**40},
    flops=FlopCount(flops=2**60, counted_calls=3, calls=4, uncounted={"aten::sort": 1}),
    overhead=Overhead(before_ns=[8, 10], after_ns=[9], profiled_ns=13.5),
    verdict="degraded",
    reasons=["No step is marked in it."],
    notes=["It has no shapes."],
)
EVIDENCE = Evidence(
    wall_ns=10,
    cores=[0, 2],
    own_cpu_ns=9,
    foreign_cpu_ns=1,
    throttles=0,
    foreign_gpu_pids=[7],
    gpu_throttles=["hardware slowdown"],
    reasons=["the GPU was used by other processes: 7"],
    repeated=2,
)
RESULT = Result(
    steps=Steps(count=1, duration_ns=[2**62], warmup=Warmup(count=1, duration_ns=[7])),
    loss=[0.1, None],
    score=[None, 0.5],
    predictions=Predictions(kept=1, total=2, total_bytes=3),
    evidence=EVIDENCE,
    capabilities=["run_training", "get_weights"],
)
ARTIFACT = Artifact(name="log.txt", media_type="text/plain", digest="ab", size=3)
OUTCOME = Outcome(
    state="failed",
    cause="signal",
    message="a\nb",
    result=RESULT,
    profile=PROFILE,
    graph=GRAPH,
    environment=ENVIRONMENT,
    artifacts=[ARTIFACT],
)
ATTEMPT = Attempt(
    number=1, worker="w", state="lost", cause="lost", message=None, started=NOW, ended=NOW, environment=None
)
JOB = Job(
    id=1,
    spec=SPEC,
    state="running",
    cause=None,
    message=None,
    cancel_requested=True,
    created=NOW,
    started=NOW,
    ended=None,
    attempts=[ATTEMPT],
    progress=Progress(warmup=3, done=1, loss=0.5),
)
RECORDS = [
    SPEC,
    JobSpec(
        model="m",
        method="run_training",
        seed=3,
        setup=Setup(precision="mixed_float16", compile="default", jit_compile=True, channels_last=True, accumulate=4),
    ),
    ENVIRONMENT,
    PROFILE,
    GRAPH,
    RESULT,
    ARTIFACT,
    OUTCOME,
    JOB,
    Claim(job_id=1, attempt=2, token="t", spec=SPEC),
    Worker(
        name="w",
        queues=["cpu", "gpu"],
        slots=2,
        started=NOW,
        polled=NOW,
        seen=NOW,
        devices=["core 0", "GPU-1 with core 1"],
        busy=["core 0 is used by other:1"],
        set_aside=["GPU-1 does not answer"],
        jobs=[3],
    ),
    Backlog(device="gpu", queued=3, since=NOW),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_json_and_builtins_give_back_an_equal_record(record):
    assert type(record).from_json(record.to_json()) == record
    assert type(record).from_dict(record.to_dict()) == record
    assert json.loads(record.to_json()) == record.to_dict()


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_records_are_frozen(record):
    with pytest.raises(AttributeError):
        setattr(record, record.__struct_fields__[0], None)


def test_params_keep_their_json_types():
    params = JobSpec.from_json(SPEC.to_json()).params

    assert [type(params[key]) for key in "abd"] == [int, list, bool]
    assert [type(value) for value in params["b"]] == [float, type(None), dict]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"method": "run"}, ["method", "'run'", "run_inference", "get_intermediates"]),
        ({"device": "tpu"}, ["device", "'tpu'", "cpu, gpu"]),
        ({"n_steps": 0}, ["steps is 0", "at least 1"]),
        ({"n_steps": -5}, ["steps is -5", "at least 1"]),
        ({"warmup": -1}, ["warmup is -1", "at least 0"]),
        ({"threads": 0}, ["threads is 0", "at least 1"]),
        ({"timeout_s": 0.0}, ["timeout is 0.0", "at least 0.001"]),
        ({"timeout_s": -1}, ["timeout is -1"]),
        ({"timeout_s": float("nan")}, ["timeout is nan"]),
        ({"priority": 2**31}, ["priority is 2147483648", "32 bits"]),
        ({"priority": -(2**31) - 1}, ["priority is -2147483649"]),
        ({"method": "set_weights"}, ["set_weights needs weights"]),
        ({"memory_bytes": 0}, ["memory is 0", "at least 1"]),
        ({"output_bytes": -1}, ["output is -1", "at least 0"]),
        ({"scratch_bytes": -1}, ["scratch is -1", "at least 0"]),
        ({"repeats": -1}, ["repeats is -1", "at least 0"]),
        ({"python": "bin/python"}, ["python is 'bin/python'", "absolute path"]),
        ({"tags": ["a", ""]}, ["A tag is empty"]),
        ({"seed": -1}, ["seed is -1", "at least 0"]),
        ({"seed": 2**32}, ["seed is 4294967296", "less than 2**32"]),
        ({"seed": 1, "repeats": 2, "method": "run_training"}, ["repeats is 2 with a seed", "goes on from the weights"]),
        ({"setup": Setup(accumulate=2)}, ["accumulate is 2", "run_inference does no training step"]),
    ],
)
def test_a_spec_out_of_range_names_the_value_and_the_range(values, says):
    with pytest.raises(UsageError) as caught:
        JobSpec(**{"model": "demo:mlp", "method": "run_inference"} | values)

    assert [part for part in says if part not in str(caught.value)] == []


@pytest.mark.parametrize(
    "values",
    [
        {"n_steps": 1, "warmup": 0, "threads": 1, "timeout_s": 0.001},
        {"priority": 2**31 - 1},
        {"priority": -(2**31)},
        {"method": "set_weights", "weights": "ab"},
        {"seed": 0, "repeats": 2},
        {"seed": 2**32 - 1, "method": "profile_training", "setup": Setup(accumulate=2)},
        *({"method": method} for method in METHODS if method != "set_weights"),
    ],
)
def test_a_spec_at_the_edge_of_its_range_is_taken(values):
    spec = JobSpec(**{"model": "demo:mlp", "method": "run_inference"} | values)

    assert {name: getattr(spec, name) for name in values} == values


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"precision": "int8"}, ["precision is 'int8'", "mixed_float16"]),
        ({"compile": "fast"}, ["compile is 'fast'", "max-autotune"]),
        ({"accumulate": 0}, ["accumulate is 0", "at least 1"]),
    ],
)
def test_a_setup_out_of_range_names_the_value_and_what_there_is(values, says):
    with pytest.raises(UsageError) as caught:
        Setup(**values)

    assert [part for part in says if part not in str(caught.value)] == []


def test_a_setup_tells_what_differs_from_the_default():
    assert Setup().asked == {}
    assert Setup(compile="default", accumulate=2).asked == {"compile": "default", "accumulate": 2}


@pytest.mark.parametrize(
    ("warmup", "seed", "fixed"), [(None, None, None), (None, 0, 5), (0, 0, 0), (7, None, 7), (7, 3, 7)]
)
def test_with_a_seed_the_number_of_warm_up_steps_is_no_matter_of_time(warmup, seed, fixed):
    assert JobSpec(model="m", method="run_inference", warmup=warmup, seed=seed).fixed_warmup == fixed


def test_a_spec_that_comes_over_a_wire_is_checked_too():
    data = SPEC.to_dict() | {"n_steps": -1}

    with pytest.raises(msgspec.ValidationError, match="steps is -1"):
        JobSpec.from_dict(data)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"model": 1, "method": "run_inference"}', b"\xff"])
def test_bytes_that_are_no_record_are_a_value_error(data):
    with pytest.raises(ValueError):
        JobSpec.from_json(data)


@pytest.mark.parametrize(("times", "median"), [([], None), ([5], 5), ([9, 1, 5], 5), ([4, 1, 9, 5], 4.5)])
def test_median_of_the_counted_steps(times, median):
    assert Steps(count=len(times), duration_ns=times, warmup=Warmup(count=1, duration_ns=[100])).median_ns == median


def test_coverage_is_a_fraction_of_the_steps():
    assert PROFILE.coverage == 0.5


def test_without_marked_steps_there_is_no_coverage():
    assert Profile(source="kineto", events=0, span_ns=0, steps=[], covered_ns=15, operations={}).coverage is None


def test_overhead_is_of_the_medians():
    assert PROFILE.overhead is not None
    assert (PROFILE.overhead.unprofiled_ns, PROFILE.overhead.ratio) == (9, 1.5)


def test_overhead_needs_an_unprofiled_step():
    with pytest.raises(UsageError, match="at least one unprofiled step"):
        Overhead(before_ns=[], after_ns=[], profiled_ns=1.0)


def test_flops_are_counted_as_far_as_they_are():
    assert PROFILE.flops is not None
    assert PROFILE.flops.coverage == 0.75
    assert FlopCount(flops=0, counted_calls=0, calls=0).coverage == 1.0


def test_equal_environments_have_equal_digests_whatever_the_order_of_their_keys():
    data = ENVIRONMENT.to_dict()
    turned = {name: dict(reversed(value.items())) if isinstance(value, dict) else value for name, value in data.items()}

    assert list(turned["libraries"]) != list(data["libraries"])
    assert Environment.from_dict(turned).digest == ENVIRONMENT.digest
    assert len(ENVIRONMENT.digest) == 64


@pytest.mark.parametrize("field", Environment.__struct_fields__)
def test_the_digest_depends_on_every_field(field):
    other = {
        "cores": 5,
        "affinity": [0],
        "governor": "powersave",
        "memory_bytes": 1,
        "libraries": {"torch": "2"},
        "threads": {},
        "gpus": [],
        "driver": None,
    }.get(field, "other")

    assert msgspec.structs.replace(ENVIRONMENT, **{field: other}).digest != ENVIRONMENT.digest


@pytest.mark.parametrize(
    ("state", "is_over"),
    [("queued", False), ("running", False), ("succeeded", True), ("failed", True), ("cancelled", True)],
)
def test_a_job_is_over_once_it_ended(state, is_over):
    assert msgspec.structs.replace(JOB, state=state).is_over is is_over


def test_a_measurement_is_tainted_by_any_reason():
    assert EVIDENCE.verdict == "tainted"
    assert Evidence(wall_ns=1, cores=[0], own_cpu_ns=1, foreign_cpu_ns=1).verdict == "clean"
