"""Import an optional package, or say in one paragraph why that does not work."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from dnnamo.errors import LoaderError, MissingExtra

__all__ = ["imported"]

_FITTING = ("torch", "torchvision", "tensorflow", "keras")


def imported(package: str, *, extra: str) -> Any:
    """Return an installed package, imported.

    Raises:
        MissingExtra: If it is not installed.
        LoaderError: If it is, and does not fit what else is: its import fails.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name == package:
            raise MissingExtra(package, extra=extra) from error
        raise _broken(package, extra, error) from error
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        # torchvision raises a RuntimeError where its operators were built for another PyTorch.
        raise _broken(package, extra, error) from error


def _broken(package: str, extra: str, error: Exception) -> LoaderError:
    others = ", ".join(f"{name} {found}" for name in _FITTING if name != package and (found := _version(name)))
    reason = " ".join(str(error).split())
    return LoaderError(
        f"{package} {_version(package)} is installed, but cannot be imported beside {others}: {reason}. Install "
        f"versions that belong together, of one index and for the same kind of device: pip install 'dnnamo[{extra}]' "
        "in a new environment does that."
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
