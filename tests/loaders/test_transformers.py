"""What is particular to `transformers:`: heads, inputs by kind, fields of the configuration, and room."""

import socket
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dnnamo.errors import LoaderError, Unsupported
from dnnamo.loaders import load

pytest.importorskip("transformers")

TINY = {"batch": 2, "length": 8, "num_hidden_layers": 1, "hidden_size": 24, "intermediate_size": 32}
GPT2 = {"batch": 2, "length": 8, "n_layer": 1, "n_embd": 24}
T5 = {"batch": 2, "length": 8, "num_layers": 1, "d_model": 24, "d_ff": 32, "d_kv": 4}
WHISPER = {"batch": 1, "length": 40, "d_model": 24, "encoder_layers": 1, "decoder_layers": 1}
WHISPER |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_source_positions": 20}
WHISPER |= {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
WAV = {
    "batch": 2,
    "length": 4000,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "hidden_size": 32,
    "intermediate_size": 32,
}
VIT = {"batch": 2, "image": 32, "num_hidden_layers": 1, "hidden_size": 24, "intermediate_size": 32}


@pytest.mark.parametrize(
    ("name", "params", "inputs"),
    [
        ("bert", TINY, {"input_ids": (2, 8)}),
        ("gpt2", GPT2, {"input_ids": (2, 8)}),
        ("t5", T5, {"input_ids": (2, 8), "decoder_input_ids": (2, 8)}),
        ("vit", {**VIT, "classes": 3}, {"pixel_values": (2, 3, 32, 32)}),
        ("whisper", WHISPER, {"input_features": (1, 80, 40), "decoder_input_ids": (1, 40)}),
        ("wav2vec2", WAV, {"input_values": (2, 4000)}),
        ("BertForQuestionAnswering", TINY, {"input_ids": (2, 8)}),
        ("BertForTokenClassification", {**TINY, "classes": 3}, {"input_ids": (2, 8)}),
        ("GPT2ForSequenceClassification", {**GPT2, "classes": 3}, {"input_ids": (2, 8)}),
    ],
)
def test_a_network_gets_the_inputs_of_its_kind_and_learns(
    name: str, params: dict[str, Any], inputs: dict[str, tuple[int, ...]]
) -> None:
    model = load(f"transformers:{name}", params)
    assert {key: tuple(value.shape) for key, value in model._make_batch()[0].items()} == inputs
    assert model.run_inference(1)
    losses = [loss for loss, _ in model.run_training(10)]
    assert losses[-1] < losses[0]


def test_the_loss_of_a_language_model_is_that_of_transformers() -> None:
    import torch

    for name, params in (("gpt2", GPT2), ("bert", TINY), ("t5", T5)):
        model = load(f"transformers:{name}", params)
        inputs, targets = model._make_batch()
        model._module.eval()
        with torch.no_grad():
            theirs = model._module(**inputs, labels=targets).loss
            ours = model._loss(model._module(**inputs), targets)
        np.testing.assert_allclose(float(ours), float(theirs), rtol=1e-5)


def test_a_head_is_chosen_by_its_class_for_all_types() -> None:
    model = load("transformers:bert", {**TINY, "head": "AutoModelForSequenceClassification", "classes": 3})
    assert model.run_inference(1)[0].logits.shape == (2, 3)
    with pytest.raises(LoaderError, match="head is 'AutoModelForCTC'; bert can have .*AutoModelForMaskedLM"):
        load("transformers:bert", {**TINY, "head": "AutoModelForCTC"})
    with pytest.raises(LoaderError, match="BertModel is a class with its own head"):
        load("transformers:BertModel", {**TINY, "head": "AutoModel"})


def test_a_network_without_a_head_runs_and_says_why_it_is_not_trained() -> None:
    model = load("transformers:BertModel", TINY)
    assert model.run_inference(1)
    with pytest.raises(Unsupported, match=r"BertModel has no loss that is known here; another head may"):
        model.run_training(1)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"num_hidden_layer": 1}, "has no option 'num_hidden_layer'. Did you mean num_hidden_layers"),
        ({"hidden_size": 25}, "cannot make bert with this configuration.*25.*12"),
        ({"hidden_size": "wide"}, "cannot make bert with this configuration.*hidden_size"),
        ({"pretrained": True}, "pretrained is True; it must name a checkpoint"),
        ({"image": 0}, "image is 0; it must be a whole number"),
        ({"classes": "two"}, "classes is 'two'"),
    ],
)
def test_an_option_that_does_not_fit_is_named(params: dict[str, Any], says: str) -> None:
    with pytest.raises(LoaderError, match=says) as caught:
        load("transformers:bert", {**TINY, **params})
    assert "\n" not in str(caught.value)


def test_a_network_that_there_is_no_room_for_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    from dnnamo.loaders.zoo.transformers import network

    monkeypatch.setattr(network.psutil, "virtual_memory", lambda: SimpleNamespace(available=4 << 30))
    with pytest.raises(LoaderError, match=r"llama has 6\.7 billion weights .* 25 GiB; 4 GiB of memory are left"):
        load("transformers:llama", {})
    assert load("transformers:llama", {**TINY, "num_attention_heads": 2}).run_inference(1)


def test_a_checkpoint_in_a_folder_is_read_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = load("transformers:bert", TINY)
    saved.run_training(2)
    saved._module.save_pretrained(tmp_path)
    read = load("transformers:bert", {"batch": 2, "length": 8, "pretrained": str(tmp_path)})
    for name, weight in saved.get_weights().items():
        np.testing.assert_array_equal(read.get_weights([name])[name], weight)
    with pytest.raises(LoaderError, match="cannot make bert.*absent"):
        load("transformers:bert", {"pretrained": str(tmp_path / "absent")})


def test_nothing_is_asked_of_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert load("transformers:bert", TINY).run_inference(1)


@pytest.mark.parametrize(
    ("name", "inputs"), [("patchtst", "past_values"), ("canine", "vocab_size"), ("glm_image_vision", "grid_thw")]
)
def test_inputs_that_cannot_be_made_up_are_told_with_the_remedy(name: str, inputs: str) -> None:
    with pytest.raises(LoaderError, match=f"{inputs}.*cannot be made up here.*data=file.py:function"):
        load(f"transformers:{name}", {})


def test_a_package_that_an_architecture_needs_is_named() -> None:
    pytest.importorskip("transformers")
    if find_spec("timm") is None:
        with pytest.raises(LoaderError, match="transformers:detr needs a package that is not installed here.*timm"):
            load("transformers:detr", {})


def test_a_text_is_no_longer_than_the_network_reads() -> None:
    model = load("transformers:clip_text_model", {"batch": 1, "num_hidden_layers": 1})
    assert model._make_batch()[0]["input_ids"].shape == (1, 77)
