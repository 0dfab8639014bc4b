"""Made the goldens of diffusers' DiTTransformer2DModel, for tests/test_dit.py.

Run it once, in an environment of its own:

    pip install torch==2.13.0 numpy diffusers==0.39.0 transformers
    python tests/data/goldens/make_dit.py

dit.npz holds the outputs, and the versions. Weights are drawn from a seed by name; the embeddings,
which each block has, are those of the first block.
"""
import json
import pathlib
import platform
import re
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from data.goldens.make_vision import weights  # noqa: E402

DIT = dict(num_attention_heads=2, attention_head_dim=8, in_channels=3, out_channels=3,
           num_layers=2, sample_size=8, patch_size=2, num_embeds_ada_norm=5)
TIMES, LABELS = np.float32([0, 250, 900, 500]), np.array([0, 4, 5, 2])   # 5: no class


def pictures() -> np.ndarray:
    """Return four noisy pictures (4, 8, 8, 3)."""
    return np.random.default_rng(0).standard_normal((4, 8, 8, 3), dtype=np.float32)


def drawn(shapes: dict) -> dict:
    """Return {diffusers' name: values}."""
    arrays = weights(shapes)
    return {name: arrays[re.sub(r"blocks\.\d+\.norm1\.emb", "blocks.0.norm1.emb", name)]
            for name in arrays}


def main():
    import diffusers
    import torch
    network = diffusers.DiTTransformer2DModel(**DIT).eval()
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    network.load_state_dict({name: torch.from_numpy(value.copy())
                             for name, value in drawn(shapes).items()})
    inputs = torch.from_numpy(pictures().transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        outputs = network(inputs, timestep=torch.from_numpy(TIMES),
                          class_labels=torch.from_numpy(LABELS)).sample
    versions = {"python": platform.python_version(), "torch": torch.__version__,
                "diffusers": diffusers.__version__, "numpy": np.__version__}
    np.savez_compressed(HERE / "dit.npz", outputs=outputs.numpy().transpose(0, 2, 3, 1),
                        names=np.array(sorted(shapes)), versions=np.array(json.dumps(versions)))


if __name__ == "__main__":
    main()
