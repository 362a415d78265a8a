import csv
import io
import json
import sys

import pytest

from dnnamo.cli.output import Format, note, progress, show_lines, show_object, show_rows

ROWS = [
    {"id": 1, "model": "demo:mlp", "median_ms": 0.25, "cause": None, "hidden": [1, 2]},
    {"id": 20, "model": 'a "b", c', "median_ms": None, "cause": "[bold]x[/bold] :smile:", "hidden": {"é": True}},
]
COLUMNS = ["id", "model", "median_ms", "cause"]


def printed(capsys) -> str:
    """What went to standard output; nothing may have gone to standard error."""
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_rows_as_json_have_every_field(capsys):
    show_rows(ROWS, COLUMNS, Format.json)

    assert json.loads(printed(capsys)) == ROWS


def test_rows_as_csv_have_the_columns_in_their_order(capsys):
    show_rows(ROWS, COLUMNS, Format.csv)

    assert list(csv.reader(io.StringIO(printed(capsys)))) == [
        COLUMNS,
        ["1", "demo:mlp", "0.25", ""],
        ["20", 'a "b", c', "", "[bold]x[/bold] :smile:"],
    ]


def test_values_within_a_csv_cell_are_json(capsys):
    show_rows(ROWS, ["hidden"], Format.csv)

    cells = [json.loads(cell) for (cell,) in list(csv.reader(io.StringIO(printed(capsys))))[1:]]
    assert cells == [[1, 2], {"é": True}]


def test_rows_as_a_table_have_a_line_each_as_they_are(capsys):
    show_rows(ROWS, COLUMNS, Format.table)

    lines = [line.rstrip() for line in printed(capsys).splitlines() if line.strip(" ─")]
    assert lines[0].split() == COLUMNS
    assert lines[1].split() == ["1", "demo:mlp", "0.25"]
    assert lines[2].split() == ["20", "a", '"b",', "c", "[bold]x[/bold]", ":smile:"]
    assert len(lines) == 3


def test_numbers_stand_to_the_right_and_words_to_the_left(capsys):
    show_rows(ROWS, ["id", "model"], Format.table)

    header, _, first, second = (line for line in printed(capsys).splitlines() if line.strip())
    assert first.index("1") == second.index("20") + 1
    assert header.index("model") == first.index("demo:mlp") == second.index("a ")


def test_a_long_value_stays_on_its_line_where_nobody_looks(capsys):
    show_rows([{"a": "x" * 150, "b": "y z " * 40}], ["a", "b"], Format.table)

    (line,) = (line for line in printed(capsys).splitlines() if "x" in line)
    assert line.split() == ["x" * 150, *"yz" * 40]


def test_a_very_long_value_is_cut_in_a_table_alone(capsys):
    show_rows([{"a": "x" * 500}], ["a"], Format.table)
    assert printed(capsys).splitlines()[-1].strip() == "x" * 200 + "…"

    show_rows([{"a": "x" * 500}], ["a"], Format.csv)
    assert printed(capsys).splitlines()[-1] == "x" * 500


@pytest.mark.parametrize(("form", "text"), [(Format.json, "[]"), (Format.csv, "id,model")])
def test_no_rows_are_still_data(capsys, form, text):
    show_rows([], ["id", "model"], form)

    assert printed(capsys).strip() == text


def test_no_rows_are_a_table_without_lines(capsys):
    show_rows([], ["id", "model"], Format.table)

    assert printed(capsys).replace("─", "").split() == ["id", "model"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_never_has_numbers_that_are_none(value):
    with pytest.raises(ValueError):
        show_rows([{"a": value}], ["a"], Format.json)


def test_an_object_as_json_is_that_object(capsys):
    show_object(ROWS[1], Format.json)

    assert json.loads(printed(capsys)) == ROWS[1]


def test_an_object_as_csv_is_one_row(capsys):
    show_object(ROWS[0], Format.csv)

    header, row = csv.reader(io.StringIO(printed(capsys)))
    assert dict(zip(header, row, strict=True)) == {
        "id": "1",
        "model": "demo:mlp",
        "median_ms": "0.25",
        "cause": "",
        "hidden": "[1, 2]",
    }


def test_lines_are_aligned_after_their_headings(capsys):
    show_lines([("steps", "10 [b]"), ("environment", "x")])

    assert printed(capsys) == "steps        10 [b]\nenvironment  x\n"


def test_a_note_is_no_data(capsys):
    note("by the way")

    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "by the way\n")


@pytest.mark.parametrize(("out", "err"), [(False, False), (True, False), (False, True)])
def test_progress_is_silent_unless_somebody_looks(capsys, monkeypatch, out, err):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: out)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: err)

    with progress("going on") as tell:
        tell("3/5 steps", 3, 5)

    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_progress_is_shown_on_standard_error_of_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)

    with progress("going [b]on") as tell:
        tell("3/5 steps", 3, 5)

    captured = capsys.readouterr()
    assert captured.out == ""
    assert "going [b]on" in captured.err
    assert "3/5 steps" in captured.err
