"""Frozen records that cross a process, wire or disk border.

Every record is a `Record`: immutable, compared by value, with one JSON form in each direction. Times of day are UTC;
durations are nanoseconds and say so in their names.
"""

import hashlib
import statistics
from datetime import datetime
from typing import Any, Literal, get_args

import msgspec

from dnnamo.errors import UsageError
from dnnamo.frozen import Record
from dnnamo.graphs.records import Graph
from dnnamo.intermediates.records import Intermediate

__all__ = [
    "DEVICES",
    "EVENTS_NAME",
    "LOG_NAME",
    "METHODS",
    "SEEDED_WARMUP",
    "TASKS",
    "VALUES_BUDGET_BYTES",
    "VALUES_NAME",
    "WEIGHTS_NAME",
    "Artifact",
    "Attempt",
    "AttemptState",
    "Backlog",
    "Bundle",
    "Capture",
    "Cause",
    "Claim",
    "CompileMode",
    "Device",
    "DeviceTime",
    "Environment",
    "Evidence",
    "FlopCount",
    "Gpu",
    "Grain",
    "Job",
    "JobSpec",
    "Method",
    "Operation",
    "Outcome",
    "Overhead",
    "Precision",
    "Predictions",
    "Profile",
    "ProfiledStep",
    "Progress",
    "Quality",
    "Record",
    "Result",
    "Setup",
    "State",
    "Steps",
    "Task",
    "Verdict",
    "Warmup",
    "Worker",
]

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
AttemptState = Literal["running", "succeeded", "failed", "cancelled", "lost", "handed_back"]
Cause = Literal[
    "user_error",
    "unsupported",
    "bad_bundle",
    "timeout",
    "output_limit",
    "scratch_limit",
    "process_limit",
    "cancelled",
    "signal",
    "oom_host",
    "oom_device",
    "lost",
    "quarantined",
]
Verdict = Literal["clean", "tainted"]
Quality = Literal["ok", "degraded", "bad"]
Grain = Literal["name", "shape", "layer", "kernel"]
Capture = Literal["shapes", "memory", "stacks", "flops"]
Precision = Literal["float32", "bfloat16", "float16", "mixed_bfloat16", "mixed_float16"]
CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
Device = Literal["cpu", "gpu"]
Method = Literal[
    "get_inference_graph",
    "get_training_graph",
    "get_weights",
    "set_weights",
    "run_inference",
    "run_training",
    "profile_inference",
    "profile_training",
    "get_intermediates",
]
Task = Literal[Method, "import_trace"]

METHODS: tuple[Method, ...] = get_args(Method)
TASKS: tuple[Task, ...] = get_args(Task)
DEVICES: tuple[Device, ...] = get_args(Device)

EVENTS_NAME = "events.parquet"
"""Name of the artifact that holds a profile's event table, as `dnnamo.profiles.events` writes it."""

SEEDED_WARMUP = 5
"""Warm-up steps of a job that has a seed and does not say how many."""

VALUES_NAME = "intermediates.safetensors"
"""Name of the artifact that holds intermediates in full; further ones are `intermediates-2.safetensors` and so on."""

VALUES_BUDGET_BYTES = 1 << 30
"""What the intermediates of a job may have together that are kept in full, if it does not say."""

LOG_NAME = "log.txt"
"""Name of the artifact that holds what an attempt wrote to standard output and error."""

WEIGHTS_NAME = "weights.safetensors"
"""Name of the artifact that holds the weights that a job got."""


_WITH_KEYS = ("get_weights", "get_intermediates")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}.")


def _at_least(name: str, value: float | None, least: float) -> None:
    # `not >=` rather than `<`, so that nan is refused too.
    if value is not None and not value >= least:
        raise UsageError(f"{name} is {value}; it must be at least {least}.")


class Setup(Record, frozen=True, kw_only=True):
    """How a model computes, where that is not as its loader made it; a model takes it by its method `configure`.

    Attributes:
        precision: Number type of weights, inputs and computation (`float32`, `bfloat16`, `float16`), or of the
            operations that bear it, with weights in float32 (`mixed_bfloat16`, `mixed_float16`); None leaves all as it
            is.
        compile: Mode of `torch.compile`; None does not compile.
        jit_compile: Whether TensorFlow compiles the step with XLA.
        channels_last: Whether images are laid out with their channels innermost.
        accumulate: Minibatches of a training step, which ends with one update by the mean of their gradients.

    Raises:
        UsageError: If a value is none of those that there are.
    """

    precision: Precision | None = None
    compile: CompileMode | None = None
    jit_compile: bool = False
    channels_last: bool = False
    accumulate: int = 1

    def __post_init__(self) -> None:
        if self.precision is not None:
            _one_of("precision", self.precision, get_args(Precision))
        if self.compile is not None:
            _one_of("compile", self.compile, get_args(CompileMode))
        _at_least("accumulate", self.accumulate, 1)

    @property
    def asked(self) -> dict[str, str | int]:
        """What differs from the default, by name."""
        defaults = zip(self.__struct_fields__, self.__struct_defaults__, strict=True)
        return {name: getattr(self, name) for name, default in defaults if getattr(self, name) != default}


class Bundle(Record, frozen=True, kw_only=True):
    """The files that a job brings along, as one artifact that `dnnamo.bundles.archive` packed.

    Attributes:
        digest: SHA-256 of the artifact in hexadecimal: equal files have equal digests.
        size: Bytes that the files have together.
        files: Number of files.
        folders: Where they were when the job was submitted. A path below one of these is one in the bundle.
    """

    digest: str
    size: int
    files: int
    folders: list[str] = []


class JobSpec(Record, frozen=True, kw_only=True):
    """Everything that decides what a job does.

    Attributes:
        model: Model reference, with file paths absolute.
        method: Method of the wrapped-model interface to call; or `import_trace`, for a job that holds the profile in a
            file from elsewhere and was never run.
        params: Keyword arguments of the model's loader, JSON values.
        n_steps: Counted steps; at least 1. Only running and profiling look at it.
        warmup: Steps before the counted ones; None warms up until the step time is steady.
        device: Device class, which is also the queue.
        threads: Compute threads of the framework; None takes one for each core that the job has.
        priority: Of two queued jobs the one with the greater number starts first.
        timeout_s: Wall time that an attempt may take; None sets no limit.
        memory_bytes: Resident memory that the processes of an attempt may have together; None takes the worker's limit.
        output_bytes: What they may write to standard output and error; None takes the worker's limit.
        scratch_bytes: Size that the attempt's scratch folder may reach; None takes the worker's limit.
        weights: Digest of a safetensors artifact that is set before the method is called.
        bundle: The model's code, brought along; None uses what the worker has at the same path.
        python: Interpreter to run it with, an absolute path that the worker allows; None takes the worker's own.
        repeats: How often a measurement that was disturbed is made again, at most.
        tags: Words to find the job by, in alphabetical order.
        keys: Names or patterns of the weights or intermediates to get; none for all.
        values: Whether intermediates are kept in full, and not only what their numbers come to.
        budget_bytes: What they may have together then; None takes `VALUES_BUDGET_BYTES`.
        capture: What a profile records beside the operations, each of which slows the profiled steps down.
        paired: Whether a profile also times unprofiled steps, before and after.
        setup: How the model computes, where that is not as its loader made it.
        seed: What the random numbers of Python, NumPy and the frameworks begin with; None leaves them to chance.

    Raises:
        UsageError: If a value is out of its range; the message names the value and the range.
    """

    model: str
    method: Task
    params: dict[str, Any] = {}
    n_steps: int = 10
    warmup: int | None = None
    device: Device = "cpu"
    threads: int | None = None
    priority: int = 0
    timeout_s: float | None = None
    memory_bytes: int | None = None
    output_bytes: int | None = None
    scratch_bytes: int | None = None
    weights: str | None = None
    bundle: Bundle | None = None
    python: str | None = None
    repeats: int = 0
    tags: list[str] = []
    keys: list[str] = []
    values: bool = False
    budget_bytes: int | None = None
    capture: list[Capture] = []
    paired: bool = True
    setup: Setup = Setup()
    seed: int | None = None

    @property
    def counts_steps(self) -> bool:
        """Whether the job does steps and counts them."""
        return self.method.startswith(("run_", "profile_"))

    @property
    def trains(self) -> bool:
        """Whether the counted steps are training steps."""
        return self.counts_steps and self.method.endswith("_training")

    @property
    def fixed_warmup(self) -> int | None:
        """Warm-up steps before the counted ones, None for as many as the step time takes to become steady.

        With a seed it is a number: otherwise the machine would decide from which weights and data the counted steps go.
        """
        return SEEDED_WARMUP if self.warmup is None and self.seed is not None else self.warmup

    @property
    def gives_profile(self) -> bool:
        """Whether the job has a profile once it has succeeded."""
        return self.method.startswith("profile_") or self.method == "import_trace"

    @property
    def gives_graph(self) -> bool:
        """Whether the job has a graph once it has succeeded."""
        return self.method in ("get_inference_graph", "get_training_graph")

    def __post_init__(self) -> None:
        _one_of("method", self.method, TASKS)
        _one_of("device", self.device, DEVICES)
        _at_least("steps", self.n_steps, 1)
        _at_least("warmup", self.warmup, 0)
        _at_least("threads", self.threads, 1)
        _at_least("timeout", self.timeout_s, 0.001)
        _at_least("memory", self.memory_bytes, 1)
        _at_least("output", self.output_bytes, 0)
        _at_least("scratch", self.scratch_bytes, 0)
        _at_least("repeats", self.repeats, 0)
        _at_least("budget", self.budget_bytes, 1)
        if not -(2**31) <= self.priority < 2**31:
            raise UsageError(f"priority is {self.priority}; it must fit in 32 bits.")
        if self.python is not None and not self.python.startswith("/"):
            raise UsageError(f"python is {self.python!r}; it must be the absolute path of an interpreter.")
        if not all(self.tags):
            raise UsageError("A tag is empty; a tag is a word to find the job by.")
        if self.keys and self.method not in _WITH_KEYS:
            raise UsageError(
                f"keys are {', '.join(self.keys)}, and {self.method} has nothing to choose from; leave them out."
            )
        if self.values and self.method != "get_intermediates":
            raise UsageError(f"{self.method} has no intermediates to keep the values of; leave values out.")
        if self.budget_bytes is not None and not self.values:
            raise UsageError("A budget is of intermediates that are kept in full; ask for their values too.")
        if not all(self.keys):
            raise UsageError("A key is empty; a key is the name of a weight or of an intermediate, or a pattern.")
        if self.method == "set_weights" and self.weights is None:
            raise UsageError("set_weights needs weights to set; none were given.")
        self._check_seed()
        if self.setup.accumulate > 1 and not self.trains:
            raise UsageError(
                f"accumulate is {self.setup.accumulate}, and {self.method} does no training step; leave it out, or run "
                "or profile training."
            )

    def _check_seed(self) -> None:
        if self.seed is None:
            return
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"seed is {self.seed}; it must be at least 0 and less than 2**32.")
        if self.repeats and self.trains:
            raise UsageError(
                f"repeats is {self.repeats} with a seed: a measurement that is made again goes on from the weights of "
                "then, so the machine would decide which losses are kept. Leave out one of the two."
            )


class Warmup(Record, frozen=True, kw_only=True):
    """The steps that came before the counted ones; their times in nanoseconds, in order."""

    count: int = 0
    duration_ns: list[int] = []


class Steps(Record, frozen=True, kw_only=True):
    """Wall time of each counted step in nanoseconds, device synchronised.

    `duration_ns` is empty where nothing marked the steps (a bare model's own `profile_*`); `count` is the number of
    steps that were asked for and done.
    """

    count: int
    duration_ns: list[int]
    warmup: Warmup = Warmup()

    @property
    def median_ns(self) -> float | None:
        """Median wall time of the counted steps, None where they were not timed."""
        return statistics.median(self.duration_ns) if self.duration_ns else None


class Predictions(Record, frozen=True, kw_only=True):
    """How many of the steps' predictions were kept as an artifact, and how large all of them are."""

    kept: int
    total: int
    total_bytes: int


class Evidence(Record, frozen=True, kw_only=True):
    """What was seen of the machine while the counted steps ran.

    Attributes:
        wall_ns: Length of the window that was watched, from before the first counted step to after the last.
        cores: CPU numbers that the measurement had.
        own_cpu_ns: CPU time of the measuring process and of those that it started.
        foreign_cpu_ns: CPU time that others, the kernel's interrupts included, took on these cores.
        delayed_ns: Time that the measuring process's threads were ready to run and waited for a core.
        steal_ns: Time that the hypervisor kept these cores for others.
        throttles: How often they were slowed down for heat or power; None where the machine does not say.
        foreign_gpu_pids: Processes of others on the GPU, before or after.
        gpu_throttles: Why the GPU's clocks were held down, in NVML's words.
        reasons: Why the measurement counts as disturbed, one sentence each; empty if it does not.
        repeated: How often it was made again because it was.
    """

    wall_ns: int
    cores: list[int]
    own_cpu_ns: int
    foreign_cpu_ns: int
    delayed_ns: int = 0
    steal_ns: int = 0
    throttles: int | None = None
    foreign_gpu_pids: list[int] = []
    gpu_throttles: list[str] = []
    reasons: list[str] = []
    repeated: int = 0

    @property
    def verdict(self) -> Verdict:
        """`clean`, or `tainted` if there is any reason to doubt the times."""
        return "tainted" if self.reasons else "clean"


class Result(Record, frozen=True, kw_only=True):
    """What a method returned, apart from artifacts: step times, losses and scores of the counted steps.

    Attributes:
        evidence: Of methods that measure: what run or profile a model.
        capabilities: Methods of the interface that the model implements.
    """

    steps: Steps | None = None
    loss: list[float | None] = []
    score: list[float | None] = []
    predictions: Predictions | None = None
    evidence: Evidence | None = None
    capabilities: list[Method] = []


class Progress(Record, frozen=True, kw_only=True):
    """How far a running attempt is.

    Attributes:
        warmup: Warm-up steps done.
        done: Counted steps done, of the spec's `n_steps`.
        loss: Loss of the last training step, if it was told.
    """

    warmup: int = 0
    done: int = 0
    loss: float | None = None


class Operation(Record, frozen=True, kw_only=True):
    """One row of an operation table: all calls that have in common what the table's grain says.

    Attributes:
        name: Operation type, as the framework names it (`aten::mm`, `MatMul`); at the grain `layer` the layer's path,
            empty for what ran in none; at the grain `kernel` the kernel's name.
        calls: Number of calls; at the grain `layer` of the operations that ran in the layer itself.
        self_ns: Host time in the operation itself, without the operations that it called.
        total_ns: Host time with the operations that it called; at the grain `layer`, with the layers below it.
        device_ns: Time of the kernels and copies that it launched itself.
        device_total_ns: Time of those that it, or an operation that it called, launched.
        flops: Floating-point operations that it took, None where they were not counted.
        bytes: Bytes that it copied, set or allocated itself, None where the profile does not say.
        peak_bytes: Most memory that was allocated at once while it ran, None where the profile does not say.
        shapes: Shape of each input, None where the framework does not say, and at other grains than `shape`.
    """

    name: str
    calls: int
    self_ns: int
    total_ns: int
    device_ns: int = 0
    device_total_ns: int = 0
    flops: int | None = None
    bytes: int | None = None
    peak_bytes: int | None = None
    shapes: list[Any] | None = None


class ProfiledStep(Record, frozen=True, kw_only=True):
    """What one marked step came to.

    Attributes:
        number: Its number, as it was marked.
        wall_ns: Its wall time by the profiler's own clock.
        covered_ns: Host time within it during which at least one operation ran.
        calls: Calls of operations that began in it.
        self_ns: Their self times added up, over all threads.
        device_ns: Time of the kernels and copies that were launched in it.
        peak_bytes: Most memory that was allocated at once while it ran, None where the profile does not say.
    """

    number: int
    wall_ns: int
    covered_ns: int
    calls: int
    self_ns: int
    device_ns: int = 0
    peak_bytes: int | None = None


class DeviceTime(Record, frozen=True, kw_only=True):
    """What the time of one device went to, nanoseconds; busy is the union over its streams.

    Attributes:
        device: Its number.
        total_ns: From the start of the first to the end of the last thing that ran on it.
        busy_ns: While at least one kernel or copy ran.
        compute_ns: While at least one kernel ran that does not communicate.
        communication_ns: While at least one collective kernel ran.
        exposed_communication_ns: Of that, while no computation ran.
        copy_ns: While at least one copy or memset ran.
        exposed_copy_ns: Of that, while neither computation nor communication ran.
        idle_ns: While nothing ran.
        waiting_for_host_ns: Of that, until the host had launched what ran next.
        gap_ns: The rest of the idle time: between kernels that had been launched already.
    """

    device: int
    total_ns: int
    busy_ns: int
    compute_ns: int
    communication_ns: int
    exposed_communication_ns: int
    copy_ns: int
    exposed_copy_ns: int
    idle_ns: int
    waiting_for_host_ns: int
    gap_ns: int


class Overhead(Record, frozen=True, kw_only=True):
    """What profiling did to the steps.

    Attributes:
        before_ns: Wall times of the unprofiled steps that ran before the profiled ones.
        after_ns: Wall times of those that ran after.
        profiled_ns: Median wall time of the profiled steps.

    Raises:
        UsageError: If no step ran unprofiled.
    """

    before_ns: list[int]
    after_ns: list[int]
    profiled_ns: float

    def __post_init__(self) -> None:
        if not self.before_ns and not self.after_ns:
            raise UsageError("An overhead needs at least one unprofiled step to compare with.")

    @property
    def unprofiled_ns(self) -> float:
        """Median wall time of the unprofiled steps: what a step takes."""
        return statistics.median([*self.before_ns, *self.after_ns])

    @property
    def ratio(self) -> float:
        """How many times as long a step takes while it is profiled."""
        return self.profiled_ns / self.unprofiled_ns


class FlopCount(Record, frozen=True, kw_only=True):
    """Floating-point operations of one step, counted in a pass of its own.

    Attributes:
        flops: Of all operations whose formula is known.
        counted_calls: Calls that have one, or that do no arithmetic.
        calls: All calls.
        uncounted: Operations without one, by name, with their calls.
    """

    flops: int
    counted_calls: int
    calls: int
    uncounted: dict[str, int] = {}

    @property
    def coverage(self) -> float:
        """Fraction of the calls that were counted."""
        return self.counted_calls / self.calls if self.calls else 1.0


class Profile(Record, frozen=True, kw_only=True):
    """A framework-neutral profile of some steps: what its events come to.

    Attributes:
        source: What recorded it: `kineto`, `chrome`, `xspace`, `run_metadata`, or a plug-in's name.
        events: Number of events in its event table.
        span_ns: From the start of the first event to the end of the last.
        steps: The marked steps, in order.
        covered_ns: Host time within the steps, or within the span where no step was marked, during which at least one
            operation ran.
        operations: Rows by grain, each sorted by self time, or by device time where that is all there is, greatest
            first; only what ran within marked steps, or everything where no step was marked. A grain that the profile
            tells nothing of is left out.
        devices: What the time of each device went to.
        peak_bytes: Most memory that was allocated at once by kind of device (`cpu`, `gpu 0`).
        flops: Floating-point operations of one step, None where they were not counted.
        overhead: What profiling did to the steps, None where there was no unprofiled run.
        verdict: How far its figures can be trusted.
        reasons: Why they cannot be trusted fully, one sentence each.
        notes: What its source cannot tell, one sentence each.
    """

    source: str
    events: int
    span_ns: int
    steps: list[ProfiledStep]
    covered_ns: int
    operations: dict[Grain, list[Operation]]
    devices: list[DeviceTime] = []
    peak_bytes: dict[str, int] = {}
    flops: FlopCount | None = None
    overhead: Overhead | None = None
    verdict: Quality = "ok"
    reasons: list[str] = []
    notes: list[str] = []

    @property
    def step_ns(self) -> list[int]:
        """Wall time of each marked step in nanoseconds, by the profiler's own clock."""
        return [step.wall_ns for step in self.steps]

    @property
    def coverage(self) -> float | None:
        """Fraction of the steps' wall time during which an operation ran; None without marked steps."""
        return self.covered_ns / sum(self.step_ns) if sum(self.step_ns) else None


class Gpu(Record, frozen=True, kw_only=True):
    """One GPU as NVML describes it."""

    name: str
    uuid: str
    memory_bytes: int


class Environment(Record, frozen=True, kw_only=True):
    """What a measurement depends on, as seen by the process that measured.

    Attributes:
        affinity: CPU numbers that the process may run on.
        governor: Frequency governor of the first of them, None where it cannot be read.
        libraries: Version of each framework and numerical library in use.
        threads: Thread counts by what they configure (`torch.intraop`, `OMP_NUM_THREADS`).
    """

    hostname: str
    os: str
    cpu: str
    cores: int
    affinity: list[int]
    governor: str | None
    memory_bytes: int
    python: str
    libraries: dict[str, str]
    threads: dict[str, int]
    gpus: list[Gpu] = []
    driver: str | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of the record in hexadecimal: equal environments have equal digests."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


class Artifact(Record, frozen=True, kw_only=True):
    """Bytes that belong to an attempt, named by what they hold.

    Attributes:
        name: File name, unique within the attempt (`trace.json.gz`, `weights.safetensors`, `log.txt`).
        media_type: IANA media type.
        digest: SHA-256 of the bytes in hexadecimal; empty until they are stored.
        size: Number of bytes; 0 until they are stored.
    """

    name: str
    media_type: str
    digest: str = ""
    size: int = 0


class Outcome(Record, frozen=True, kw_only=True):
    """How an attempt ended, as the runner reports it and the supervisor completes it."""

    state: AttemptState
    cause: Cause | None = None
    message: str | None = None
    result: Result | None = None
    profile: Profile | None = None
    graph: Graph | None = None
    intermediates: list[Intermediate] = []
    environment: Environment | None = None
    artifacts: list[Artifact] = []


class Claim(Record, frozen=True, kw_only=True):
    """A worker's right to one attempt at a job, valid while `token` is the job's current one."""

    job_id: int
    attempt: int
    token: str
    spec: JobSpec


class Attempt(Record, frozen=True, kw_only=True):
    """One try at a job on one worker. `environment` is the digest of an `Environment`."""

    number: int
    worker: str
    state: AttemptState
    cause: Cause | None
    message: str | None
    started: datetime
    ended: datetime | None
    environment: str | None


class Job(Record, frozen=True, kw_only=True):
    """A stored spec with its state; `attempts` is oldest first, `progress` is of the one that runs."""

    id: int
    spec: JobSpec
    state: State
    cause: Cause | None
    message: str | None
    cancel_requested: bool
    created: datetime
    started: datetime | None
    ended: datetime | None
    attempts: list[Attempt]
    progress: Progress | None = None

    @property
    def is_over(self) -> bool:
        """Whether the job ended: succeeded, failed or cancelled."""
        return self.state not in ("queued", "running")


class Backlog(Record, frozen=True, kw_only=True):
    """The queued jobs of one device class: how many, and since when the first of them waits."""

    device: Device
    queued: int
    since: datetime


class Worker(Record, frozen=True, kw_only=True):
    """A worker as it last reported itself.

    Attributes:
        devices: What each slot computes on, as people read it (`cores 0-3`, `GPU-5b2f… with cores 4-7`).
        busy: Why it cannot have devices for now that it looked for a job with, one reason each.
        set_aside: Devices that the worker no longer uses, each with the reason.
        jobs: Ids of the jobs that it runs now.
        polled: When it last looked for a job, or had no slot free to look for one.
        seen: When it last reported itself.
    """

    name: str
    queues: list[Device]
    slots: int
    started: datetime
    polled: datetime
    seen: datetime
    devices: list[str] = []
    busy: list[str] = []
    set_aside: list[str] = []
    jobs: list[int] = []
