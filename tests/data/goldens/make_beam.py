"""Made tests/data/goldens/beam.npz: hypotheses and scores of Hugging Face's beam search.

tests/test_beam.py compares ours with them. Run it once, in an environment of its own:

    pip install torch==2.13.0 numpy transformers==5.17.0
    python tests/data/goldens/make_beam.py

table    the logits of a token depend on the two tokens before it and on its position
marian   the MarianMTModel of make_decoders.py, with larger weights

Both are drawn from a seed, so that only the outputs are stored. If PyTorch and transformers are
installed, the test calls these functions instead of reading the file.
"""
import functools
import itertools
import json
import pathlib
import platform
import re
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from data.goldens import make_decoders  # noqa: E402

# options of each search
CASES = {f"{penalty} {early}": dict(length_penalty=penalty, early_stopping=early)
         for penalty, early in itertools.product([0.0, 0.6, 1.0, 2.0], [True, False, "never"])}
FORCED = dict(forced_eos=True, banned=(3, 8))
CASES |= {f"forced and banned {early}": dict(length_penalty=1.0, early_stopping=early, **FORCED)
          for early in (False, "never")}

# the table: each row's prompt is one token
V, STARTS = 11, [2, 3, 4, 5, 6, 7]
TABLE = dict(length=9, beams=4, eos=0, pad=1)
MARIAN = dict(length=10, beams=5, eos=make_decoders.MARIAN["eos_token_id"],
              pad=make_decoders.MARIAN["pad_token_id"])


def table() -> np.ndarray:
    """Return the logits (V, V, L, V) after two tokens, of which the last has a position."""
    logits = np.random.default_rng(3).normal(size=(V, V, TABLE["length"], V)) * 2
    logits[..., TABLE["eos"]] += 1.5     # or most hypotheses would be as long as they may
    return logits.astype(np.float32)


def of_table(case: str) -> dict:
    import torch
    return generated(table_model(), torch.tensor(STARTS)[:, None], **TABLE, **CASES[case])


def sources() -> dict:
    """Return 6 sources (6, 12) of 5 to 12 ids below 40, and which of them are there."""
    ids = np.random.default_rng(2).integers(5, 40, (6, 12))
    there = (np.arange(12) < np.array([12, 8, 5, 12, 10, 7])[:, None]).astype(np.int64)
    return {"tokens": ids * there, "there": there}


def enlarged(arrays: dict) -> dict:
    """Return Marian's weights such that translations differ by their source and some end."""
    def factor(name, array):
        if array.ndim < 2 or re.search("positions|bias", name):
            return 1
        return 5 if re.search("attn|fc", name) else 1.4
    arrays = {name: array * np.float32(factor(name, array)) for name, array in arrays.items()}
    arrays["final_logits_bias"][..., MARIAN["eos"]] += 2
    return arrays


def of_marian(case: str) -> dict:
    import torch
    model, rows = marian_model(), sources()
    return generated(model, torch.from_numpy(rows["tokens"]), **MARIAN, **CASES[case],
                     attention_mask=torch.from_numpy(rows["there"]))


@functools.cache
def marian_model():
    """Return the enlarged Marian. Options that a search leaves out are not its config's."""
    import torch
    from transformers import GenerationConfig
    model = make_decoders.marian_model()
    stored = {name: value.numpy() for name, value in model.state_dict().items()}
    model.load_state_dict({name: torch.from_numpy(value)
                           for name, value in enlarged(stored).items()})
    model.generation_config = GenerationConfig()
    return model


@functools.cache
def table_model():
    """Return the table as a model of transformers."""
    import torch
    from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import CausalLMOutput

    class Table(PreTrainedModel, GenerationMixin):
        config_class = PretrainedConfig

        def __init__(self, config):
            super().__init__(config)
            self.table = torch.nn.Parameter(torch.from_numpy(table()))

        def forward(self, input_ids, **_):
            last, position = input_ids[:, -1], input_ids.shape[1] - 1
            before = input_ids[:, max(position - 1, 0)]
            return CausalLMOutput(logits=self.table[before, last, position][:, None])

        def prepare_inputs_for_generation(self, input_ids, **_):
            return {"input_ids": input_ids}

    return Table(PretrainedConfig(vocab_size=V)).eval()


def generated(model, inputs, length, beams, eos, pad, length_penalty, early_stopping,
              forced_eos=False, banned=(), **others) -> dict:
    """Return {"tokens" (B, K, L), without the prompt, "scores" (B, K)} of Hugging Face."""
    from transformers import GenerationConfig
    config = GenerationConfig(
        num_beams=beams, num_return_sequences=beams, max_new_tokens=length, do_sample=False,
        length_penalty=length_penalty, early_stopping=early_stopping, eos_token_id=eos,
        pad_token_id=pad, decoder_start_token_id=pad if model.config.is_encoder_decoder else None,
        forced_eos_token_id=eos if forced_eos else None,
        bad_words_ids=[[token] for token in banned] or None,
        use_cache=model.config.is_encoder_decoder,  # a table has none
        return_dict_in_generate=True, output_scores=True)
    output = model.generate(inputs, generation_config=config, **others)
    tokens = output.sequences[:, 1:].numpy()
    tokens = np.pad(tokens, ((0, 0), (0, length - tokens.shape[1])), constant_values=pad)
    # Hugging Face takes a pad of 0 for none and pads with eos.
    ended = np.cumsum(tokens == eos, axis=1) - (tokens == eos) > 0
    tokens = np.where(ended, pad, tokens)
    return {"tokens": tokens.reshape(len(inputs), beams, length).astype(np.int8),
            "scores": output.sequences_scores.numpy().reshape(len(inputs), beams)}


def main():
    import torch
    import transformers
    versions = {"python": platform.python_version(), "torch": torch.__version__,
                "transformers": transformers.__version__, "numpy": np.__version__}
    rows = {f"{make.__name__}/{case}/{key}": value for make in (of_table, of_marian)
            for case in CASES for key, value in make(case).items()}
    np.savez_compressed(HERE / "beam.npz", **rows, versions=json.dumps(versions))
    print({name: value[:, 0].tolist() for name, value in rows.items() if "tokens" in name})
    print((HERE / "beam.npz").stat().st_size)


if __name__ == "__main__":
    main()
