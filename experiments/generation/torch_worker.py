"""Hugging Face's `generate` from the same weights, as its users call it.

    python torch_worker.py CASE FILE FORM      # as jax_worker.py
"""
import json
import pathlib
import sys

import safetensors.torch
import torch
import transformers

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))
from experiments.generation.case import TOP_K, context, prompts  # noqa: E402
from experiments.speed.harness import serve  # noqa: E402


def main(case: str, file: str, form: str):
    case = json.loads(case)
    config = transformers.GPT2Config(
        vocab_size=case["vocabulary"], n_positions=context(case), n_embd=case["width"],
        n_layer=case["layers"], n_head=case["heads"], bos_token_id=None, eos_token_id=None)
    model = transformers.GPT2LMHeadModel(config).eval()
    left, unknown = model.load_state_dict(safetensors.torch.load_file(file), strict=False)
    assert not unknown and set(left) <= {"lm_head.weight"}, (left, unknown)  # the tied table
    tokens = torch.from_numpy(prompts(case)).long()

    def decode(**options):
        # no end token: all samples are equally long
        choice = transformers.GenerationConfig(
            max_new_tokens=case["new"], use_cache=form == "cache", eos_token_id=None,
            pad_token_id=case["vocabulary"] - 1, **options)
        with torch.inference_mode():
            return model.generate(tokens, attention_mask=torch.ones_like(tokens),
                                  generation_config=choice)[:, case["prompt"]:]

    def run_steps(n):
        for _ in range(n):
            assert decode(do_sample=True, top_k=TOP_K).shape == (case["batch"], case["new"])
    serve(run_steps, json.dumps({
        "torch": torch.__version__, "transformers": transformers.__version__,
        "threads": torch.get_num_threads(), "greedy": decode(do_sample=False).tolist()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
