"""Made the goldens of diffusers' UNet2DModel, for tests/test_unet.py.

Run it once, in an environment of its own:

    pip install torch==2.13.0 numpy diffusers==0.39.0 transformers
    python tests/data/goldens/make_unet.py

unet.npz holds the outputs and the names of the networks below, and the versions. Weights are drawn
from a seed by name.
"""
import json
import pathlib
import platform
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from data.goldens.make_vision import weights  # noqa: E402

COMMON = dict(in_channels=3, out_channels=3, sample_size=8, norm_num_groups=4)
PLAIN = dict(down_block_types=["DownBlock2D"] * 3, up_block_types=["UpBlock2D"] * 3)
ATTENTION = dict(down_block_types=["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
                 up_block_types=["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"])
SCALE_SHIFT = dict(resnet_time_scale_shift="scale_shift", attn_norm_num_groups=4)
# Five classes, and the sixth row for none.
NETWORKS = {
    "plain": dict(PLAIN, add_attention=False, block_out_channels=[8, 8, 16], layers_per_block=1),
    "plain_scale_shift": dict(PLAIN, **SCALE_SHIFT, add_attention=False, num_class_embeds=6,
                              block_out_channels=[8, 16, 16], layers_per_block=1),
    "attention": dict(ATTENTION, attention_head_dim=None, num_class_embeds=6,
                      block_out_channels=[8, 16, 8], layers_per_block=2),
    "attention_scale_shift": dict(ATTENTION, **SCALE_SHIFT, attention_head_dim=4,
                                  num_class_embeds=6, block_out_channels=[8, 16, 16],
                                  layers_per_block=2),
    "middle": dict(PLAIN, attention_head_dim=8, block_out_channels=[8, 8, 16], layers_per_block=1),
}
TIMES, LABELS = np.float32([0, 250, 900, 500]), np.array([0, 4, 5, 2])


def pictures() -> np.ndarray:
    """Return four noisy pictures (4, 8, 8, 3)."""
    return np.random.default_rng(0).standard_normal((4, 8, 8, 3), dtype=np.float32)


def main():
    import diffusers
    import torch
    inputs, stored = torch.from_numpy(pictures().transpose(0, 3, 1, 2).copy()), {}
    for name, options in NETWORKS.items():
        network = diffusers.UNet2DModel(**COMMON, **options).eval()
        shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        network.load_state_dict({key: torch.from_numpy(value)
                                 for key, value in weights(shapes).items()})
        labels = torch.from_numpy(LABELS) if "num_class_embeds" in options else None
        with torch.no_grad():
            outputs = network(inputs, torch.from_numpy(TIMES), class_labels=labels).sample
        stored[name] = outputs.numpy().transpose(0, 2, 3, 1)
        stored[f"{name}_names"] = np.array(sorted(shapes))
        print(name, stored[name].min(), stored[name].max())
    versions = {"python": platform.python_version(), "torch": torch.__version__,
                "diffusers": diffusers.__version__, "numpy": np.__version__}
    np.savez_compressed(HERE / "unet.npz", versions=np.array(json.dumps(versions)), **stored)


if __name__ == "__main__":
    main()
