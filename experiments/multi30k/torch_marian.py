"""Hugging Face's MarianMTModel on weights, batches and rates from files: the other side of peer.py.

    python torch_marian.py FOLDER

FOLDER is written by peer.py. The worker trains on request (experiments/speed/harness.py). A request
for -1 steps reads the validation captions and writes FOLDER/torch.json: nats a token, all losses.
"""
import json
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from torch import nn  # noqa: E402
from transformers import MarianConfig, MarianMTModel  # noqa: E402

from experiments.speed.harness import serve  # noqa: E402


def model_of(size: dict, weights: dict) -> MarianMTModel:
    """Return the network of these sizes and weights. Its sinusoids and tied copies are its own."""
    model = MarianMTModel(MarianConfig(
        vocab_size=size["vocabulary"], d_model=size["width"], encoder_layers=size["layers"],
        decoder_layers=size["layers"], encoder_attention_heads=size["heads"],
        decoder_attention_heads=size["heads"], encoder_ffn_dim=4 * size["width"],
        decoder_ffn_dim=4 * size["width"], max_position_embeddings=size["length"],
        activation_function="swish", scale_embedding=True, dropout=0.0, attention_dropout=0.0,
        activation_dropout=0.0, pad_token_id=size["pad"], eos_token_id=size["end"],
        decoder_start_token_id=size["start"], forced_eos_token_id=size["end"])).train()
    missing, unexpected = model.load_state_dict(
        {name: torch.from_numpy(value) for name, value in weights.items()}, strict=False)
    own = ("embed_positions", "embed_tokens", "lm_head")
    assert not unexpected and all(any(part in name for part in own) for name in missing), \
        (missing, unexpected)
    assert model.lm_head.weight is model.model.shared.weight
    return model


def main(folder):
    folder = pathlib.Path(folder)
    torch.set_num_threads(os.cpu_count())  # as the other side, whatever OMP_NUM_THREADS says
    size, inputs = json.loads((folder / "size.json").read_text()), np.load(folder / "inputs.npz")
    model = model_of(size, dict(np.load(folder / "weights.npz")))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in trained if p.dim() >= 2], "weight_decay": size["weight_decay"]},
         {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0}],
        betas=(0.9, size["b2"]), eps=1e-8)
    sides = {name: torch.from_numpy(inputs[name].astype(np.int64))
             for name in ("source", "target", "validation_source", "validation_target")}
    can_follow = torch.tensor(size["can_follow"])
    mass = can_follow / can_follow.sum()                                     # (V,)
    rates, losses = inputs["rates"].tolist(), []  # read once: a file of arrays is read at each look

    def cross_entropies(source, target):
        """Return (smoothed, plain) of the target tokens that are no padding."""
        late = torch.cat([torch.full_like(target[:, :1], size["start"]), target[:, :-1]], 1)
        logits = model(input_ids=source, attention_mask=(source != size["pad"]).long(),
                       decoder_input_ids=late, use_cache=False).logits       # (B, T, V)
        log_p = logits.log_softmax(-1)
        nll = -log_p.gather(-1, target[..., None])[..., 0]                   # (B, T)
        smoothed = (1 - size["smoothing"]) * nll - size["smoothing"] * (log_p @ mass)
        real = target != size["pad"]
        return smoothed[real], nll[real]

    def step():
        i = len(losses)
        for group in optimizer.param_groups:
            group["lr"] = rates[i]
        loss = cross_entropies(sides["source"][i], sides["target"][i])[0].mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, size["clip"])
        optimizer.step()
        losses.append(loss.item())

    def evaluate():
        with torch.no_grad():
            parts = [cross_entropies(*pair)[1] for pair in
                     zip(sides["validation_source"].split(128),
                         sides["validation_target"].split(128), strict=True)]
        (folder / "torch.json").write_text(
            json.dumps({"nll": torch.cat(parts).double().mean().item(), "losses": losses}))

    def run(steps):
        for _ in range(max(0, steps)):
            step()
        if steps < 0:
            evaluate()
    serve(run, f"torch {torch.__version__}, transformers {transformers.__version__}, "
               f"{torch.get_num_threads()} threads")


if __name__ == "__main__":
    main(sys.argv[1])
