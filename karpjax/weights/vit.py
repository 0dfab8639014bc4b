"""ViT, DeiT and MAE: the names of Hugging Face's published files, of timm and of MAE's own code.

Hugging Face's are those of ViTForImageClassification and ViTMAEForPreTraining.
"""
from karpjax.weights.names import CONV, DENSE, NORM

TOKEN, POSITIONS = (None, None, 0), (None, 0, 1)


def blocks(ours: str, theirs: str) -> list:
    """Return the rows of Hugging Face's transformer blocks."""
    qkv = tuple(f"{theirs}.attention.attention.{x}" for x in ("query", "key", "value"))
    return [
        (f"{ours}/attention/qkv",  qkv,                                DENSE),
        (f"{ours}/attention/out",  f"{theirs}.attention.output.dense", DENSE),
        (f"{ours}/norm_attention", f"{theirs}.layernorm_before",       NORM),
        (f"{ours}/norm_mlp",       f"{theirs}.layernorm_after",        NORM),
        (f"{ours}/mlp/up",         f"{theirs}.intermediate.dense",     DENSE),
        (f"{ours}/mlp/down",       f"{theirs}.output.dense",           DENSE),
    ]


HUGGINGFACE = [
    ("",              "vit.embeddings", {"cls": ("cls_token", TOKEN),
                                         "position": ("position_embeddings", POSITIONS)}),
    ("patch",         "vit.embeddings.patch_embeddings.projection", CONV),
    *blocks("block{i}", "vit.encoder.layer.{i}"),
    ("norm",          "vit.layernorm",         NORM),
    ("head",          "classifier",            DENSE),
    ("",              "decoder",        {"mask": ("mask_token", TOKEN),
                                         "decoder_position": ("decoder_pos_embed", POSITIONS)}),
    ("decoder_embed", "decoder.decoder_embed", DENSE),
    *blocks("decoder_block{i}", "decoder.decoder_layers.{i}"),
    ("decoder_norm",  "decoder.decoder_norm",  NORM),
    ("decoder_head",  "decoder.decoder_pred",  DENSE),
]


def timm_blocks(ours: str, theirs: str) -> list:
    """Return the rows of timm's transformer blocks."""
    return [
        (f"{ours}/attention/qkv",  f"{theirs}.attn.qkv",  DENSE),
        (f"{ours}/attention/out",  f"{theirs}.attn.proj", DENSE),
        (f"{ours}/norm_attention", f"{theirs}.norm1",     NORM),
        (f"{ours}/norm_mlp",       f"{theirs}.norm2",     NORM),
        (f"{ours}/mlp/up",         f"{theirs}.mlp.fc1",   DENSE),
        (f"{ours}/mlp/down",       f"{theirs}.mlp.fc2",   DENSE),
    ]


TIMM_ENCODER = [
    ("",      "",                 {"cls": ("cls_token", TOKEN), "dist": ("dist_token", TOKEN),
                                   "position": ("pos_embed", POSITIONS)}),
    ("patch", "patch_embed.proj", CONV),
    *timm_blocks("block{i}", "blocks.{i}"),
]
TIMM_HEAD = [("head", "head", DENSE), ("head_dist", "head_dist", DENSE)]
TIMM = [*TIMM_ENCODER, ("norm", "norm", NORM), *TIMM_HEAD]
TIMM_FC_NORM = [*TIMM_ENCODER, ("norm", "fc_norm", NORM), *TIMM_HEAD]  # after the mean

FACEBOOK = [
    *TIMM_ENCODER,
    ("norm",          "norm",          NORM),
    ("",              "",              {"mask": ("mask_token", TOKEN),
                                        "decoder_position": ("decoder_pos_embed", POSITIONS)}),
    ("decoder_embed", "decoder_embed", DENSE),
    *timm_blocks("decoder_block{i}", "decoder_blocks.{i}"),
    ("decoder_norm",  "decoder_norm",  NORM),
    ("decoder_head",  "decoder_pred",  DENSE),
]
