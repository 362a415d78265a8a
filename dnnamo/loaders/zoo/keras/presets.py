"""Presets of KerasHub whose sizes are known here, so that they are made without asking a network for them."""

from typing import NamedTuple

__all__ = ["PRESETS", "Preset"]


class Preset(NamedTuple):
    """The sizes of a transformer.

    Attributes:
        backbone: KerasHub's class.
        words: Size of the vocabulary.
        layers: Blocks, of an encoder and of a decoder each where there are both.
        heads: Of an attention.
        width: Of a token.
        inner: Width of the feed-forward layers.
    """

    backbone: str
    words: int
    layers: int
    heads: int
    width: int
    inner: int


# Devlin et al. 2018 and Turc et al. 2019 (BERT), Radford et al. 2019 (GPT-2), Sanh et al. 2019 (DistilBERT),
# Liu et al. 2019 (RoBERTa), Lewis et al. 2019 (BART). A test compares the weights with the number that KerasHub tells.
PRESETS = {
    "bert_tiny_en_uncased": Preset("BertBackbone", 30522, 2, 2, 128, 512),
    "bert_small_en_uncased": Preset("BertBackbone", 30522, 4, 8, 512, 2048),
    "bert_medium_en_uncased": Preset("BertBackbone", 30522, 8, 8, 512, 2048),
    "bert_base_en_uncased": Preset("BertBackbone", 30522, 12, 12, 768, 3072),
    "bert_base_en": Preset("BertBackbone", 28996, 12, 12, 768, 3072),
    "bert_large_en": Preset("BertBackbone", 28996, 24, 16, 1024, 4096),
    "distil_bert_base_en_uncased": Preset("DistilBertBackbone", 30522, 6, 12, 768, 3072),
    "distil_bert_base_en": Preset("DistilBertBackbone", 28996, 6, 12, 768, 3072),
    "roberta_base_en": Preset("RobertaBackbone", 50265, 12, 12, 768, 3072),
    "gpt2_base_en": Preset("GPT2Backbone", 50257, 12, 12, 768, 3072),
    "gpt2_medium_en": Preset("GPT2Backbone", 50257, 24, 16, 1024, 4096),
    "bart_base_en": Preset("BartBackbone", 50265, 6, 12, 768, 3072),
}
