"""Networks of torchvision that take and return something of their own; where it can be imported."""

import numpy as np
import pytest

from dnnamo.errors import LoaderError, Unsupported
from dnnamo.loaders import load, schemes

pytestmark = pytest.mark.skipif(
    not schemes.describe("torchvision").installed, reason="torchvision is not here; test_apart.py runs this where it is"
)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("lraspp_mobilenet_v3_large", {"image": 64}),
        ("deeplabv3_mobilenet_v3_large", {"image": 64, "aux_loss": True}),
        ("mc3_18", {"image": 32, "frames": 4}),
        ("googlenet", {"image": 96}),
    ],
)
def test_networks_of_other_kinds_run_and_train(name: str, params: dict[str, object]) -> None:
    model = load(f"torchvision:{name}", {"batch": 2, "classes": 3, **params})
    assert model.run_inference(1)
    assert all(np.isfinite(loss) for loss, _ in model.run_training(1))


def test_a_network_without_a_loss_that_is_known_says_why() -> None:
    model = load("torchvision:raft_small", {"batch": 1})
    assert len(model.run_inference(1)[0]) > 1
    with pytest.raises(Unsupported, match="optical flow is not known here"):
        model.run_training(1)


def test_an_argument_that_a_network_does_not_take_is_named() -> None:
    with pytest.raises(LoaderError, match="torchvision:resnet18 cannot be made with width=3"):
        load("torchvision:resnet18", {"width": 3})


def test_a_network_says_how_its_inputs_were_made() -> None:
    assert "batch=2, image=7" in load("torchvision:squeezenet1_1", {"batch": 2, "image": 7}).made_of
