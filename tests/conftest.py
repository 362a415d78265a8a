"""Fixtures that more than one folder of tests needs."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.servers import fresh_database, start_postgres, start_redis

_ROOM_BYTES = 4 << 30
"""What PostgreSQL finds enough; most of it is its log, which has 1 GiB by default."""


@pytest.fixture(scope="session", autouse=True)
def _own_locks(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Have the tests share this machine's cores with others who use them, rather than wait for them."""
    os.environ["DNNAMO_LOCKS"] = str(tmp_path_factory.mktemp("locks"))


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Redis that all tests of the session share; take a database number or key prefix of your own."""
    with start_redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server's administration database."""
    # Not below pytest's folder: PostgreSQL runs as a user of its own where we are root, and the next pytest to start
    # on this machine makes that folder unreadable for others.
    with TemporaryDirectory(prefix="dnnamo-postgres-", dir=_memory()) as folder, start_postgres(Path(folder)) as url:
        yield url


def _memory() -> Path | None:
    """A folder that is no disk: a database is hundreds of files, and each test makes one. None where it is small."""
    place = Path("/dev/shm")
    if place.is_dir() and os.access(place, os.W_OK) and shutil.disk_usage(place).free > _ROOM_BYTES:
        return place
    return None


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """URL of an empty PostgreSQL database, a new one for each test."""
    with fresh_database(postgres_server) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database; the test runs on each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'data' / 'dnnamo.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url
