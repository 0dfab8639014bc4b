"""U-Net: the names of diffusers' UNet2DModel.

Its arrays do not show all of its form. Ours is that of its defaults: freq_shift = 0, cosines before
sines, downsample_padding = 1. A network with scale_shift has a norm before the middle's attention
with attn_norm_num_groups alone.
"""
from karpjax.weights.names import CONV, DENSE, NORM

PLACES = [("down{i}", "down_blocks.{i}"), ("middle", "mid_block"), ("up{i}", "up_blocks.{i}")]
BLOCK = [
    ("norm1",                        "resnets.{b}.norm1", NORM),
    ("conv1",                        "resnets.{b}.conv1", CONV),
    ("condition",                    "resnets.{b}.time_emb_proj", DENSE),
    ("norm2",                        "resnets.{b}.norm2", NORM),
    ("conv2",                        "resnets.{b}.conv2", CONV),
    ("shortcut",                     "resnets.{b}.conv_shortcut", CONV),
    ("attention_norm",               "attentions.{b}.group_norm", NORM),
    ("attention/qkv",                tuple(f"attentions.{{b}}.to_{x}" for x in "qkv"), DENSE),
    ("attention/out",                "attentions.{b}.to_out.0", DENSE),
]


def beneath(place: str, parts):
    """Return the names of modules beneath a place, one or several."""
    return f"{place}.{parts}" if isinstance(parts, str) else tuple(f"{place}.{x}" for x in parts)


TABLE = [
    ("stem",                         "conv_in", CONV),
    ("time0",                        "time_embedding.linear_1", DENSE),
    ("time1",                        "time_embedding.linear_2", DENSE),
    ("label",                        "class_embedding", {"embedding": ("weight", (0, 1))}),
    *((f"{ours}_block{{b}}/{part}",  beneath(theirs, parts), layout)
      for ours, theirs in PLACES for part, parts, layout in BLOCK),
    ("down{i}_conv",                 "down_blocks.{i}.downsamplers.0.conv", CONV),
    ("up{i}_conv",                   "up_blocks.{i}.upsamplers.0.conv", CONV),
    ("norm",                         "conv_norm_out", NORM),
    ("pixels",                       "conv_out", CONV),
]
