"""Causal language models: the names of Hugging Face's GPT2LMHeadModel.

Its linear layers are OpenAI's Conv1D, whose weights are (inputs, outputs) as ours.
"""
from karpjax.weights.bert import EMBED
from karpjax.weights.names import NORM, VECTOR

CONV1D = {"kernel": ("weight", (0, 1)), "bias": ("bias", VECTOR)}

TABLE = [
    ("embed",                  "transformer.wte",               EMBED),
    ("position",               "transformer.wpe",               EMBED),
    ("block{i}/norm_attention", "transformer.h.{i}.ln_1",       NORM),
    ("block{i}/attention/qkv", "transformer.h.{i}.attn.c_attn", CONV1D),
    ("block{i}/attention/out", "transformer.h.{i}.attn.c_proj", CONV1D),
    ("block{i}/norm_mlp",      "transformer.h.{i}.ln_2",        NORM),
    ("block{i}/mlp/up",        "transformer.h.{i}.mlp.c_fc",    CONV1D),
    ("block{i}/mlp/down",      "transformer.h.{i}.mlp.c_proj",  CONV1D),
    ("norm",                   "transformer.ln_f",              NORM),
]
