"""The two ways to run Dnnamo: a cluster of Redis, PostgreSQL and a worker process, and embedded."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.place import Place
from tests.servers import fresh_database
from tests.test_compose import worker_command


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, redis_url: str, postgres_server: str) -> Iterator[Place]:
    """A cluster that all tests share, its worker started with the command of docker-compose.yml."""
    home = tmp_path_factory.mktemp("cluster")
    with fresh_database(postgres_server) as database_url:
        place = Place(home, database_url=database_url, broker_url=redis_url)
        place.dnnamo("db", "upgrade")
        with place.worker(worker_command("cpu"), fresh=True):
            yield place


@pytest.fixture
def embedded(tmp_path: Path) -> Place:
    """Nothing configured but the data folder: jobs run in the process that submits them."""
    return Place(tmp_path)


@pytest.fixture(params=["cluster", "embedded"])
def place(request: pytest.FixtureRequest) -> Place:
    """Each of the two."""
    found: Place = request.getfixturevalue(request.param)
    return found
