"""What a transformer ends in: which class a model type is made with, and the loss and targets that fit it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from dnnamo.errors import LoaderError
from dnnamo.loaders.zoo.pytorch import integers

__all__ = ["Head", "Task", "class_names", "head_of_class", "head_of_type", "model_types"]


class Task(NamedTuple):
    """How a network is trained, from its outputs and targets.

    Attributes:
        targets: Makes them, from the network's configuration and the inputs.
        loss: A scalar.
        score: The fraction that was right; None for no score.
    """

    targets: Callable[[Any, Mapping[str, torch.Tensor]], Any]
    loss: Callable[[Any, Any], torch.Tensor]
    score: Callable[[Any, Any], float] | None


class Head(NamedTuple):
    """A group of classes of transformers.

    Attributes:
        auto: The class that stands for all of them, as `AutoModelForCausalLM`.
        classes: Name of the class, or of several, by model type.
        task: How they are trained; None if only their inputs can be made here.
    """

    auto: str
    classes: Mapping[str, Any]
    task: Task | None


def _ids(config: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    text = config.get_text_config()
    ids = inputs.get("decoder_input_ids", inputs.get("input_ids"))
    if ids is None:
        raise LoaderError("This network reads no tokens, so targets that are tokens cannot be made up: give data.")
    return integers(text.vocab_size, *ids.shape, seed=1)


def _labels(config: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return integers(config.num_labels, len(next(iter(inputs.values()))), seed=1)


def _labels_of_tokens(config: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return integers(config.num_labels, *inputs["input_ids"].shape, seed=1)


def _spans(config: Any, inputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    batch, length = inputs["input_ids"].shape
    places = integers(length, 2, batch, seed=1)
    return places[0], places[1]


def _loss(outputs: Any, targets: torch.Tensor) -> torch.Tensor:
    return cross_entropy(outputs.logits.flatten(0, -2).float(), targets.flatten())


def _score(outputs: Any, targets: torch.Tensor) -> float:
    return float((outputs.logits.argmax(-1) == targets).float().mean())


def _next_loss(outputs: Any, targets: torch.Tensor) -> torch.Tensor:
    return cross_entropy(outputs.logits[:, :-1].flatten(0, 1).float(), targets[:, 1:].flatten())


def _next_score(outputs: Any, targets: torch.Tensor) -> float:
    return float((outputs.logits[:, :-1].argmax(-1) == targets[:, 1:]).float().mean())


def _span_loss(outputs: Any, targets: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    ends = zip((outputs.start_logits, outputs.end_logits), targets, strict=True)
    first, last = (cross_entropy(scores.float(), places) for scores, places in ends)
    return (first + last) / 2


def _same_ids(config: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return inputs["input_ids"]


_TOKENS = Task(_ids, _loss, _score)
_NEXT = Task(_same_ids, _next_loss, _next_score)
_CLASSES = Task(_labels, _loss, _score)
_CLASS_PER_TOKEN = Task(_labels_of_tokens, _loss, _score)
_SPAN = Task(_spans, _span_loss, None)


def _head(auto: str, mapping: str, task: Task | None) -> Head:
    return Head(auto, getattr(modeling_auto, f"{mapping}_NAMES"), task)


# A model type gets the first of these that it has; a class is looked for in all of them.
_HEADS = (
    _head("AutoModelForSeq2SeqLM", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING", _TOKENS),
    _head("AutoModelForSpeechSeq2Seq", "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING", _TOKENS),
    _head("AutoModelForMaskedLM", "MODEL_FOR_MASKED_LM_MAPPING", _TOKENS),
    _head("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING", _NEXT),
    _head("AutoModelForImageClassification", "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING", _CLASSES),
    _head("AutoModelForAudioClassification", "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING", _CLASSES),
    _head("AutoModelForVideoClassification", "MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING", _CLASSES),
    _head("AutoModel", "MODEL_MAPPING", None),
    _head("AutoModelForSequenceClassification", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING", _CLASSES),
    _head("AutoModelForTokenClassification", "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING", _CLASS_PER_TOKEN),
    _head("AutoModelForQuestionAnswering", "MODEL_FOR_QUESTION_ANSWERING_MAPPING", _SPAN),
    _head("AutoModelForSemanticSegmentation", "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING", None),
    _head("AutoModelForObjectDetection", "MODEL_FOR_OBJECT_DETECTION_MAPPING", None),
    _head("AutoModelForDepthEstimation", "MODEL_FOR_DEPTH_ESTIMATION_MAPPING", None),
    _head("AutoModelForMaskedImageModeling", "MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING", None),
    _head("AutoModelForCTC", "MODEL_FOR_CTC_MAPPING", None),
)


def model_types() -> list[str]:
    """Return the model types that one of the heads here fits."""
    return sorted({name for head in _HEADS for name in head.classes} & set(CONFIG_MAPPING_NAMES))


def class_names() -> list[str]:
    """Return the classes of all heads here."""
    return sorted({name for head in _HEADS for _, name in _classes(head)})


def head_of_type(model_type: str, asked: str | None) -> tuple[Head, str]:
    """Return the head for a model type, and its class.

    Args:
        model_type: As `model_types` has it.
        asked: The head that the job asks for by the name of its class for all model types; None for the first.

    Raises:
        LoaderError: If the type does not have that head.
    """
    fitting = [head for head in _HEADS if model_type in head.classes]
    chosen = [head for head in fitting if asked in (None, head.auto)]
    if not chosen:
        heads = ", ".join(head.auto for head in fitting)
        raise LoaderError(f"head is {asked!r}; {model_type} can have {heads}.")
    classes = chosen[0].classes[model_type]
    return chosen[0], classes if isinstance(classes, str) else classes[0]


def head_of_class(name: str) -> Head:
    """Return the head that has a class."""
    return next(head for head in _HEADS if any(name == found for _, found in _classes(head)))


def _classes(head: Head) -> Iterator[tuple[str, str]]:
    for model_type, classes in head.classes.items():
        for name in (classes,) if isinstance(classes, str) else classes:
            yield model_type, name
