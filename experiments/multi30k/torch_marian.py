"""Hugging Face's MarianMTModel on weights, batches and rates from files: the other side of peer.py.

    python torch_marian.py FOLDER

FOLDER is written by peer.py. In the end FOLDER/torch.json has nats a token of the validation
captions, and all losses (experiments/torch_side.py).
"""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import MarianConfig, MarianMTModel  # noqa: E402

from experiments.torch_side import adamw, load, serve_training  # noqa: E402


def make_model(size: dict) -> MarianMTModel:
    """Return the network of these sizes. Its sinusoids and tied copies are its own."""
    return MarianMTModel(MarianConfig(
        vocab_size=size["vocabulary"], d_model=size["width"], encoder_layers=size["layers"],
        decoder_layers=size["layers"], encoder_attention_heads=size["heads"],
        decoder_attention_heads=size["heads"], encoder_ffn_dim=4 * size["width"],
        decoder_ffn_dim=4 * size["width"], max_position_embeddings=size["length"],
        activation_function="swish", scale_embedding=True, dropout=0.0, attention_dropout=0.0,
        activation_dropout=0.0, pad_token_id=size["pad"], eos_token_id=size["end"],
        decoder_start_token_id=size["start"], forced_eos_token_id=size["end"])).train()


def main(folder):
    folder = pathlib.Path(folder)
    size, inputs = json.loads((folder / "size.json").read_text()), np.load(folder / "inputs.npz")
    model = make_model(size)
    load(model, folder / "weights.npz", own=("embed_positions", "embed_tokens", "lm_head"))
    assert model.lm_head.weight is model.model.shared.weight
    sides = {name: torch.from_numpy(inputs[name].astype(np.int64))
             for name in ("source", "target", "validation_source", "validation_target")}
    can_follow = torch.tensor(size["can_follow"])
    mass = can_follow / can_follow.sum()                                     # (V,)
    rates = inputs["rates"].tolist()  # read once: a file of arrays is read at each look

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

    def loss_of(i):
        return cross_entropies(sides["source"][i], sides["target"][i])[0].mean()

    def measure():
        with torch.no_grad():
            parts = [cross_entropies(*pair)[1] for pair in
                     zip(sides["validation_source"].split(128),
                         sides["validation_target"].split(128), strict=True)]
        return {"nll": torch.cat(parts).double().mean().item()}
    serve_training(folder, model, adamw(model, size["weight_decay"], size["b2"]), loss_of, rates,
                   size["clip"], f"transformers {transformers.__version__}, ", measure)


if __name__ == "__main__":
    main(sys.argv[1])
