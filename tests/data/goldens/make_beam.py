"""Made tests/data/goldens/beam.npz: hypotheses and scores of Hugging Face's beam search.

tests/test_beam.py compares ours with them. Run it once, in an environment of its own:

    pip install torch==2.13.0 numpy transformers==5.17.0
    python tests/data/goldens/make_beam.py

The model is a table: the logits of a token depend on the two tokens before it and on its position.
It is drawn from a seed, so that only the outputs are stored. If PyTorch and transformers are
installed, the test calls these functions instead of reading the file.
"""
import itertools
import json
import pathlib
import platform

import numpy as np

TARGET = pathlib.Path(__file__).parent / "beam.npz"
V, LENGTH, BEAMS, EOS, PAD = 11, 9, 4, 0, 1
STARTS = [2, 3, 4, 5, 6, 7]     # each row's prompt: one token
CASES = {f"{penalty} {early}": dict(length_penalty=penalty, early_stopping=early)
         for penalty, early in itertools.product([0.0, 0.6, 1.0, 2.0], [True, False, "never"])}
CASES["forced and banned"] = dict(length_penalty=1.0, early_stopping=False, forced_eos=True,
                                  banned=(PAD, 8))


def table() -> np.ndarray:
    """Return the logits (V, V, LENGTH, V) after two tokens, of which the last has a position."""
    logits = np.random.default_rng(3).normal(size=(V, V, LENGTH, V)) * 2
    logits[..., EOS] += 1.5     # or most hypotheses would be as long as they may
    return logits.astype(np.float32)


def hugging_face(length_penalty, early_stopping, forced_eos=False, banned=()) -> dict:
    """Return {"tokens" (B, K, LENGTH) without the prompt, "scores" (B, K)}."""
    import torch
    from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import CausalLMOutput

    class Table(PreTrainedModel, GenerationMixin):
        config_class = PretrainedConfig

        def __init__(self, config):
            super().__init__(config)
            self.table = torch.nn.Parameter(torch.from_numpy(table()))
            self.post_init()

        def forward(self, input_ids, **_):
            last, position = input_ids[:, -1], input_ids.shape[1] - 1
            before = input_ids[:, max(position - 1, 0)]
            return CausalLMOutput(logits=self.table[before, last, position][:, None])

        def prepare_inputs_for_generation(self, input_ids, **_):
            return {"input_ids": input_ids}

    def no_init(module):
        """Keep the table, which post_init would draw anew."""
    Table._init_weights = staticmethod(no_init)
    model = Table(PretrainedConfig(vocab_size=V, bos_token_id=None)).eval()
    config = GenerationConfig(
        num_beams=BEAMS, num_return_sequences=BEAMS, max_new_tokens=LENGTH, do_sample=False,
        eos_token_id=EOS, pad_token_id=PAD, use_cache=False, length_penalty=length_penalty,
        early_stopping=early_stopping, forced_eos_token_id=EOS if forced_eos else None,
        bad_words_ids=[[token] for token in banned] or None, return_dict_in_generate=True,
        output_scores=True)
    output = model.generate(torch.tensor(STARTS)[:, None], generation_config=config)
    tokens = output.sequences[:, 1:].numpy()
    tokens = np.pad(tokens, ((0, 0), (0, LENGTH - tokens.shape[1])), constant_values=PAD)
    return {"tokens": tokens.reshape(len(STARTS), BEAMS, LENGTH).astype(np.int8),
            "scores": output.sequences_scores.numpy().reshape(len(STARTS), BEAMS)}


def main():
    import torch
    import transformers
    versions = {"python": platform.python_version(), "torch": torch.__version__,
                "transformers": transformers.__version__, "numpy": np.__version__}
    rows = {f"{name}/{key}": value for name, options in CASES.items()
            for key, value in hugging_face(**options).items()}
    np.savez_compressed(TARGET, **rows, versions=json.dumps(versions))


if __name__ == "__main__":
    main()
