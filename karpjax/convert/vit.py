"""ViT and MAE: the names of Hugging Face's ViTForImageClassification and ViTMAEForPreTraining, as in published files."""
from karpjax.convert.names import CONV, DENSE, NORM


def blocks(ours: str, theirs: str) -> list:
    return [
        (f"{ours}/attention/qkv",  tuple(f"{theirs}.attention.attention.{x}" for x in ("query", "key", "value")), DENSE),
        (f"{ours}/attention/out",  f"{theirs}.attention.output.dense", DENSE),
        (f"{ours}/norm_attention", f"{theirs}.layernorm_before",       NORM),
        (f"{ours}/norm_mlp",       f"{theirs}.layernorm_after",        NORM),
        (f"{ours}/mlp/up",         f"{theirs}.intermediate.dense",     DENSE),
        (f"{ours}/mlp/down",       f"{theirs}.output.dense",           DENSE),
    ]


TABLE = [
    ("",              "vit.embeddings",            {"cls": ("cls_token", (None, None, 0)),
                                                    "position": ("position_embeddings", (None, 0, 1))}),
    ("patch",         "vit.embeddings.patch_embeddings.projection", CONV),
    *blocks("block{i}", "vit.encoder.layer.{i}"),
    ("norm",          "vit.layernorm",             NORM),
    ("head",          "classifier",                DENSE),
    ("",              "decoder",                   {"mask": ("mask_token", (None, None, 0)),
                                                    "decoder_position": ("decoder_pos_embed", (None, 0, 1))}),
    ("decoder_embed", "decoder.decoder_embed",     DENSE),
    *blocks("decoder_block{i}", "decoder.decoder_layers.{i}"),
    ("decoder_norm",  "decoder.decoder_norm",      NORM),
    ("decoder_head",  "decoder.decoder_pred",      DENSE),
]
