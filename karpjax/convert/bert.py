"""BERT for masked language modelling: the names of Hugging Face's BertForMaskedLM."""
from karpjax.convert.names import DENSE, NORM, VECTOR

EMBED = {"embedding": ("weight", (0, 1))}
LAYER = "bert.encoder.layer.{i}"

TABLE = [
    ("embed",                    "bert.embeddings.word_embeddings",                                   EMBED),
    ("position",                 "bert.embeddings.position_embeddings",                               EMBED),
    ("type",                     "bert.embeddings.token_type_embeddings",                             EMBED),
    ("norm_embed",               "bert.embeddings.LayerNorm",                                         NORM),
    ("block{i}/attention/qkv",   tuple(f"{LAYER}.attention.self.{x}" for x in ("query", "key", "value")), DENSE),
    ("block{i}/attention/out",   f"{LAYER}.attention.output.dense",                                   DENSE),
    ("block{i}/norm_attention",  f"{LAYER}.attention.output.LayerNorm",                               NORM),
    ("block{i}/mlp/up",          f"{LAYER}.intermediate.dense",                                       DENSE),
    ("block{i}/mlp/down",        f"{LAYER}.output.dense",                                             DENSE),
    ("block{i}/norm_mlp",        f"{LAYER}.output.LayerNorm",                                         NORM),
    ("transform",                "cls.predictions.transform.dense",                                   DENSE),
    ("norm_transform",           "cls.predictions.transform.LayerNorm",                               NORM),
    ("",                         "cls.predictions",                                                 {"bias": ("bias", VECTOR)}),
]
