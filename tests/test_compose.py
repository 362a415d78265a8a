"""docker-compose.yml and the images: what can be known of them without a Docker engine."""

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
import yaml
from jsonschema import Draft202012Validator
from pydantic import SecretStr

from dnnamo.cli import app
from dnnamo.records import Device
from dnnamo.settings import Settings

ROOT = Path(__file__).parents[1]
REQUIRED = re.compile(r"\$\{[A-Z_]+:\?[^}]+\}")
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(:?[-?+])?[^}]*\}|(?<!\$)\$(\w+)")
DEVICES = get_args(Device)
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILES = sorted((ROOT / "workers").glob("Dockerfile.*"))

each_service = pytest.mark.parametrize("name", SERVICES)
each_device = pytest.mark.parametrize("device", DEVICES)
each_dockerfile = pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)


def worker_command(device: Device) -> list[str]:
    """Return the command that the worker of a device class runs in its container."""
    return [str(word) for word in SERVICES[f"worker-{device}"]["command"]]


def _texts(node: Any) -> Iterator[str]:
    """Yield every text in the tree that YAML was read into."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from _texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from _texts(value)


def _parsed(words: list[str]) -> dict[str, Any]:
    """Return the parameters that the real command line reads from the words after `dnnamo`, without running it."""
    verb, *rest = words
    command = typer.main.get_group(app).commands[verb]
    with command.make_context(verb, rest) as context:
        return dict(context.params)


def _dnnamo_calls(shell: str) -> Iterator[list[str]]:
    """Yield the words after `dnnamo` of each command in a shell line."""
    words = shlex.shlex(shell, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    call: list[str] = []
    for word in [*words, ";"]:
        if set(word) <= set("();<>|&"):
            if call[:1] == ["dnnamo"]:
                yield call[1:]
            call = []
        else:
            call.append(word)


def _seconds(duration: str) -> float:
    match = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", duration)
    assert match is not None
    minutes, seconds = match.groups(default="0")
    return 60 * int(minutes) + int(seconds)


def test_the_file_follows_the_compose_specification() -> None:
    schema = json.loads((ROOT / "tests" / "compose_schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    problems = [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(COMPOSE)]
    assert problems == []


def test_there_is_a_database_a_broker_and_a_worker_for_each_device_class() -> None:
    assert set(SERVICES) == {"postgres", "redis"} | {f"worker-{device}" for device in DEVICES}


def test_only_the_worker_for_gpus_has_to_be_asked_for() -> None:
    assert {name: spec["profiles"] for name, spec in SERVICES.items() if "profiles" in spec} == {"worker-gpu": ["gpu"]}


@each_service
def test_a_service_has_a_health_check_that_can_fail(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert not check.get("disable")
    assert check["test"][0] in ("CMD", "CMD-SHELL")
    assert "|| true" not in check["test"][-1]


@each_service
def test_what_a_service_waits_for_is_there_and_healthy(name: str) -> None:
    for other, condition in SERVICES[name].get("depends_on", {}).items():
        assert "healthcheck" in SERVICES[other]
        assert condition == {"condition": "service_healthy"}


@each_service
def test_a_port_is_published_to_this_machine_alone(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\$\{[A-Z_]+:-\d+\}:\d+", port)


def test_passwords_come_from_variables_that_must_be_set() -> None:
    named = [match for text in _texts(COMPOSE) for match in VARIABLE.finditer(text) if "PASSWORD" in match[0]]
    assert {match[1] for match in named} == {"DNNAMO_POSTGRES_PASSWORD", "DNNAMO_REDIS_PASSWORD"}
    assert {match[2] for match in named} == {":?"}


@each_service
def test_no_password_is_written_down(name: str) -> None:
    service = SERVICES[name]
    environment: dict[str, str] = service.get("environment", {})
    secrets = [value for key, value in environment.items() if "PASSWORD" in key or "AUTH" in key]
    # A required variable's own message may hold a colon, so what stands before it is matched from the left.
    secrets += [
        text.split("://", 1)[1].partition(":")[2].rpartition("@")[0] for text in _texts(service) if "://" in text
    ]
    command = service.get("command", [])
    secrets += [after for word, after in pairwise(command) if word == "--requirepass"]
    assert all(REQUIRED.fullmatch(secret) for secret in secrets)
    assert secrets


def test_named_volumes_are_declared_and_used() -> None:
    mounts = [mount for spec in SERVICES.values() for mount in spec.get("volumes", []) if isinstance(mount, str)]
    assert {mount.partition(":")[0] for mount in mounts} == set(COMPOSE["volumes"])


def test_the_database_is_kept_where_its_image_wants_it() -> None:
    # https://github.com/docker-library/postgres/pull/1259: below 18 it is one folder further down.
    assert SERVICES["postgres"]["image"].startswith("postgres:18")
    assert SERVICES["postgres"]["volumes"] == ["postgres:/var/lib/postgresql"]


def test_the_broker_evicts_nothing() -> None:
    command = SERVICES["redis"]["command"]
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"


@each_device
def test_a_worker_runs_the_command_that_people_type(device: Device) -> None:
    assert worker_command(device) == ["dnnamo", "worker", "--queue", device]
    assert _parsed(worker_command(device)[1:])["queue"] == [device]


@each_device
def test_a_workers_health_check_is_a_real_command(device: Device) -> None:
    kind, line = SERVICES[f"worker-{device}"]["healthcheck"]["test"]
    calls = list(_dnnamo_calls(line))
    assert kind == "CMD-SHELL"
    assert [call[0] for call in calls] == ["doctor"]
    assert _parsed(calls[0])["output"] == "json"


@each_device
def test_a_worker_gets_settings_that_exist(device: Device) -> None:
    environment = SERVICES[f"worker-{device}"]["environment"]
    ours = {name.removeprefix("DNNAMO_").lower() for name in environment if name.startswith("DNNAMO_")}
    assert {"database_url", "broker_url"} <= ours <= set(Settings.model_fields)
    settings = Settings(
        database_url=SecretStr(environment["DNNAMO_DATABASE_URL"]),
        broker_url=SecretStr(environment["DNNAMO_BROKER_URL"]),
    )
    assert settings.database.startswith("postgresql://")
    assert (settings.broker or "").startswith("redis://")


@each_device
def test_a_worker_is_given_time_to_drain(device: Device) -> None:
    drain_s = Settings.model_fields["drain_s"].default
    assert _seconds(SERVICES[f"worker-{device}"]["stop_grace_period"]) >= drain_s + 10


@each_device
def test_models_have_the_same_path_inside_and_cannot_be_changed(device: Device) -> None:
    service = SERVICES[f"worker-{device}"]
    models, _ = service["volumes"]
    assert models["source"] == models["target"] == service["working_dir"]
    assert REQUIRED.fullmatch(models["source"])
    assert models["read_only"]
    assert models["bind"] == {"create_host_path": False}


@each_device
def test_workers_of_a_host_share_the_locks_of_its_cores(device: Device) -> None:
    service = SERVICES[f"worker-{device}"]
    assert f"locks:{service['environment']['DNNAMO_LOCKS']}" in service["volumes"]
    folder = service["environment"]["DNNAMO_LOCKS"]
    assert f"mkdir --mode=1777 {folder}\n" in (ROOT / "workers" / f"Dockerfile.{device}").read_text()


@each_device
def test_a_worker_can_change_nothing_but_scratch(device: Device) -> None:
    service = SERVICES[f"worker-{device}"]
    assert service["read_only"]
    assert [mount.partition(":")[0] for mount in service["tmpfs"]] == ["/tmp"]
    assert service["environment"]["HOME"] == "/tmp"
    assert service["security_opt"] == ["no-new-privileges:true"]


@each_device
def test_orphans_are_reaped(device: Device) -> None:
    assert SERVICES[f"worker-{device}"]["init"] is True


def test_the_gpu_worker_reserves_a_gpu() -> None:
    (device,) = SERVICES["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]
    assert "deploy" not in SERVICES["worker-cpu"]


@each_device
def test_an_image_is_built_for_the_command_that_it_runs(device: Device) -> None:
    build = SERVICES[f"worker-{device}"]["build"]
    assert (ROOT / build["context"]).resolve() == ROOT
    instructions = list(_instructions(ROOT / build["dockerfile"]))
    assert json.loads(dict(instructions)["CMD"]) == worker_command(device)


def _instructions(dockerfile: Path) -> Iterator[tuple[str, str]]:
    """Yield each instruction of a Dockerfile with its arguments."""
    lines = [line for line in dockerfile.read_text().splitlines() if line.strip() and not line.startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        name, _, arguments = line.partition(" ")
        yield name, arguments.strip()


def _stages(dockerfile: Path) -> list[list[tuple[str, str]]]:
    stages: list[list[tuple[str, str]]] = []
    for name, arguments in _instructions(dockerfile):
        if name == "FROM":
            stages.append([])
        stages[-1].append((name, arguments))
    return stages


def _copied(dockerfile: Path) -> Iterator[str]:
    for name, arguments in _instructions(dockerfile):
        if name in ("COPY", "ADD") and not arguments.startswith("--from="):
            yield from arguments.split()[:-1]


def _sent() -> list[str]:
    """Return the patterns of what .dockerignore leaves in the build's context."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    return [line[1:] for line in lines if line.startswith("!")]


def test_each_device_class_has_a_dockerfile() -> None:
    assert [path.name for path in DOCKERFILES] == sorted(f"Dockerfile.{device}" for device in DEVICES)


@each_dockerfile
def test_what_is_copied_exists_and_is_sent_to_the_build(dockerfile: Path) -> None:
    sources = list(_copied(dockerfile))
    assert sources
    assert [source for source in sources if not (ROOT / source).exists()] == []
    sent = _sent()
    assert [s for s in sources if not any(fnmatch(s.removeprefix("./"), pattern) for pattern in sent)] == []


@each_dockerfile
def test_all_three_packages_are_copied(dockerfile: Path) -> None:
    build = _pyproject()["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(build["packages"]) <= set(_copied(dockerfile))


@each_dockerfile
def test_the_image_has_extras_that_exist_and_those_that_a_worker_needs(dockerfile: Path) -> None:
    (listed,) = re.findall(r"\.whl\)\[([\w,]+)\]", dockerfile.read_text())
    extras = set(listed.split(","))
    assert extras <= set(_pyproject()["project"]["optional-dependencies"])
    assert {"worker", "postgres", "torch"} <= extras


@each_dockerfile
def test_what_is_installed_is_pinned(dockerfile: Path) -> None:
    installs = [
        arguments for name, arguments in _instructions(dockerfile) if name == "RUN" and "pip install" in arguments
    ]
    assert installs
    assert all("--constraint /constraints.txt" in install for install in installs)


@each_dockerfile
def test_the_image_does_not_run_as_root(dockerfile: Path) -> None:
    final = _stages(dockerfile)[-1]
    user = dict(final)["USER"]
    assert user not in ("root", "0")
    assert any(name == "RUN" and re.search(rf"useradd .*\b{user}$", arguments) for name, arguments in final)
    # What comes after the last USER must not need root.
    after = final[[name for name, _ in final].index("USER") + 1 :]
    assert {name for name, _ in after} <= {"CMD"}


@each_dockerfile
def test_no_secret_goes_into_an_image(dockerfile: Path) -> None:
    assert not re.search(r"(?i)password|token|secret|DNNAMO_\w+_URL", dockerfile.read_text())


@each_dockerfile
def test_the_image_has_a_python_that_dnnamo_supports(dockerfile: Path) -> None:
    oldest = _pyproject()["project"]["requires-python"].removeprefix(">=")
    bases = {arguments.split()[0] for name, arguments in _instructions(dockerfile) if name == "FROM"}
    assert bases == {f"python:{oldest}-slim"}


def _pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_direct_dependency_is_pinned() -> None:
    project = _pyproject()["project"]
    extras = project["optional-dependencies"]
    wanted = {_name(text) for group in (project["dependencies"], *extras.values()) for text in group}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    # The full TensorFlow is for machines other than CI's; an extra may name another of Dnnamo's own.
    assert wanted - {_name(pin) for pin in pins} == {"tensorflow", "dnnamo"}


def _name(requirement: str) -> str:
    match = re.match(r"[\w.-]+", requirement)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match[0]).lower()
