"""Read a file of somebody else's kind: whatever its reader raises becomes one paragraph."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dnnamo.errors import DnnamoError, LoaderError, ModelNotFound

__all__ = ["existing", "reading"]


def existing(scheme: str, path: str, *, is_folder: bool = False) -> Path:
    """Return the path of a file, or of a folder, that is there.

    Raises:
        ModelNotFound: If it is not, or is the other of the two; with what the folder has.
    """
    place = Path(path)
    if place.is_dir() if is_folder else place.is_file():
        return place
    wanted = "folder" if is_folder else "file"
    instead = f" It is a {'file' if is_folder else 'folder'}." if place.exists() else ""
    raise ModelNotFound(f"There is no {wanted} {path} on this machine, which {scheme}: needs.{instead}")


@contextmanager
def reading(path: Path, kind: str, *, remedy: str) -> Iterator[None]:
    """Have errors in the block, which reads a file, name the file, what it should be and what to do.

    Raises:
        LoaderError: For everything but Dnnamo's own errors and the end of memory.
    """
    try:
        yield
    except (DnnamoError, MemoryError):
        raise
    except Exception as error:  # readers of archives, graphs and pickles raise what their parts raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LoaderError(f"{path} cannot be read as {kind}: {reason.rstrip('.')}. {remedy}") from error
