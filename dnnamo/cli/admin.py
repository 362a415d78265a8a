"""`doctor`, `db`, `config`: the verbs about the installation."""

import platform
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, NamedTuple

import typer

from dnnamo.cli.output import Format, Output, show_rows
from dnnamo.errors import DnnamoError, InfrastructureError
from dnnamo.sizes import as_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from dnnamo.settings import Settings

__all__ = ["config", "db", "doctor"]

db = typer.Typer(help="Look after the database's schema.", no_args_is_help=True)

_OPTIONAL = {
    "torch": "torch",
    "tensorflow-cpu": "tensorflow",
    "onnxruntime": "onnx",
    "celery": "worker",
    "psycopg": "postgres",
}


@db.command("upgrade")
def _upgrade() -> None:
    """Bring the database's schema to this version of Dnnamo, or make it in an empty database."""
    from dnnamo.settings import load_settings, masked
    from dnnamo_storage import open_engine, upgrade

    url = load_settings().database
    upgrade(open_engine(url))
    typer.echo(f"{masked(url)} has the schema of this version.")


def config(output: Output = Format.table) -> None:
    """Show each setting, its value, and where that came from; passwords are left out."""
    from dnnamo.settings import load_settings, masked, sources

    settings, origin = load_settings(), sources()
    values = {
        **settings.model_dump(mode="json"),
        "database_url": masked(settings.database),
        "broker_url": masked(settings.broker) if settings.broker else None,
    }
    if output is Format.table:
        values |= _readable(settings)
    rows = [{"setting": name, "value": value, "source": origin[name]} for name, value in values.items()]
    show_rows(rows, ("setting", "value", "source"), output)


def _readable(settings: "Settings") -> dict[str, str]:
    """Return the sizes and the lists of paths as people write them."""
    given = dict(settings)
    limits = ("memory_limit", "output_limit", "scratch_limit")
    sizes = {name: as_size(given[name]) for name in limits if given[name] is not None}
    return sizes | {name: ":".join(map(str, value)) for name, value in given.items() if isinstance(value, tuple)}


class _Finding(NamedTuple):
    """One line of `doctor`: `ok` is None where a thing is merely absent."""

    ok: bool | None
    text: str


def doctor(output: Output = Format.table) -> None:
    """Check what Dnnamo needs and say what is missing; exit code 3 if database or broker cannot be used."""
    from dnnamo.settings import load_settings

    settings = load_settings()
    checks: dict[str, Callable[[], _Finding]] = {
        "python": lambda: _Finding(ok=True, text=platform.python_version()),
        "dnnamo": lambda: _Finding(ok=True, text=version("dnnamo")),
        **{name: partial(_package, name, extra) for name, extra in _OPTIONAL.items()},
        "gpu": _gpus,
        "database": partial(_database, settings),
        "broker": partial(_broker, settings),
        "workers": partial(_workers, settings),
    }
    found = {name: check() for name, check in checks.items()}
    marks = {True: "ok", None: "-", False: "bad"}
    rows = [{"check": name, "state": marks[it.ok], "finding": it.text} for name, it in found.items()]
    show_rows(rows, ("check", "state", "finding"), output)
    if any(it.ok is False for it in found.values()):
        raise InfrastructureError("Something that Dnnamo needs cannot be used; the lines marked bad say what and why.")


def _package(name: str, extra: str) -> _Finding:
    try:
        return _Finding(ok=True, text=version(name))
    except PackageNotFoundError:
        return _Finding(ok=None, text=f"not installed: pip install 'dnnamo[{extra}]'")


def _gpus() -> _Finding:
    from dnnamo.runner.environment import gpus_and_driver

    gpus, driver = gpus_and_driver()
    if not gpus:
        return _Finding(ok=None, text="none that NVML sees")
    return _Finding(ok=True, text=f"{', '.join(gpu.name for gpu in gpus)}; driver {driver}")


def _database(settings: "Settings") -> _Finding:
    from dnnamo.settings import masked
    from dnnamo_storage import Store

    try:
        Store.open(settings.database).close()
    except DnnamoError as error:
        return _Finding(ok=False, text=str(error))
    return _Finding(ok=True, text=masked(settings.database))


def _broker(settings: "Settings") -> _Finding:
    if settings.broker is None:
        return _Finding(ok=None, text="not configured: jobs run in the process that submits them")
    from dnnamo.settings import masked

    try:
        from dnnamo_workers.app import check_broker, make_app

        check_broker(make_app(settings.broker))
    except DnnamoError as error:
        return _Finding(ok=False, text=str(error))
    return _Finding(ok=True, text=masked(settings.broker))


def _workers(settings: "Settings") -> _Finding:
    from dnnamo_storage import Store

    try:
        with Store.open(settings.database) as store:
            alive = store.workers()
    except DnnamoError:
        return _Finding(ok=None, text="unknown, as the database cannot be used")
    served = [f"{worker.name} ({', '.join(worker.queues)}; slots: {worker.slots})" for worker in alive]
    return _Finding(ok=True if served else None, text="; ".join(served) or "none")
