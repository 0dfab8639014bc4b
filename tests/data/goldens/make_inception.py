"""Made the golden of pytorch-fid's Inception-v3, for tests/test_inception.py.

Run it once, in an environment of its own:

    pip install torch==2.13.0 numpy scipy pillow
    pip install --no-deps torchvision==0.28.0 pytorch-fid==0.3.0
    python tests/data/goldens/make_inception.py

inception.npz holds the features and logits of two pictures, the pictures as the network sees them
at a few places, the names, and the versions. Weights are drawn from a seed by name, in place of the
file that pytorch-fid would download.
"""
import json
import pathlib
import platform
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from data.goldens.make_vision import images, weights  # noqa: E402

PLACES = slice(0, None, 13)  # of rows and columns of a prepared picture
GAIN = 1.8


def pictures() -> list[np.ndarray]:
    """Return a small and a large picture (1, H, W, 3) of uint8, neither of them square."""
    small, large = (images(1, size).astype(np.uint8) for size in (48, 420))
    return [small[:, :40], large[:, :, :333]]


def drawn(shapes: dict[str, tuple]) -> dict[str, np.ndarray]:
    """Return {pytorch-fid's name: values}, of which pictures are seen in the features.

    Kernels of mean 0 stop what all pictures share, the mean of ReLU. GAIN keeps the rest as large
    as it was.
    """
    def kernel(array):
        return np.float32(GAIN) * (array - array.mean((1, 2, 3), keepdims=True))
    return {name: kernel(array) if array.ndim == 4 else array
            for name, array in weights(shapes).items()}


def main():
    import torch
    # Torchvision's wheel is for CUDA: see make_vision.py.
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    from pytorch_fid import inception
    import torchvision

    bare = inception._inception_v3(num_classes=1008, aux_logits=False, weights=None)
    shapes = {name: tuple(value.shape) for name, value in bare.state_dict().items() if value.ndim}
    stored = {name: torch.from_numpy(value) for name, value in drawn(shapes).items()}
    inception.load_state_dict_from_url = lambda url, progress: stored
    network = inception.InceptionV3().eval()
    head = inception.fid_inception_v3().fc.eval()
    seen = []
    network.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        inputs = [torch.from_numpy(x.transpose(0, 3, 1, 2) / np.float32(255)) for x in pictures()]
        features = torch.cat([network(x)[0] for x in inputs])[:, :, 0, 0]          # (2, 2048)
        logits = head(features)
    places = torch.cat(seen).numpy().transpose(0, 2, 3, 1)[:, PLACES, PLACES]
    versions = {"python": platform.python_version(), "torch": torch.__version__,
                "torchvision": torchvision.__version__, "pytorch-fid": "0.3.0",
                "numpy": np.__version__}
    print(features.shape, features.std(), features.std(0).mean(), logits.abs().max())
    np.savez_compressed(HERE / "inception.npz", features=features.numpy(), logits=logits.numpy(),
                        places=places, names=np.array(sorted(shapes)),
                        versions=np.array(json.dumps(versions)))


if __name__ == "__main__":
    main()
