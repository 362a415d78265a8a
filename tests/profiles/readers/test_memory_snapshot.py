import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from dnnamo.errors import UsageError
from dnnamo.profiles.build import profile_of
from dnnamo.profiles.events import NONE
from dnnamo.profiles.readers.memory_snapshot import read
from dnnamo.profiles.recording import Recording

FRAMES = [{"name": "forward", "filename": "model.py", "line": 12}]
NOW = 1_700_000_000_000_000


def entry(action: str, addr: int, size: int, at: int, **more: Any) -> dict[str, Any]:
    where = {"device_free": addr} if action == "oom" else {"addr": addr}
    return {"action": action, **where, "size": size, "stream": 0, "time_us": NOW + at, **more}


def block(address: int, size: int, requested: int, state: str) -> dict[str, Any]:
    return {"address": address, "size": size, "requested_size": requested, "state": state, "frames": []}


def snapshot(*history: dict[str, Any], device: int = 0) -> dict[str, Any]:
    """One as PyTorch writes it: 1,000 bytes were in use before the history began, and are still."""
    blocks = [
        block(0, 1024, 1000, "active_allocated"),
        block(1024, 512, 500, "active_pending_free"),
        block(1536, 2_095_616, 0, "inactive"),
    ]
    segment = {
        "device": device,
        "address": 0,
        "total_size": 2_097_152,
        "allocated_size": 1024,
        "active_size": 1536,
        "requested_size": 1500,
        "stream": 0,
        "segment_type": "small",
        "segment_pool_id": (0, 0),
        "is_expandable": False,
        "frames": [],
        "blocks": blocks,
    }
    return {
        "segments": [segment],
        "device_traces": [[]] * device + [list(history)],
        "allocator_settings": {"PYTORCH_CUDA_ALLOC_CONF": "", "max_split_size": -1},
        "external_annotations": [],
    }


HISTORY = (
    entry("segment_alloc", 0, 2_097_152, 0),
    entry("alloc", 1024, 500, 1, frames=FRAMES),
    entry("alloc", 1536, 700, 2, pool_id=(0, 0)),
    entry("free_requested", 1536, 700, 3),
    entry("free_completed", 1536, 700, 4),
    entry("free_requested", 1024, 500, 5),
    entry("oom", 4096, 9_000_000, 6),
    entry("snapshot", 0, 0, 7),
)


def recorded(source: object) -> Recording:
    recording = read(source)
    assert recording is not None
    return recording


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "snapshot.pickle"
    path.write_bytes(pickle.dumps(snapshot(*HISTORY)))
    return path


def test_allocations_and_releases_are_memory_events(path):
    recording = recorded(path)

    events = recording.events
    changes = events.take(events.name.equal("[memory]"))
    assert recording.source == "memory_snapshot"
    assert changes.bytes.tolist() == [500, 700, -700]
    assert changes.start_ns.tolist() == [(NOW + at) * 1000 for at in (1, 2, 4)]
    assert changes.args["Addr"].tolist() == [1024, 1536, 1536]
    assert set(changes.category.to_list()) == {"cpu_instant_event"}
    assert changes.device.tolist() == changes.stream.tolist() == [0, 0, 0]


def test_the_sum_ends_at_what_the_segments_hold(path):
    events = recorded(path).events

    changes = events.take(events.name.equal("[memory]"))
    assert changes.args["Total Allocated"].tolist() == [1500, 2200, 1500]
    assert changes.args["Total Reserved"].tolist() == [2_097_152] * 3
    profile, _ = profile_of(recorded(path))
    assert profile.peak_bytes == {"gpu 0": 2200}


def test_other_events_keep_their_own_names(path):
    events = recorded(path).events

    others = events.take(~events.name.equal("[memory]"))
    assert others.name.to_list() == ["segment_alloc", "free_requested", "free_requested", "oom", "snapshot"]
    assert others.bytes.tolist() == [2_097_152, NONE, NONE, NONE, NONE]
    assert others.args["size"].tolist() == [2_097_152, 700, 500, 9_000_000, 0]
    assert others.args["device_free"].tolist() == [NONE, NONE, NONE, 4096, NONE]
    assert others.args["Total Allocated"].tolist() == [NONE] * 5


def test_stacks_and_further_values_are_kept(path):
    recording = recorded(path)

    frames = recording.events.args["frames"].to_list()
    assert [json.loads(said) for said in frames if said] == [FRAMES]
    assert "[0,0]" in recording.events.args["pool_id"].to_list()
    assert recording.header["allocator_settings"]["max_split_size"] == -1
    assert recording.header["segments"][0]["total_size"] == 2_097_152


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_any_protocol_of_pickle_is_read(path, protocol):
    path.write_bytes(pickle.dumps(snapshot(*HISTORY), protocol))

    assert len(recorded(str(path)).events) == len(HISTORY)


def test_the_dictionary_itself_is_read(path):
    assert recorded(snapshot(*HISTORY)).events.to_arrow() == recorded(path).events.to_arrow()


def test_each_device_has_its_own_history():
    both = snapshot(*HISTORY, device=1)
    both["device_traces"][0] = [entry("alloc", 0, 64, 0)]

    profile, _ = profile_of(recorded(both))

    assert profile.peak_bytes == {"gpu 0": 0, "gpu 1": 2200}


def test_a_history_that_does_not_fit_its_segments_is_damage():
    (sentence,) = recorded(snapshot(entry("alloc", 0, 9_000, 0), entry("free_completed", 0, 64, 1))).damage

    assert sentence.startswith("The history of device 0 does not fit its segments")


def test_a_snapshot_of_an_old_pytorch_has_no_times():
    old = snapshot(*({k: v for k, v in entry.items() if k != "time_us"} for entry in HISTORY))

    recording = recorded(old)

    assert recording.events.start_ns.tolist() == [at * 1000 for at in range(len(HISTORY))]
    assert "no times" in recording.header["limits"][0]


class Attack:
    def __reduce__(self) -> Any:
        return os.mkdir, ("attacked",)


@pytest.mark.parametrize("place", ["segments", "device_traces", "anything"])
def test_code_in_a_pickle_is_never_run(path, place, monkeypatch):
    monkeypatch.chdir(path.parent)
    path.write_bytes(pickle.dumps({**snapshot(*HISTORY), place: [Attack()]}))

    with pytest.raises(UsageError, match=r"snapshot\.pickle is not read: it holds code \(posix\.mkdir\)"):
        read(path)
    assert not Path("attacked").exists()


@pytest.mark.parametrize("end", [40, 300, -1])
def test_a_file_cut_short_is_named(path, end):
    path.write_bytes(path.read_bytes()[:end])

    with pytest.raises(UsageError, match=r"snapshot\.pickle is damaged, or cut short"):
        read(path)


@pytest.mark.parametrize("history", [[["no entry"]], [[{"action": "alloc"}]], [3], None])
def test_a_history_that_makes_no_sense_is_an_error(history):
    with pytest.raises(UsageError, match="snapshot of PyTorch is damaged"):
        read({**snapshot(), "device_traces": history})


def test_says_how_to_record_a_history_where_there_is_none():
    with pytest.raises(UsageError, match="_record_memory_history"):
        read(snapshot())


@pytest.mark.parametrize("content", [b"", b"\x80", b"{}", b"PK\x03\x04", pickle.dumps({"state": 1}), pickle.dumps([1])])
def test_leaves_other_files_to_others(content, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(content)

    assert read(path) is None


@pytest.mark.parametrize("other", [None, 3, {}, {"segments": []}, b"\x80\x04", "missing.pickle", Path()])
def test_leaves_other_things_to_others(other):
    assert read(other) is None
