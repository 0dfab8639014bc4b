"""The same step in PyTorch, as its users write it for speed.

    python experiments/gpu/torch_worker.py CASE eager|compiled [quick]

bf16 by autocast, channels last, a fused optimizer, attention by scaled_dot_product_attention.
"compiled": torch.compile.
"""
import pathlib
import sys

import torch
import torch.nn.functional as F

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))

from experiments.gpu.cases import Case, case  # noqa: E402
from experiments.speed.harness import serve  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def resnet50(c: Case):
    """Return (model, loss of nothing)."""
    import torchvision
    model = torchvision.models.resnet50().to(DEVICE, memory_format=torch.channels_last).train()
    images = torch.randn(c.batch, 3, c.side, c.side,
                         device=DEVICE).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (c.batch,), device=DEVICE)
    return model, lambda: F.cross_entropy(model(images), labels)


def bert(c: Case):
    from transformers import BertConfig, BertForMaskedLM
    model = BertForMaskedLM(BertConfig(
        vocab_size=c.vocabulary, hidden_size=c.width, num_hidden_layers=c.layers,
        num_attention_heads=c.width // 64,
        intermediate_size=4 * c.width, max_position_embeddings=c.length, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0)).to(DEVICE).train()
    inputs = torch.randint(0, c.vocabulary, (c.batch, c.length), device=DEVICE)
    at = torch.rand(c.batch, c.length, device=DEVICE).argsort(1)[:, :c.chosen]
    target = torch.randint(0, c.vocabulary, at.shape, device=DEVICE)

    def loss():
        x = model.bert(inputs)[0]  # (B, T, D)
        # (B, K, V)
        logits = model.cls(torch.gather(x, 1, at[..., None].expand(-1, -1, x.shape[-1])))
        return F.cross_entropy(logits.flatten(0, 1), target.flatten())
    return model, loss


def main(name: str, how: str, quick: str = ""):
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    model, loss_of = {"resnet50": resnet50, "bert": bert}[name](case(name, bool(quick)))
    loss_of = torch.compile(loss_of) if how == "compiled" else loss_of
    fused = DEVICE == "cuda"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9,
                                fused=fused) if name == "resnet50" else \
        torch.optim.AdamW(model.parameters(), lr=1e-4, fused=fused)

    def run_steps(n):
        for _ in range(n):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(DEVICE, torch.bfloat16):
                loss = loss_of()
            loss.backward()
            optimizer.step()
        assert torch.isfinite(loss)  # waits for the device
    serve(run_steps,
          f"torch {torch.__version__}, {torch.cuda.get_device_name() if fused else 'cpu'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
