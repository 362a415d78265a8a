"""Networks of other packages from end to end: by name through the queue, and refused where an option is wrong."""

import pytest

from tests.acceptance.place import Place
from tests.acceptance.test_bad_input import one_paragraph

SMALL = {
    "transformers:bert": ["batch=2", "length=8", "num_hidden_layers=1", "hidden_size=24", "intermediate_size=32"],
    "keras:MobileNetV3Small": ["batch=2", "image=32", "classes=5"],
}


def options(name: str) -> list[str]:
    return [word for param in SMALL[name] for word in ("-p", param)]


@pytest.mark.parametrize("name", SMALL)
def test_a_network_by_name_is_trained_and_profiled_through_the_queue(cluster: Place, name: str) -> None:
    trained = cluster.json("run", name, "--mode", "training", "--steps", 3, "--warmup", 1, *options(name))
    assert len(trained["loss"]) == 3
    profiled = cluster.json("profile", name, "--steps", 2, "--warmup", 1, "--no-paired", *options(name))
    assert len(profiled["profile"]["steps"]) == 2
    assert cluster.json("ops", profiled["id"])["rows"]


def test_a_data_function_goes_along_with_a_network_by_name(cluster: Place) -> None:
    data = cluster.file(
        "given_batch.py",
        "import numpy as np\ndef make():\n    return np.zeros((3, 32, 32, 3), np.float32), np.zeros(3, np.int32)\n",
    )
    words = ("-p", "image=32", "-p", "classes=5", "-p", f"data={data}:make")
    shown = cluster.json("run", "keras:MobileNetV3Small", "--mode", "training", "--steps", 1, "--warmup", 0, *words)
    assert len(shown["loss"]) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["transformers:bert", *options("transformers:bert"), "-p", "length=600"], ["600", "512", "length=600", "-p"]),
        (["keras:ResNet50", "-p", "image=7"], ["keras:ResNet50", "image=7", "at least 32x32"]),
        (["transformers:brt"], ["transformers:brt", "transformers:bert", "dnnamo models transformers"]),
        (["transformers:bert", "-p", "hidden_sice=24"], ["hidden_sice", "hidden_size"]),
        (["keras:MobileNetV3Small", "-p", "batch=0"], ["batch is 0", "at least 1"]),
    ],
)
def test_what_a_network_refuses_ends_its_job_with_the_reason_and_the_option(
    cluster: Place, words: list[str], said: list[str]
) -> None:
    assert one_paragraph(cluster.dnnamo("run", *words, "--steps", 1, "--warmup", 0, code=1).stderr, "failed", *said)


def test_training_that_a_network_does_not_have_is_unsupported_with_the_reason(cluster: Place) -> None:
    words = ("-p", "head=AutoModel", *options("transformers:bert"))
    done = cluster.dnnamo("run", "transformers:bert", "--mode", "training", *words, code=1)
    assert one_paragraph(done.stderr, "unsupported", "BertModel has no loss", "-p head=", "run_inference")


def test_a_scheme_that_is_unknown_is_refused_at_submit(cluster: Place) -> None:
    before = cluster.json("ls", "--limit", 1)
    done = cluster.dnnamo("submit", "run_inference", "torchvison:resnet18", code=2)
    assert one_paragraph(done.stderr, "no scheme torchvison:", "torchvision:", "transformers:", "dnnamo models")
    assert cluster.json("ls", "--limit", 1) == before
