"""The tables that the code decides are those of the code; `make docs` writes them."""

import typer.main

from dnnamo.cli import app
from dnnamo.model_types import TOOLS
from dnnamo.records import METHODS
from docs import tables


def test_models_md_is_as_make_docs_writes_it():
    text = tables.MODELS.read_text()

    assert tables.rendered(text) == text, "run make docs"


def test_a_table_that_is_stale_is_written_anew():
    text = tables.MODELS.read_text()
    stale = text.replace("| `run_training(n_steps=1)` |", "| `train()` |")

    assert stale != text
    assert tables.rendered(stale) == text


def test_every_method_has_a_row_of_what_is_kept():
    assert set(tables.KEPT) == set(METHODS)


def test_every_verb_that_takes_a_model_is_among_the_tools():
    verbs = typer.main.get_command(app).commands
    takes = {
        name
        for name, verb in verbs.items()
        if any(it.name == "model" and not it.opts[0].startswith("-") for it in verb.params)
    }

    assert takes - {"submit"} == {tool.verb.partition(" ")[0] for tool in TOOLS}
