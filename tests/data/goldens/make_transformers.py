"""Made the goldens of Hugging Face's and timm's PyTorch models, for tests/test_transformers.py.

Run it once, in an environment of its own:

    pip install torch==2.13.0 numpy transformers==5.23.0
    pip install --no-deps timm==1.0.31 torchvision
    python tests/data/goldens/make_transformers.py [NAME ...]

bert, roberta     BertForMaskedLM and RobertaForMaskedLM: every hidden state, the logits, the
                  masked loss, its gradient
vit, timm, deit   ViTForImageClassification, timm's VisionTransformer and
                  VisionTransformerDistilled: the same
mae               ViTMAEForPreTraining: the states of encoder and decoder, pixels, the loss at
                  masked patches, its gradient
resnet_basic, resnet_bottleneck
                  ResNetForImageClassification of 18 and 50 layers: every stage, the logits,
                  some gradients
positions         timm's resample_abs_pos_embed

Weights are drawn from a seed by name, so that none need be stored. Every file also holds the
versions it was made with. If PyTorch and transformers are installed, the test calls these functions
instead of reading the files.
"""
import json
import pathlib
import platform
import re
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from data.goldens.make_vision import images, weights  # noqa: E402

SIZE = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)


def tokens():
    """Return (2, 12) ids below 40, which of them are there, which are masked, and the inputs.

    The second row ends with 4 tokens of padding.
    """
    rng = np.random.default_rng(2)
    ids = rng.integers(5, 40, (2, 12))
    there = np.ones((2, 12), np.int64)
    ids[1, 8:] = there[1, 8:] = 0
    chosen = (rng.uniform(size=ids.shape) < 0.3) & (there > 0)
    return {"tokens": ids, "there": there, "chosen": chosen, "inputs": np.where(chosen, 3, ids)}


def bert() -> dict:
    from transformers import BertConfig, BertForMaskedLM
    return of_text(BertForMaskedLM(BertConfig(vocab_size=40, max_position_embeddings=16,
                                              attn_implementation="eager", **SIZE)))


def roberta() -> dict:
    """Return RoBERTa's numbers. The first two of its 18 positions are the padding's."""
    from transformers import RobertaConfig, RobertaForMaskedLM
    return of_text(RobertaForMaskedLM(RobertaConfig(
        vocab_size=40, max_position_embeddings=18, type_vocab_size=1, pad_token_id=1,
        layer_norm_eps=1e-5, attn_implementation="eager", **SIZE)))


def of_text(model) -> dict:
    import torch
    draw(model.eval())
    rows = {name: torch.from_numpy(value) for name, value in tokens().items()}
    labels = torch.where(rows["chosen"], rows["tokens"], -100)
    positions = {}
    if "roberta" in model.config.model_type:  # which counts them from its own padding token
        positions["position_ids"] = torch.cumsum(rows["there"], 1) * rows["there"] + 1
    out = model(rows["inputs"], **positions, attention_mask=rows["there"], labels=labels,
                output_hidden_states=True)
    out.loss.backward()
    states = {f"state{i}": state.detach().numpy() for i, state in enumerate(out.hidden_states)}
    return {**states, "logits": out.logits.detach().numpy(), "loss": out.loss.item(),
            **gradients(model)}


def pictures():
    """Return images (2, 8, 8, 3) in -1 to 1, labels, and an order of the 4 patches of each."""
    return {"images": images(2, 8) / 128 - 1, "labels": np.array([2, 0]),
            "order": np.array([[2, 0, 3, 1], [1, 3, 0, 2]])}


def vit() -> dict:
    import torch
    from transformers import ViTConfig, ViTForImageClassification
    model = ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_labels=3,
                                                **SIZE)).eval()
    draw(model)
    given = pictures()
    out = model(channels_first(given["images"]), output_hidden_states=True)
    loss = torch.nn.functional.cross_entropy(out.logits, torch.from_numpy(given["labels"]))
    loss.backward()
    return {**normed_last(out.hidden_states, model.vit.layernorm),
            "logits": out.logits.detach().numpy(), "loss": loss.item(),
            **gradients(model)}


def normed_last(states, norm) -> dict:
    """Return the states of an encoder, the last one after its norm, as ours."""
    return {f"state{i}": state.detach().numpy()
            for i, state in enumerate([*states[:-1], norm(states[-1])])}


def timm() -> dict:
    from timm.models.vision_transformer import VisionTransformer
    return of_timm(VisionTransformer)


def deit() -> dict:
    from timm.models.deit import VisionTransformerDistilled
    return of_timm(VisionTransformerDistilled)


def of_timm(architecture) -> dict:
    import torch
    model = architecture(img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2,
                         num_classes=3).eval()
    draw(model)
    states = []
    for part in (model.norm_pre, *model.blocks):
        part.register_forward_hook(lambda module, inputs, output: states.append(output))
    given = pictures()
    logits = model(channels_first(given["images"]))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(given["labels"]))
    loss.backward()
    return {**normed_last(states, model.norm), "logits": logits.detach().numpy(),
            "loss": loss.item(), **gradients(model)}


def positions() -> dict:
    """Return embeddings of a class token and a 5 x 5 grid, resampled to 3 x 3 and 8 x 8."""
    from timm.layers import resample_abs_pos_embed
    import torch
    given = np.random.default_rng(0).normal(size=(26, 6)).astype(np.float32)

    def for_grid(side):
        return resample_abs_pos_embed(torch.from_numpy(given)[None], [side, side])[0].numpy()
    return {"given": given, "side3": for_grid(3), "side8": for_grid(8)}


def resnet_basic() -> dict:
    return of_resnet(layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512])


def resnet_bottleneck() -> dict:
    return of_resnet(layer_type="bottleneck", depths=[3, 4, 6, 3],
                     hidden_sizes=[256, 512, 1024, 2048])


def photo():
    """Return an image (1, 32, 32, 3) in -1 to 1."""
    return images(1, 32) / 128 - 1


def of_resnet(**form) -> dict:
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification
    model = ResNetForImageClassification(ResNetConfig(num_labels=3, **form)).eval()
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items() if value.ndim}
    model.load_state_dict({name: torch.from_numpy(value)
                           for name, value in weights(shapes).items()}, strict=False)
    out = model(channels_first(photo()), output_hidden_states=True)
    loss = torch.nn.functional.cross_entropy(out.logits, torch.tensor([2]))
    loss.backward()
    small = ("resnet.embedder", "classifier",
             "resnet.encoder.stages.3.layers.1.layer.0.normalization")
    return {**{f"stage{i}": state.detach().numpy().transpose(0, 2, 3, 1)
               for i, state in enumerate(out.hidden_states)},
            "logits": out.logits.detach().numpy(), "loss": loss.item(),
            **{name: value for name, value in gradients(model).items()
               if name.startswith(tuple(f"gradient/{s}" for s in small))
               and value.size < 20_000}}


def mae() -> dict:
    """Return MAE's numbers, with half of the patches masked and targets normalised.

    The noise has the order of `pictures`.
    """
    from transformers import ViTMAEConfig, ViTMAEForPreTraining
    model = ViTMAEForPreTraining(ViTMAEConfig(
        image_size=8, patch_size=4, mask_ratio=0.5, norm_pix_loss=True, decoder_hidden_size=8,
        decoder_num_hidden_layers=1, decoder_num_attention_heads=2, decoder_intermediate_size=32,
        **SIZE)).eval()
    draw(model)
    given = pictures()
    noise = np.argsort(given["order"], axis=1).astype(np.float32)
    import torch
    decoded = []
    for part in model.decoder.decoder_layers:
        part.register_forward_hook(lambda module, inputs, output: decoded.append(output))
    out = model(channels_first(given["images"]), noise=torch.from_numpy(noise),
                output_hidden_states=True)
    out.loss.backward()
    return {**normed_last(out.hidden_states, model.vit.layernorm),
            "logits": out.logits.detach().numpy(),
            **{f"decoder_state{i}": y.detach().numpy() for i, y in enumerate(decoded, 1)},
            "loss": out.loss.item(), **gradients(model)}


def channels_first(batch):
    import torch
    return torch.from_numpy(batch.transpose(0, 3, 1, 2).copy()).float()


def draw(model) -> None:
    """Set weights drawn from the seed. Tied arrays, such as embeddings, are drawn as one."""
    import torch
    named = {published(name): parameter for name, parameter in model.named_parameters()}
    for name, value in weights({name: tuple(p.shape) for name, p in named.items()}).items():
        named[name].data = torch.from_numpy(value)


def gradients(model) -> dict:
    """Return {gradient/name: array}. The positions of MAE have none: they stay as they are."""
    return {f"gradient/{published(name)}": parameter.grad.numpy()
            for name, parameter in model.named_parameters() if parameter.grad is not None}


def published(name: str) -> str:
    """Return the name in published files of a parameter of transformers 5.

    The names of timm stay.
    """
    if name.startswith("blocks."):
        return name
    for new, old in ((r"^vit\.layers\.", "vit.encoder.layer."),
                     (r"\.attention\.q_proj\.", ".attention.attention.query."),
                     (r"\.attention\.k_proj\.", ".attention.attention.key."),
                     (r"\.attention\.v_proj\.", ".attention.attention.value."),
                     (r"\.attention\.o_proj\.", ".attention.output.dense."),
                     (r"\.mlp\.fc1\.", ".intermediate.dense."),
                     (r"\.mlp\.fc2\.", ".output.dense.")):
        name = re.sub(new, old, name)
    return name


def main(names):
    import torch
    import transformers
    versions = {"python": platform.python_version(), "torch": torch.__version__,
                "transformers": transformers.__version__, "numpy": np.__version__}
    everything = "bert roberta vit timm deit mae positions resnet_basic resnet_bottleneck"
    for make in map(globals().get, names or everything.split()):
        np.savez_compressed(HERE / f"{make.__name__}.npz", **make(), versions=json.dumps(versions))
        print(make.__name__, (HERE / f"{make.__name__}.npz").stat().st_size)


if __name__ == "__main__":
    main(sys.argv[1:])
