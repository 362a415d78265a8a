import csv
import io
import json

import pytest

from dnnamo.errors import ModelNotFound
from dnnamo.loaders import schemes
from tests.cli.conftest import Said


def test_schemes_are_listed_with_what_they_take_and_need() -> None:
    rows = json.loads(Said.well("models", "-o", "json").out)
    assert [row["scheme"] for row in rows] == list(schemes.known())
    (transformers,) = [row for row in rows if row["scheme"] == "transformers"]
    assert transformers["extra"] == "transformers"
    assert "bert" in transformers["takes"]
    assert rows[0]["installed"] == "yes"
    assert "demo" in Said.well("models").out


def test_names_of_a_scheme_are_listed_as_references() -> None:
    assert json.loads(Said.well("models", "demo", "-o", "json").out)[0] == {"model": "demo:mlp"}
    rows = list(csv.DictReader(io.StringIO(Said.well("models", "demo", "-o", "csv").out)))
    assert [row["model"] for row in rows] == [f"demo:{name}" for name in schemes.find("demo").names()]


@pytest.mark.parametrize("pattern", ["keras_*", "KERAS*"])
def test_a_pattern_chooses_among_names(pattern: str) -> None:
    rows = json.loads(Said.well("models", "demo", "--like", pattern, "-o", "json").out)
    assert [row["model"] for row in rows] == ["demo:keras_mlp", "demo:keras_cnn"]


def test_a_pattern_that_fits_none_and_a_scheme_of_paths_say_so() -> None:
    assert "no name like 'x*'" in Said.well("models", "demo", "--like", "x*").err
    assert "lists no names" in Said.well("models", "keras_file").err
    assert json.loads(Said.well("models", "keras_file", "-o", "json").out) == []


def test_a_scheme_that_is_unknown_is_answered_with_the_nearest() -> None:
    said = Said("models", "kears")
    assert isinstance(said.error, ModelNotFound)
    assert "Did you mean keras:" in str(said.error)
