"""Fixtures for commands that run in this process."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dnnamo.cli import app
from dnnamo.client import session
from dnnamo_storage import Store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The store that commands find. A broker is configured, which is not there: nothing may need it."""
    monkeypatch.setenv("DNNAMO_HOME", str(tmp_path))
    monkeypatch.setenv("DNNAMO_BROKER_URL", "redis://127.0.0.1:1/0")
    monkeypatch.delenv("DNNAMO_DATABASE_URL", raising=False)
    with session().store as found:
        yield found


class Said:
    """What a command printed, and what it raised for `main` to turn into words and an exit code."""

    def __init__(self, *words: object) -> None:
        done = CliRunner().invoke(app, list(map(str, words)))
        self.out, self.err, self.error = done.stdout, done.stderr, done.exception

    @classmethod
    def well(cls, *words: object) -> "Said":
        """Run a command that must end well."""
        said = cls(*words)
        if said.error is not None:
            raise said.error
        return said
