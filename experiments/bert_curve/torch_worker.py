"""Hugging Face's BertForMaskedLM on batches, masks and weights from a file.

    python torch_worker.py FOLDER [full] [--train]

FOLDER/batches.npz and FOLDER/weights.npz are written by run.py. With --train the loss of every step
goes to FOLDER/torch.jsonl. Otherwise it runs steps on request (experiments/speed/harness.py). The
head is applied to the masked positions only, or, with "full", to all.
"""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import BertConfig, BertForMaskedLM  # noqa: E402

from experiments.speed.harness import serve  # noqa: E402


def main(folder, *options):
    folder = pathlib.Path(folder)
    said, full = json.loads((folder / "config.json").read_text()), "full" in options
    model = BertForMaskedLM(BertConfig(
        vocab_size=said["vocabulary"], hidden_size=said["width"], num_hidden_layers=said["layers"],
        num_attention_heads=said["heads"], intermediate_size=4 * said["width"],
        max_position_embeddings=said["length"], hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0)).train()
    weights = {name: torch.from_numpy(value)
               for name, value in np.load(folder / "weights.npz").items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    # tied copies
    assert not unexpected and all("decoder" in name for name in missing), (missing, unexpected)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    batches = {name: torch.from_numpy(value)
               for name, value in np.load(folder / "batches.npz").items()}

    def step(i: int) -> float:
        batch = {name: column[i] for name, column in batches.items()}
        for group in optimizer.param_groups:
            group["lr"] = said["peak"] * min(1.0, i / said["warmup"])
        x = model.bert(batch["inputs"].long())[0]  # (B, T, D)
        at, target = batch["at"].long(), batch["target"].long()                             # (B, K)
        if full:
            logits = torch.gather(model.cls(x), 1, at[..., None].expand(-1, -1, said["vocabulary"]))
        else:
            logits = model.cls(torch.gather(x, 1, at[..., None].expand(-1, -1, x.shape[-1])))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    if "--train" in options:
        with open(folder / "torch.jsonl", "w") as file:
            for i in range(len(batches["inputs"])):
                file.write(json.dumps({"step": i + 1, "loss": step(i)}) + "\n")
                file.flush()
    else:
        serve(lambda n: [step(i % len(batches["inputs"])) for i in range(n)],
              f"torch {torch.__version__} transformers {transformers.__version__}")


if __name__ == "__main__":
    main(*sys.argv[1:])
