"""A plain GPT in PyTorch, written for the comparison: GPT-2's blocks without biases.

    python torch_gpt.py FOLDER

FOLDER/inputs.npz has the first weights, the batches, the rate of each step and the test windows,
written by peer.py. In the end FOLDER/torch.json has nats a character of the test split, and all
losses (experiments/torch_side.py).
"""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from experiments.torch_side import adamw, serve_training  # noqa: E402


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm_mlp = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x):
        B, T, D = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(B, T, 3, self.heads, D // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)                                 # (B, H, T, C) each
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(B, T, D))
        return x + self.down(F.gelu(self.up(self.norm_mlp(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self, vocabulary: int, context: int, layers: int, width: int, heads: int):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)

    def forward(self, tokens):                                               # (B, T)
        x = self.embed(tokens) + self.position(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.embed.weight.T                            # (B, T, V)


def names(layers: int) -> dict[str, str]:
    """Return {our name: the name here} of all parameters."""
    table = {"embed/embedding": "embed.weight", "position/embedding": "position.weight",
             "norm/scale": "norm.weight"}
    for i in range(layers):
        for ours, here in (("norm_attention/scale", "norm_attention.weight"),
                           ("attention/qkv/kernel", "qkv.weight"),
                           ("attention/out/kernel", "out.weight"),
                           ("norm_mlp/scale", "norm_mlp.weight"),
                           ("mlp/up/kernel", "up.weight"), ("mlp/down/kernel", "down.weight")):
            table[f"block{i}/{ours}"] = f"blocks.{i}.{here}"
    return table


def nll(model, windows):
    """Return -log p (N, T) of windows (N, T + 1): each character after those before it."""
    logits = model(windows[:, :-1])
    return F.cross_entropy(logits.transpose(1, 2), windows[:, 1:], reduction="none")


def main(folder):
    folder = pathlib.Path(folder)
    size, inputs = json.loads((folder / "size.json").read_text()), np.load(folder / "inputs.npz")
    model = GPT(**{key: size[key] for key in ("vocabulary", "context", "layers", "width", "heads")})
    state = {}
    for ours, here in names(size["layers"]).items():
        array = torch.from_numpy(inputs[ours])
        state[here] = array.T.contiguous() if ours.endswith("kernel") else array
    model.load_state_dict(state)
    batches = torch.from_numpy(inputs["batches"].astype(np.int64))           # (steps, B, T + 1)
    rates = inputs["rates"].tolist()  # read once: a file of arrays is read at each look

    def measure():
        windows = torch.from_numpy(inputs["test"].astype(np.int64))          # (N, T + 1)
        counts = torch.from_numpy(inputs["test_counts"])                     # (N, T)
        with torch.no_grad():
            total = sum((nll(model, part) * real).sum().item() for part, real in
                        zip(windows.split(256), counts.split(256), strict=True))
        return {"nll": total / counts.sum().item()}
    serve_training(folder, model, adamw(model, size["weight_decay"], size["b2"]),
                   lambda i: nll(model, batches[i]).mean(), rates, size["clip"], measure=measure)


if __name__ == "__main__":
    main(sys.argv[1])
