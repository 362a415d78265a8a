import os
import struct
import threading
from pathlib import Path

import pytest

from dnnamo.records import JobSpec, Outcome
from dnnamo.runner.wire import MAX_FRAME_BYTES, FrameReader, Request, send

OUTCOME = Outcome(state="failed", cause="user_error", message="ä\n\0")


def frame(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


def read_all(fd) -> bytes:
    with os.fdopen(fd, "rb") as pipe:
        return pipe.read()


def sent(outcome) -> bytes:
    """What comes out of a pipe that an outcome was sent into."""
    ours, theirs = os.pipe()
    thread = threading.Thread(target=lambda: (send(theirs, outcome), os.close(theirs)))
    thread.start()
    try:
        return read_all(ours)
    finally:
        thread.join()


def test_a_request_survives_its_json_form():
    request = Request(
        spec=JobSpec(model="demo:mlp", method="run_inference", params={"a": [1, 2.5, None]}),
        scratch="/tmp/a b",
        weights="/tmp/w",
    )

    assert Request.from_json(request.to_json()) == request
    assert request.folder == Path("/tmp/a b")


def test_a_frame_is_the_length_and_the_json():
    assert sent(OUTCOME) == frame(OUTCOME.to_json())


def test_an_outcome_larger_than_a_pipe_arrives_whole():
    outcome = Outcome(state="failed", message="x" * 10**6)
    reader = FrameReader()
    reader.feed(sent(outcome))

    assert reader.outcome == outcome


def test_nothing_is_reported_before_the_last_byte_came():
    reader = FrameReader()
    data = frame(OUTCOME.to_json())

    for byte in data[:-1]:
        reader.feed(bytes([byte]))
        assert reader.outcome is None
    reader.feed(data[-1:])

    assert reader.outcome == OUTCOME
    assert reader.outcome == OUTCOME


def test_the_first_frame_counts():
    reader = FrameReader()
    reader.feed(frame(OUTCOME.to_json()) + frame(Outcome(state="succeeded").to_json()) + b"rest")

    assert reader.outcome == OUTCOME


@pytest.mark.parametrize(
    "data", [frame(b"{}"), frame(b""), frame(b"\xff\xfe"), frame(b'{"state": "well"}'), frame(b"[1]"), b"hello world"]
)
def test_what_is_no_report_is_a_value_error(data):
    reader = FrameReader()
    reader.feed(data)

    with pytest.raises(ValueError):
        _ = reader.outcome


def test_a_frame_that_would_be_too_long_is_refused_by_its_header():
    reader = FrameReader()
    reader.feed(struct.pack(">I", MAX_FRAME_BYTES + 1))

    with pytest.raises(ValueError, match=f"a frame of {MAX_FRAME_BYTES + 1} bytes, more than the {MAX_FRAME_BYTES}"):
        _ = reader.outcome


def test_a_frame_of_the_greatest_length_is_waited_for():
    reader = FrameReader()
    reader.feed(struct.pack(">I", MAX_FRAME_BYTES))

    assert reader.outcome is None
