"""What is wrong with a trace is told, and what is right in it is kept; nothing is guessed."""

import gzip
import json
import re
import zipfile
from io import BytesIO

import pytest

from dnnamo.errors import UsageError
from dnnamo.profiles.readers import growing, pieces
from dnnamo.profiles.readers.chrome import read, read_stream


def span(number, **fields):
    event = {"ph": "X", "cat": "cpu_op", "name": f"op {number}", "pid": 1, "tid": 1, "ts": number * 10.0, "dur": 2.5}
    return {**event, "args": {"External id": number, "Input Dims": [[2, 3], []], "text": '"}, {"'}, **fields}


def text_of(events, indent=None):
    return json.dumps({"schemaVersion": 1, "traceEvents": events, "traceName": "t.json"}, indent=indent).encode()


def recorded(text):
    return read_stream(BytesIO(text), name="t.json")


def names(recording):
    return recording.events.name.to_list()


def complete_before(text, end):
    """How many of the events in a text are complete before a byte."""
    starts = [found.start() for found in re.finditer(rb'\{\s*"ph"', text)]
    ends = [json.JSONDecoder().raw_decode(text.decode(), start)[1] for start in starts]
    return sum(at <= end for at in ends)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("size", [50, 1 << 20])
def test_a_file_cut_off_anywhere_gives_its_complete_events_and_says_so(monkeypatch, indent, size):
    monkeypatch.setattr(pieces, "CHUNK", size)
    text = text_of([span(number) for number in range(3)], indent)
    assert recorded(text).damage == []

    for end in range(len(text)):
        whole = complete_before(text, end)
        if whole == 0:
            with pytest.raises(UsageError, match=r"t\.json"):
                recorded(text[:end])
            continue
        found = recorded(text[:end])
        assert names(found) == [f"op {number}" for number in range(whole)], end
        assert found.damage or not text[end:].strip(), end


def test_where_a_file_ends_is_told_by_event_and_byte():
    text = text_of([span(number) for number in range(3)])
    at = text.index(b'{"ph": "X"', text.index(b"op 1"))

    (damage,) = recorded(text[: at + 30]).damage[:1]

    assert damage == (
        f"The file ends within event 3, which begins at byte {at:,} of its text; what came after is missing."
    )


def test_a_compressed_file_cut_off_gives_what_can_be_unpacked(tmp_path):
    packed = gzip.compress(text_of([span(number, noise=str(hash(number))) for number in range(2_000)]))
    (tmp_path / "t.json.gz").write_bytes(packed[: len(packed) // 2])

    found = read(tmp_path / "t.json.gz")

    assert 500 < len(found.events) < 1_500
    assert found.damage[0] == "The compressed file is cut off."
    assert "ends within event" in found.damage[1]


@pytest.mark.parametrize("size", [100, 1 << 20])
@pytest.mark.parametrize(
    ("good", "bad"), [(b'"op 5"', b'op 5"'), (b'"op 5", ', b'"op 5" '), (b'"op 5"', b"\0\0\0\0\0\0")]
)
def test_damage_in_the_middle_is_an_error_that_names_the_place(monkeypatch, size, good, bad):
    monkeypatch.setattr(pieces, "CHUNK", size)
    text = text_of([span(number) for number in range(40)])
    at = text.index(good)

    with pytest.raises(UsageError) as raised:
        recorded(text.replace(good, bad))

    message = str(raised.value)
    assert "'t.json'" in message
    place = int(re.search(r"byte ([\d,]+) ", message)[1].replace(",", ""))
    assert at <= place <= at + 10
    assert "copy the file again" in message


def test_a_gzip_with_a_flipped_byte_is_an_error(tmp_path):
    packed = bytearray(gzip.compress(text_of([span(number) for number in range(500)])))
    packed[len(packed) // 2] ^= 0xFF
    (tmp_path / "t.json.gz").write_bytes(packed)

    with pytest.raises(UsageError, match=r"t\.json\.gz"):
        read(tmp_path / "t.json.gz")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"hello", "no JSON: it begins with 'hello'"),
        (b"{", "no JSON from byte"),
        (b"[", "no complete event"),
        (b'{"traceEvents": []}', "no complete event"),
        (b'{"traceEvents": [{"ph": "X"', "no complete event"),
        (b'{"a": 1, "b": 2}', "no 'traceEvents' but 'a', 'b'"),
        (b"{}", "no 'traceEvents' but nothing"),
        (b'{"a": {"traceEvents": []}}', "no 'traceEvents' but 'a'"),
        (b"[1, 2]", "no complete event"),
        (b'["a"]', "no complete event"),
    ],
)
def test_what_holds_no_event_is_an_error_that_says_what_was_found(tmp_path, text, words):
    (tmp_path / "t.json").write_bytes(text)

    with pytest.raises(UsageError, match=re.escape(words)):
        read(tmp_path / "t.json")


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        read(tmp_path / "t.json")


def test_an_archive_must_hold_one_trace(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("a.json", text_of([span(1)]))
        archive.writestr("b.json", text_of([span(1)]))

    with pytest.raises(UsageError, match=r"2 of them \(a\.json, b\.json\)"):
        read(tmp_path / "t.zip")


def test_an_archive_cut_off_is_an_error(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("a.json", text_of([span(1)]))
    (tmp_path / "t.zip").write_bytes((tmp_path / "t.zip").read_bytes()[:-30])

    with pytest.raises(UsageError, match="cannot be unpacked"):
        read(tmp_path / "t.zip")


def without(event, *fields):
    return {name: value for name, value in event.items() if name not in fields}


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (without(span(5), "ts"), "events without a start"),
        (span(5, ts=None), "events without a start"),
        (span(5, ts=float("nan")), "events without a start"),
        (span(5, ts="soon"), "events without a start"),
        (span(5, ts="1_0"), "events without a start"),
        (without(span(5), "dur"), "events without a duration"),
        (span(5, dur=float("inf")), "events without a duration"),
        (span(5, dur=-1), "events with a negative duration"),
        (without(span(5), "name"), "events without a name"),
        (without(span(5), "ph"), "events without a phase"),
        (17, "entries that are no events"),
        (None, "entries that are no events"),
        (["X"], "entries that are no events"),
    ],
)
def test_events_that_lack_something_are_dropped_and_counted(event, reason):
    found = recorded(text_of([span(1), event, span(2), event]))

    assert names(found) == ["op 1", "op 2"]
    assert found.dropped == {reason: 2}


@pytest.mark.parametrize(
    ("fields", "column", "value"),
    [
        ({"ts": "50.25"}, "start_ns", 50_250),
        ({"pid": 1.5}, "process", "1.5"),
        ({"tid": None}, "thread", None),
        ({"name": 12}, "name", "12"),
        ({"cat": None}, "category", None),
        ({"cat": 3}, "category", "3"),
        ({"args": None}, "duration_ns", 2_500),
        ({"args": []}, "duration_ns", 2_500),
        ({"args": {"quo\\te": 1}}, "duration_ns", 2_500),
        ({'be"side': 1}, "duration_ns", 2_500),
        ({"args": {"\N{GREEK SMALL LETTER ALPHA}": 1, "": 2, "a b": 3}, "": 4}, "duration_ns", 2_500),
    ],
)
def test_events_that_are_merely_odd_are_kept(fields, column, value):
    found = recorded(text_of([span(5, **fields)]))

    assert found.dropped == {}
    assert getattr(found.events, column)[0] == value


def test_numbers_that_json_does_not_have_are_kept_as_text_and_told():
    found = recorded(text_of([span(1, args={"x": float("nan"), "y": "NaN, inf"}), span(2, args={"x": -float("inf")})]))

    assert found.events.args["x"].to_list() == ['"NaN"', '"-Infinity"']
    assert found.events.args["y"].to_list() == ['"NaN, inf"', None]
    assert found.damage == ["2 numbers are NaN or infinite, which JSON does not have."]


def test_text_that_is_not_utf_8_is_replaced_and_told():
    found = recorded(text_of([span(1), span(2)]).replace(b"op 2", b"op \xff"))

    assert names(found) == ["op 1", "op \N{REPLACEMENT CHARACTER}"]
    assert "UTF-8" in found.damage[0]


def test_what_is_not_utf_8_in_one_argument_leaves_the_others_beside_their_events():
    events = [span(number, args={"Input type": [f"type {number}"], "Input Dims": [f"{number}"]}) for number in range(4)]
    found = recorded(text_of(events).replace(b'"2"', b'"\xff"'))

    assert found.events.shapes.to_list() == ['["0"]', '["1"]', '["\N{REPLACEMENT CHARACTER}"]', '["3"]']
    assert found.events.dtypes.to_list() == [f'["type {number}"]' for number in range(4)]


def test_columns_that_come_together_in_more_ways_than_are_remembered_stay_beside_their_events(monkeypatch):
    monkeypatch.setattr(growing, "_MOST_TOGETHER", 2)
    monkeypatch.setattr(pieces, "CHUNK", 400)
    events = [span(number, args={"Input Dims": [[number]], "Input type": [f"type {number}"]}) for number in range(40)]
    found = recorded(text_of(events))

    assert found.events.shapes.to_list() == [f"[[{number}]]" for number in range(40)]
    assert found.events.dtypes.to_list() == [f'["type {number}"]' for number in range(40)]


def test_exact_duplicates_are_left_out_and_counted():
    events = [span(number) for number in range(5)]

    found = recorded(text_of([*events, span(2, dur=3), span(2, args={"External id": 77}), *events]))

    assert len(found.events) == 7
    assert found.dropped == {"exact duplicates of other events": 5}


def test_events_in_no_order_are_sorted():
    found = recorded(text_of([span(3), span(1), span(2)]))

    assert names(found) == ["op 1", "op 2", "op 3"]


@pytest.mark.parametrize(("factor", "words"), [(1_000_000, "nanoseconds rather"), (1e-6, "seconds or milliseconds")])
def test_times_in_other_units_are_told(factor, words):
    events = [span(number, ts=number * 10_000 * factor, dur=5_000 * factor) for number in range(400)]

    assert words in recorded(text_of(events)).damage[0]


@pytest.mark.parametrize("after", [b"garbage", b"}", b'"x"'])
def test_what_follows_the_end_is_told(after):
    found = recorded(text_of([span(1), span(2)]) + after)

    assert names(found) == ["op 1", "op 2"]
    assert "left out" in found.damage[0]
