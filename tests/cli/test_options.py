from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from dnnamo.cli.options import Options, ProfileOptions, with_options
from dnnamo.errors import UsageError


def parsed(*words: str, kind: type[Options] = Options) -> tuple[str, int, Options]:
    """What a verb with an argument and an option of its own is called with."""
    seen = []

    def verb(model: Annotated[str, typer.Argument()], options: kind, own: int = 3) -> None:
        seen.append((model, own, options))

    app = typer.Typer()
    app.command()(with_options(verb))
    done = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (call,) = seen
    return call


def test_without_options_the_defaults_hold():
    assert parsed("m.py") == ("m.py", 3, Options())


def test_every_option_reaches_its_field():
    words = (
        "m.py --own 4 --steps 7 --warmup 2 --device gpu -p batch=4 --param name=x --threads 2 --weights w "
        "--pickled-weights --python v/p --repeat 3 --priority 5 --tag b --tag a --timeout 1.5 --memory 2GiB "
        "--output-limit 1MB --scratch 3 --seed 7 --precision mixed_bfloat16 --compile max-autotune "
        "--jit-compile --channels-last --accumulate 4 --no-bundle"
    )
    model, own, options = parsed(*words.split())

    assert (model, own) == ("m.py", 4)
    assert options.arguments() == {
        "n_steps": 7,
        "warmup": 2,
        "device": "gpu",
        "params": {"batch": 4, "name": "x"},
        "threads": 2,
        "weights": "w",
        "bundle": False,
        "pickled": True,
        "python": "v/p",
        "repeats": 3,
        "seed": 7,
        "precision": "mixed_bfloat16",
        "compile": "max-autotune",
        "jit_compile": True,
        "channels_last": True,
        "accumulate": 4,
        "priority": 5,
        "tags": ["b", "a"],
        "timeout_s": 1.5,
        "memory": "2GiB",
        "output_limit": "1MB",
        "scratch": "3",
    }


@pytest.mark.parametrize(
    ("words", "capture", "paired"),
    [
        ("", [], True),
        ("--no-paired", [], False),
        ("--shapes --flops", ["shapes", "flops"], True),
        ("--allocations --stacks --paired", ["memory", "stacks"], True),
    ],
)
def test_what_a_profile_holds_besides_is_asked_for_by_flags(words, capture, paired):
    _, _, options = parsed("m.py", "--memory", "2GiB", *words.split(), kind=ProfileOptions)

    given = options.arguments()
    assert (given["capture"], given["paired"], given["memory"]) == (capture, paired, "2GiB")


def test_a_verb_keeps_its_name_and_its_help():
    def run(options: Options) -> None:
        """Do it."""

    wrapped = with_options(run)
    assert (wrapped.__name__, wrapped.__doc__) == ("run", "Do it.")


@pytest.mark.parametrize("text", ["batch", "=3", ""])
def test_an_option_of_the_model_has_a_name_and_a_value(text):
    with pytest.raises(UsageError, match="KEY=VALUE"):
        Options(param=[text]).arguments()
