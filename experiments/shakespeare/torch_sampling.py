"""Texts by Hugging Face's `generate`, on weights from a file: the other side of sampling.py.

    python torch_sampling.py FOLDER WAY ROWS        # WAY: "cache" or "no cache"
"""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import GPT2Config, GPT2LMHeadModel  # noqa: E402

from experiments.speed.harness import serve  # noqa: E402


def main(folder, way, rows):
    folder = pathlib.Path(folder)
    size = json.loads((folder / "size.json").read_text())
    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=size["vocabulary"], n_positions=size["context"], n_embd=size["width"],
        n_layer=size["layers"], n_head=size["heads"], bos_token_id=0, eos_token_id=None)).eval()
    missing, unexpected = model.load_state_dict(
        {name: torch.from_numpy(value) for name, value in np.load(folder / "weights.npz").items()},
        strict=False)
    assert not unexpected and all("lm_head" in name for name in missing), (missing, unexpected)
    start = torch.zeros((int(rows), 1), dtype=torch.long)
    torch.manual_seed(0)

    def run(n):
        for _ in range(n):
            with torch.no_grad():
                text = model.generate(
                    start, attention_mask=torch.ones_like(start), do_sample=True, temperature=1.0,
                    top_k=0, max_new_tokens=size["context"] - 1, use_cache=way == "cache",
                    pad_token_id=0)
            assert text.shape == (int(rows), size["context"])
    serve(run, f"torch {torch.__version__} transformers {transformers.__version__}")


if __name__ == "__main__":
    main(*sys.argv[1:])
