"""DiT: the names of diffusers' DiTTransformer2DModel.

Each of its blocks holds the embeddings of time and class, as copies of one another. Ours has them
once: a file's must be equal, and those of the first block are read (names.py, TIED).
"""
import re

from karpjax.weights.names import CONV, DENSE

BLOCK, EMBED = "transformer_blocks.{i}", "transformer_blocks.0.norm1.emb"
TABLE = [
    ("patch",                        "pos_embed.proj", CONV),
    ("time0",                        f"{EMBED}.timestep_embedder.linear_1", DENSE),
    ("time1",                        f"{EMBED}.timestep_embedder.linear_2", DENSE),
    ("label",                        f"{EMBED}.class_embedder.embedding_table",
     {"embedding": ("weight", (0, 1))}),
    ("block{i}/modulation/dense",    f"{BLOCK}.norm1.linear", DENSE),
    ("block{i}/attention/qkv",       tuple(f"{BLOCK}.attn1.to_{x}" for x in "qkv"), DENSE),
    ("block{i}/attention/out",       f"{BLOCK}.attn1.to_out.0", DENSE),
    ("block{i}/mlp/up",              f"{BLOCK}.ff.net.0.proj", DENSE),
    ("block{i}/mlp/down",            f"{BLOCK}.ff.net.2", DENSE),
    ("modulation/dense",             "proj_out_1", DENSE),
    ("pixels",                       "proj_out_2", DENSE),
]


def with_copies(arrays: dict, layers: int) -> dict:
    """Return arrays by diffusers' names, with the embeddings in every block."""
    return {**arrays, **{re.sub(r"(?<=^transformer_blocks\.)0", str(i), name): array
                         for name, array in arrays.items() if name.startswith(EMBED)
                         for i in range(1, layers)}}
