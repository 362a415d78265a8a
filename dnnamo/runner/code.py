"""The code that a job brought along: enter it, check what it requires, and name its files as the user knows them."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from dnnamo.errors import Unsupported
from dnnamo.runner.wire import Request

__all__ = ["Named", "entered", "readable"]


class Named(NamedTuple):
    """What a job's model is called in this process, and the options that its loader is given."""

    reference: str
    params: dict[str, Any]


@contextmanager
def entered(request: Request) -> Iterator[Named]:
    """Make the folder of a job's code the working folder, and yield what the model is called then.

    Nothing changes for a job that brought no code.

    Raises:
        Unsupported: If its requirements are not met here, or the block imports what is not here.
    """
    spec = request.spec
    if request.code is None or spec.bundle is None:
        yield Named(spec.model, spec.params)
        return
    os.chdir(request.code)
    sys.dont_write_bytecode = True  # it could not be written there, and nobody would find it
    _check_requirements(spec.model, Path(request.code))
    moved = {f"{folder.rstrip('/')}/": f"{request.code}/" for folder in spec.bundle.folders}
    try:
        yield Named(_moved(spec.model, moved), {name: _moved(value, moved) for name, value in spec.params.items()})
    except ModuleNotFoundError as error:
        if error.name is None or _is_here(error.name.partition(".")[0]):
            raise
        raise _missing(error.name, spec.model) from error


def _check_requirements(model: str, folder: Path) -> None:
    if not any((folder / name).exists() for name in ("requirements.txt", "pyproject.toml")):
        return
    from dnnamo.runner.requirements import Requirements  # takes a while, and few models have any

    requirements = Requirements.of(folder)
    if lacking := requirements.lacking():
        source = requirements.source
        raise Unsupported(
            f"{socket.gethostname()} lacks what {source} beside the model {model} requires: {', '.join(lacking)}. "
            f"Install that there for {sys.executable}, name an interpreter that has it with --python, or leave "
            f"{source} out with a line in .dnnamoignore if the model can do without."
        )


def _moved(value: Any, moved: dict[str, str]) -> Any:
    """Return a reference or path below a folder that came along as what it is here; anything else as it is."""
    if not isinstance(value, str):
        return value
    for there, here in moved.items():
        scheme, colon, rest = ("", "", value) if value.startswith("/") else value.partition(":")
        if rest.startswith(there):
            return f"{scheme}{colon}{here}{rest[len(there) :]}"
    return value


def _is_here(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return True


def _missing(module: str, model: str) -> Unsupported:
    return Unsupported(
        f"The model {model} imports {module!r}, which is neither among the files that came with the job nor installed "
        f"on {socket.gethostname()} for {sys.executable}. Install it there, name an interpreter that has it with "
        "--python, or put it into the model's folder, which is all that comes along, less what ignore files leave out."
    )


def readable(text: str, request: Request) -> str:
    """Return a text with the paths of a job's code as they are within it."""
    if request.code is None:
        return text
    return text.replace(f"{request.code}/", "").replace(request.code, "the job's code")
