"""Made the goldens of Hugging Face's GPT-2 and Marian, for tests/test_decoder_weights.py.

Run it once, in the environment of make_transformers.py:

    python tests/data/goldens/make_decoders.py

gpt2     GPT2LMHeadModel: every hidden state, the logits, the loss of next tokens, its gradient
marian   MarianMTModel of two and one layers: the states of encoder and decoder, the rest as gpt2

Weights are drawn from a seed by name, and files hold versions, as those of make_transformers.py.
"""
import json
import pathlib
import platform
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from data.goldens import make_transformers  # noqa: E402
from data.goldens.make_vision import weights  # noqa: E402

GPT2 = dict(vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0,
            eos_token_id=0)
MARIAN = dict(vocab_size=40, max_position_embeddings=16, d_model=16, encoder_layers=2,
              decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
              encoder_ffn_dim=64, decoder_ffn_dim=64, activation_function="swish",
              scale_embedding=True, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
              forced_eos_token_id=1)


def texts():
    """Return (2, 12) ids below 40, and which of them are there. The second row has 8."""
    rows = make_transformers.tokens()
    return {"tokens": rows["tokens"], "there": rows["there"]}


def pairs():
    """Return sources (2, 12), and targets (2, 9) of 9 and 6 tokens, shifted: each begins with 2.

    Marian begins with its padding, whose embedding PyTorch would give no gradient.
    """
    rng = np.random.default_rng(3)
    labels = rng.integers(5, 40, (2, 9))
    weight = (np.arange(9) < np.array([[9], [6]])).astype(np.int64)
    shifted = np.pad(labels, ((0, 0), (1, 0)), constant_values=2)[:, :-1] * weight
    return {**texts(), "labels": labels, "shifted": shifted, "weight": weight}


def gpt2_model():
    from transformers import GPT2Config, GPT2LMHeadModel
    return drawn(GPT2LMHeadModel(GPT2Config(attn_implementation="eager", **GPT2)))


def marian_model():
    from transformers import MarianConfig, MarianMTModel
    return drawn(MarianMTModel(MarianConfig(attn_implementation="eager", **MARIAN)))


def drawn(model):
    """Set weights drawn from the seed, except constants: Marian's sinusoids are frozen."""
    import torch
    named = {name: parameter for name, parameter in model.named_parameters()
             if parameter.requires_grad}
    named |= {name: buffer for name, buffer in model.named_buffers()
              if name == "final_logits_bias"}
    for name, value in weights({name: tuple(p.shape) for name, p in named.items()}).items():
        named[name].data = torch.from_numpy(value)
    return model.eval()


def gpt2() -> dict:
    import torch
    model = gpt2_model()
    rows = {name: torch.from_numpy(value) for name, value in texts().items()}
    labels = torch.where(rows["there"] > 0, rows["tokens"], -100)
    out = model(rows["tokens"], attention_mask=rows["there"], labels=labels,
                output_hidden_states=True)
    return numbers(model, out, {"state": out.hidden_states})


def marian() -> dict:
    import torch
    model = marian_model()
    rows = {name: torch.from_numpy(value) for name, value in pairs().items()}
    labels = torch.where(rows["weight"] > 0, rows["labels"], -100)
    out = model(rows["tokens"], attention_mask=rows["there"], decoder_input_ids=rows["shifted"],
                labels=labels, output_hidden_states=True)
    return numbers(model, out, {"state": out.encoder_hidden_states,
                                "decoder_state": out.decoder_hidden_states})


def numbers(model, out, states: dict) -> dict:
    """Return a pass's states, logits and loss, and the loss's gradient."""
    out.loss.backward()
    by_layer = {f"{name}{i}": state.detach().numpy() for name, parts in states.items()
                for i, state in enumerate(parts)}
    return {**by_layer, "logits": out.logits.detach().numpy(), "loss": out.loss.item(),
            **make_transformers.gradients(model)}


def main():
    import torch
    import transformers
    versions = {"python": platform.python_version(), "torch": torch.__version__,
                "transformers": transformers.__version__, "numpy": np.__version__}
    for make in (gpt2, marian):
        np.savez_compressed(HERE / f"{make.__name__}.npz", **make(), versions=json.dumps(versions))
        print(make.__name__, (HERE / f"{make.__name__}.npz").stat().st_size)


if __name__ == "__main__":
    main()
