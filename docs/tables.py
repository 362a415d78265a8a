"""Write the tables of models.md that say what the code says: `make docs`, or `python -m docs.tables`.

Each stands between `<!-- NAME: make docs -->` and `<!-- end -->`.
"""

import inspect
import re
from collections.abc import Callable
from pathlib import Path

from dnnamo.model import Model
from dnnamo.model_types import MODEL_TYPES, TOOLS, methods_of
from dnnamo.records import METHODS

MODELS = Path(__file__).with_name("models.md")

KEPT = {
    "get_inference_graph": "operations, tensors and edges in the database; the framework's own file",
    "get_training_graph": "the same",
    "get_weights": "`weights.safetensors`",
    "set_weights": "nothing",
    "run_inference": "step times; predictions in `predictions.safetensors`, up to 1 MiB",
    "run_training": "step times, losses, scores",
    "profile_inference": "tables of operations; `events.parquet`, and for TensorFlow `trace.xplane.pb`",
    "profile_training": "the same",
    "get_intermediates": "figures in the database; the arrays in `intermediates.safetensors`, if asked for",
}
"""What a job keeps of what a method returns."""


def interface() -> str:
    """Return the table of the interface's methods."""
    rows = [[f"`{signature(name)}`", summary(getattr(Model, name)), KEPT[name]] for name in METHODS]
    return table(["method", "what it does", "what a job keeps of it"], rows)


def signature(name: str) -> str:
    """Return a method's call with the names and defaults of its arguments, without their types."""
    given = list(inspect.signature(getattr(Model, name)).parameters.values())[1:]
    return f"{name}({', '.join(str(it.replace(annotation=it.empty)) for it in given)})"


def summary(documented: object) -> str:
    """Return the first sentence of what something says of itself, without the period."""
    return (inspect.getdoc(documented) or "").partition("\n")[0].rstrip(".")


def types() -> str:
    """Return the table of model types."""
    rows = [
        [name, f"`{kind.__name__}`", " ".join(f"`{it}`" for it in methods_of(kind)), summary(kind)]
        for name, kind in MODEL_TYPES.items()
    ]
    return table(["type", "protocol", "methods", "what it is"], rows)


def tools() -> str:
    """Return the table of tools."""
    rows = [
        [f"`dnnamo {it.verb}`", f"`{it.python}`", " ".join(f"`{name}`" for name in it.needs), it.besides]
        for it in TOOLS
    ]
    return table(["tool", "in Python", "needs", "besides"], rows)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in [head, ["---"] * len(head), *rows])


TABLES: dict[str, Callable[[], str]] = {"interface": interface, "types": types, "tools": tools}


def rendered(text: str) -> str:
    """Return a page with its tables as the code has them now."""
    for name, make in TABLES.items():
        begin, end = f"<!-- {name}: make docs -->", "<!-- end -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise SystemExit(f"{MODELS.name} must have {begin} and {end} once")
        text = pattern.sub(f"{begin}\n{make()}\n{end}".replace("\\", "\\\\"), text)
    return text


if __name__ == "__main__":
    MODELS.write_text(rendered(MODELS.read_text()))
