"""Encoders of text: the names of Hugging Face's BertForMaskedLM and RobertaForMaskedLM."""
from karpjax.weights.names import DENSE, NORM, VECTOR

EMBED = {"embedding": ("weight", (0, 1))}


def encoder(name: str) -> list:
    """Return the rows of an encoder, whose arrays start with `name`."""
    layer = f"{name}.encoder.layer.{{i}}"
    qkv = tuple(f"{layer}.attention.self.{x}" for x in ("query", "key", "value"))
    return [
        ("embed",                  f"{name}.embeddings.word_embeddings",       EMBED),
        ("position",               f"{name}.embeddings.position_embeddings",   EMBED),
        ("type",                   f"{name}.embeddings.token_type_embeddings", EMBED),
        ("norm_embed",             f"{name}.embeddings.LayerNorm",             NORM),
        ("block{i}/attention/qkv", qkv,                                        DENSE),
        ("block{i}/attention/out", f"{layer}.attention.output.dense",          DENSE),
        ("block{i}/norm_attention", f"{layer}.attention.output.LayerNorm",     NORM),
        ("block{i}/mlp/up",        f"{layer}.intermediate.dense",              DENSE),
        ("block{i}/mlp/down",      f"{layer}.output.dense",                    DENSE),
        ("block{i}/norm_mlp",      f"{layer}.output.LayerNorm",                NORM),
    ]


BERT = [
    *encoder("bert"),
    ("transform",      "cls.predictions.transform.dense",     DENSE),
    ("norm_transform", "cls.predictions.transform.LayerNorm", NORM),
    ("",               "cls.predictions",                     {"bias": ("bias", VECTOR)}),
]

ROBERTA = [
    *encoder("roberta"),
    ("transform",      "lm_head.dense",      DENSE),
    ("norm_transform", "lm_head.layer_norm", NORM),
    ("",               "lm_head",            {"bias": ("bias", VECTOR)}),
]
