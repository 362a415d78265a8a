"""Files that are whole or not there."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

__all__ = ["replacing"]


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file for bytes that takes the place of the one at `path` when it is whole; gzipped if that ends so."""
    draft = path.with_name(f".{path.name}.part")
    try:
        with draft.open("wb") as file:
            if path.suffix == ".gz":
                with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
                    yield cast("BinaryIO", packed)
            else:
                yield file
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
