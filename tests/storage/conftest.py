"""Fixtures of the tests of `Store`."""

from collections.abc import Iterator

import pytest

from dnnamo_storage import Store


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with Store.open(database_url) as store:
        yield store
