"""Made the goldens of networks that arrays alone do not tell apart, for tests/test_weights.py.

Run it once, in the environment of make_transformers.py, with torchvision:

    python tests/data/goldens/make_unseen.py

unseen.npz  logits of transformers' BERT with other activations, heads, epsilon, types and a padded
            vocabulary, of a ViT of one channel, of timm's pooling; the output of torchvision's wide
            bottleneck, and logits of its wide_resnet50_2

Weights are drawn from a seed by name. The test draws the same.
"""
import json
import pathlib
import platform
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from data.goldens import make_transformers as made  # noqa: E402
from data.goldens.make_vision import images, weights  # noqa: E402


def grey():
    """Return images (2, 8, 8, 1) in -1 to 1."""
    return made.pictures()["images"].mean(-1, keepdims=True)


def block_input():
    """Return states (1, 8, 8, 64) in -1 to 1."""
    return np.random.default_rng(3).uniform(-1, 1, (1, 8, 8, 64)).astype(np.float32)


def bert(**options) -> np.ndarray:
    import torch
    from transformers import BertConfig, BertForMaskedLM
    model = BertForMaskedLM(BertConfig(**{
        **made.SIZE, "vocab_size": 40, "max_position_embeddings": 16,
        "attn_implementation": "eager", **options})).eval()
    made.draw(model)
    rows = {name: torch.from_numpy(value) for name, value in made.tokens().items()}
    return model(rows["inputs"], attention_mask=rows["there"]).logits.detach().numpy()


def vit(inputs, **options) -> np.ndarray:
    from transformers import ViTConfig, ViTForImageClassification
    model = ViTForImageClassification(ViTConfig(
        image_size=8, patch_size=4, num_labels=3, **{**made.SIZE, **options})).eval()
    made.draw(model)
    return model(made.channels_first(inputs)).logits.detach().numpy()


def timm(**options) -> np.ndarray:
    from timm.models.vision_transformer import VisionTransformer
    model = VisionTransformer(img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2,
                              num_classes=3, **options).eval()
    made.draw(model)
    return model(made.channels_first(made.pictures()["images"])).detach().numpy()


def drawn(network):
    """Return a network of torchvision with drawn weights and statistics."""
    import torch
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()
              if value.ndim}
    network.load_state_dict({name: torch.from_numpy(value)
                             for name, value in weights(shapes).items()}, strict=False)
    return network.eval()


def main():
    import torch
    # as in make_vision.py: torchvision's operators do not load beside PyTorch for the CPU
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    import timm as timm_package
    from torchvision.models import resnet, wide_resnet50_2
    import transformers
    with torch.no_grad():
        block = drawn(resnet.Bottleneck(64, 16, base_width=128))
        wide = drawn(wide_resnet50_2(num_classes=10))
        goldens = {
            "bert_relu": bert(hidden_act="relu"),
            "bert_gelu_new": bert(hidden_act="gelu_new"),
            "bert_heads": bert(num_attention_heads=4),
            "bert_eps": bert(layer_norm_eps=1e-2),
            "bert_one_type": bert(type_vocab_size=1),
            "bert_padded": bert(vocab_size=48),
            "vit_grey": vit(grey(), num_channels=1),
            "vit_relu": vit(made.pictures()["images"], hidden_act="relu"),
            "timm_mean": timm(global_pool="avg", fc_norm=False),
            "timm_fc_norm": timm(global_pool="avg"),
            "wide_block": block(made.channels_first(block_input())).numpy().transpose(0, 2, 3, 1),
            "wide_resnet50_2": wide(made.channels_first(images(2, 64) / 128 - 1)).numpy()}
    versions = {"python": platform.python_version(), "torch": torch.__version__,
                "transformers": transformers.__version__, "timm": timm_package.__version__}
    np.savez_compressed(HERE / "unseen.npz", **goldens, versions=json.dumps(versions))


if __name__ == "__main__":
    main()
