"""Translators: the names of Hugging Face's MarianMTModel.

Its tables of positions are sinusoids, which ours computes. Keys and values of the memory are one
array of ours, outside the block (models/seq2seq.py).
"""
from karpjax.weights.bert import EMBED
from karpjax.weights.names import DENSE, NORM


def layer(ours: str, theirs: str) -> list:
    """Return the rows of a layer, without its cross-attention."""
    qkv = tuple(f"{theirs}.self_attn.{x}_proj" for x in "qkv")
    return [
        (f"{ours}/attention/qkv",  qkv,                               DENSE),
        (f"{ours}/attention/out",  f"{theirs}.self_attn.out_proj",    DENSE),
        (f"{ours}/norm_attention", f"{theirs}.self_attn_layer_norm",  NORM),
        (f"{ours}/mlp/up",         f"{theirs}.fc1",                   DENSE),
        (f"{ours}/mlp/down",       f"{theirs}.fc2",                   DENSE),
        (f"{ours}/norm_mlp",       f"{theirs}.final_layer_norm",      NORM),
    ]


CROSS = "model.decoder.layers.{i}.encoder_attn"
TABLE = [
    ("embed", "model.shared", EMBED),
    *layer("block{i}", "model.encoder.layers.{i}"),
    *layer("decoder_block{i}", "model.decoder.layers.{i}"),
    ("decoder_block{i}/cross/q",    f"{CROSS}.q_proj",                        DENSE),
    ("decoder_memory{i}",           (f"{CROSS}.k_proj", f"{CROSS}.v_proj"),   DENSE),
    ("decoder_block{i}/cross/out",  f"{CROSS}.out_proj",                      DENSE),
    ("decoder_block{i}/norm_cross", f"{CROSS}_layer_norm",                    NORM),
    ("",                            "", {"bias": ("final_logits_bias", (None, 0))}),
]
