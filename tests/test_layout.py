"""The house keeps its shape: which part may import which, what loads lazily, what ships."""

import ast
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    name: ROOT / folder / name
    for folder, name in ((".", "dnnamo"), ("workers", "dnnamo_workers"), ("storage", "dnnamo_storage"))
}
FRAMEWORKS = ("torch", "tensorflow", "keras", "jax", "onnx", "onnxruntime")
QUEUE = ("celery", "kombu")
OURS = tuple(PACKAGES)


class Import(NamedTuple):
    """One module that another one imports."""

    importer: str
    imported: str
    is_lazy: bool
    """In a function, or for the type checker alone."""

    def __str__(self) -> str:
        return f"{self.importer} -> {self.imported}"


@cache
def _modules() -> dict[str, Path]:
    """Return each module of the three packages by its name, migrations left out: Alembic loads them by path."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if "migrations" not in parts:
                found[".".join((package, *(part for part in parts if part != "__init__")))] = path
    return found


def _trees() -> dict[str, ast.Module]:
    return {name: ast.parse(path.read_text()) for name, path in _modules().items()}


@cache
def _imports() -> tuple[Import, ...]:
    return tuple(found for name, tree in _trees().items() for found in _imports_in(name, tree, is_lazy=False))


def _imports_in(importer: str, node: ast.AST, *, is_lazy: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(importer, alias.name, is_lazy) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{importer} has a relative import"
        yield from (Import(importer, name, is_lazy) for name in _from(node))
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        is_lazy = True
    for child in ast.iter_child_nodes(node):
        yield from _imports_in(importer, child, is_lazy=is_lazy or _is_for_types(node))


def _from(node: ast.ImportFrom) -> Iterator[str]:
    """Yield what `from module import name` imports: a name may be a module itself."""
    module = node.module or ""
    for alias in node.names:
        full = f"{module}.{alias.name}"
        yield full if full in _modules() else module


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def _is_in(module: str, *places: str) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def _violations(importers: tuple[str, ...], *forbidden: str, allowed: tuple[str, ...] = ()) -> list[str]:
    return [
        str(found)
        for found in _imports()
        if _is_in(found.importer, *importers)
        and _is_in(found.imported, *forbidden)
        and not _is_in(found.imported, *importers, *allowed)
    ]


def test_the_walk_finds_modules_and_imports() -> None:
    assert {
        "dnnamo",
        "dnnamo.errors",
        "dnnamo.runner.__main__",
        "dnnamo_workers.worker",
        "dnnamo_storage.store",
    } <= set(_modules())
    assert Import("dnnamo.records", "dnnamo.errors", is_lazy=False) in _imports()
    assert Import("dnnamo.client", "dnnamo_storage", is_lazy=True) in _imports()


@pytest.mark.parametrize(
    ("importer", "allowed"),
    [
        ("dnnamo.errors", ()),
        ("dnnamo.frozen", ()),
        ("dnnamo.graphs", ("dnnamo.frozen", "dnnamo.errors", "dnnamo.plugins")),
        ("dnnamo.records", ("dnnamo.errors", "dnnamo.frozen", "dnnamo.graphs.records", "dnnamo.intermediates.records")),
        ("dnnamo.intermediates", ("dnnamo.frozen", "dnnamo.errors", "dnnamo.selection")),
        ("dnnamo.model", ("dnnamo.records", "dnnamo.errors")),
        ("dnnamo.settings", ("dnnamo.errors", "dnnamo.sizes")),
        ("dnnamo.profiles", ("dnnamo.records", "dnnamo.errors", "dnnamo.plugins")),
        ("dnnamo_storage", ("dnnamo.records", "dnnamo.graphs", "dnnamo.intermediates", "dnnamo.errors")),
    ],
)
def test_a_part_imports_only_what_is_below_it(importer: str, allowed: tuple[str, ...]) -> None:
    assert _violations((importer,), *OURS, allowed=allowed) == []


def test_profiles_graphs_and_intermediates_are_read_without_a_framework() -> None:
    assert _violations(("dnnamo.profiles", "dnnamo.graphs", "dnnamo.intermediates"), *FRAMEWORKS) == []


def test_the_runner_knows_nothing_of_what_started_it() -> None:
    core = ("dnnamo.runner", "dnnamo.loaders", "dnnamo.frameworks")
    assert (
        _violations(core, "dnnamo_storage", "dnnamo_workers", "dnnamo.client", "dnnamo.cli", *QUEUE, "sqlalchemy") == []
    )


def test_storage_runs_no_models_and_no_queue() -> None:
    assert _violations(("dnnamo_storage",), *FRAMEWORKS, *QUEUE) == []


def test_only_the_doors_look_back_and_only_lazily() -> None:
    back = [
        f for f in _imports() if _is_in(f.importer, "dnnamo") and _is_in(f.imported, "dnnamo_storage", "dnnamo_workers")
    ]
    assert [
        str(found) for found in back if not _is_in(found.importer, "dnnamo.client", "dnnamo.cli", "dnnamo.server")
    ] == []
    assert [str(found) for found in back if not found.is_lazy] == []


def test_workers_use_the_core_and_never_the_doors_or_a_framework() -> None:
    doors = ("dnnamo.client", "dnnamo.cli", "dnnamo.server")
    assert _violations(("dnnamo_workers",), *FRAMEWORKS, "dnnamo.frameworks", "dnnamo.loaders", *doors) == []


def test_jobs_run_without_the_queue() -> None:
    queueless = tuple(f"dnnamo_workers.{name}" for name in ("supervisor", "process", "embedded", "devices"))
    assert set(queueless) <= set(_modules())
    assert _violations(queueless, *QUEUE, "redis") == []


@pytest.mark.parametrize(
    ("module", "not_loaded"),
    [
        (
            "dnnamo",
            {
                *FRAMEWORKS,
                *QUEUE,
                "redis",
                "sqlalchemy",
                "alembic",
                "pandas",
                "numpy",
                "pydantic",
                "typer",
                "rich",
                "google.protobuf",
            },
        ),
        ("dnnamo.cli", {*FRAMEWORKS, *QUEUE, "redis", "sqlalchemy", "alembic", "pandas", "numpy", "pydantic_settings"}),
        (
            "dnnamo.runner.execute",
            {*QUEUE, "redis", "sqlalchemy", "alembic", "pandas", "pydantic", "typer", "rich", *FRAMEWORKS},
        ),
        ("dnnamo.profiles.readers.kineto", {*FRAMEWORKS, *QUEUE, "sqlalchemy"}),
        ("dnnamo.profiles.readers.xspace", {*FRAMEWORKS, *QUEUE, "sqlalchemy"}),
        ("dnnamo_storage", {*FRAMEWORKS, *QUEUE, "redis", "alembic", "pandas"}),
        ("dnnamo_workers.embedded", {*FRAMEWORKS, *QUEUE, "redis", "alembic", "pandas"}),
        ("dnnamo_workers.worker", {*FRAMEWORKS, "alembic", "pandas"}),
    ],
)
def test_an_import_stays_light(module: str, not_loaded: set[str]) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True, timeout=60)
    loaded = done.stdout.split()
    assert module in loaded
    assert not_loaded & set(loaded) == set()


def test_every_module_says_what_it_is() -> None:
    assert [name for name, tree in _trees().items() if not ast.get_docstring(tree)] == []


def test_every_module_has_a_door() -> None:
    without = {name for name, tree in _trees().items() if _public(tree) and not _listed(tree)}
    assert {name for name in without if not name.endswith(".__main__")} == set()


def test_a_door_leads_somewhere() -> None:
    missing = {name: set(_listed(tree)) - _bound(tree) for name, tree in _trees().items()}
    assert {name: names for name, names in missing.items() if names} == {}


def _bound(tree: ast.Module) -> set[str]:
    """Return every name that a module binds at its top level, by definition, assignment or import."""
    imported = {
        alias.asname or alias.name.partition(".")[0]
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    return _defined(tree) | imported


def _public(tree: ast.Module) -> set[str]:
    return {name for name in _defined(tree) if not name.startswith("_")}


def _defined(tree: ast.Module) -> set[str]:
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def _listed(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


@pytest.mark.parametrize("folder", ["workers", "storage"])
def test_a_source_root_is_no_package(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize("package", PACKAGES)
def test_types_ship(package: str) -> None:
    assert (PACKAGES[package] / "py.typed").is_file()


def test_the_wheel_holds_the_three_packages(tmp_path: Path) -> None:
    builder = pytest.importorskip(
        "hatchling.builders.wheel", reason="hatchling, which builds the wheel, is not installed"
    )
    (wheel,) = builder.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    for package, folder in PACKAGES.items():
        files = {path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
        assert {f"{package}/{path.relative_to(folder).as_posix()}" for path in files} <= names
    assert {"dnnamo_storage/migrations/env.py", "dnnamo_storage/migrations/script.py.mako"} <= names
    assert any(name.startswith("dnnamo_storage/migrations/versions/r0001") for name in names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
