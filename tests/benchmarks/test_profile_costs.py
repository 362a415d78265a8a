"""What `benchmarks.profiles` prints of a peer."""

import sys
from pathlib import Path

import pytest

from benchmarks import profiles

OURS = [{"seconds": 1.0, "cpu_seconds": 1.0, "peak_bytes": 100e6}]


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(profiles, "PEERS_PYTHON", Path(sys.executable))
    monkeypatch.setattr(profiles, "TRACES", tmp_path)
    (tmp_path / "first.json").write_text("{}")
    return tmp_path


def _compared(folder: Path, source: str, capsys: pytest.CaptureFixture[str]) -> str:
    script = folder / "peer.py"
    script.write_text(source)
    profiles.compare("HTA", OURS, [profiles.peer_reads(script, folder / "trace.json")])
    return capsys.readouterr().out


def test_a_peer_is_told_by_time_and_memory(peers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = _compared(peers, """print('{"seconds": 9.0, "cpu_seconds": 8.0, "peak_bytes": 400e6}')""", capsys)
    assert "9.0 x faster   bar 8 x (8.0 x by CPU time); 0.25 of its memory" in said


def test_a_peer_that_cannot_read_a_file_is_said_to(peers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "HTA                  cannot read this file: KeyError: 'name'" in _compared(peers, "{}['name']", capsys)


def test_our_own_failure_ends_the_benchmark(peers: Path) -> None:
    with pytest.raises(SystemExit, match="ValueError: ours"):
        profiles.child([sys.executable, "-c", "raise ValueError('ours')"])
