"""Made the goldens of other people's PyTorch networks, for tests/test_convert.py.

Run it once, in an environment of its own:

    pip install torch==2.13.0 numpy safetensors efficientnet-lite-pytorch==0.1.0
    pip install --no-deps torchvision==0.28.0
    python tests/data/goldens/make_vision.py ../shared/data/weights/efficientnet_lite0.safetensors

efficientnet_lite0.npz      efficientnet_lite_pytorch with the published weights
resnet18.npz, resnet50.npz  torchvision's models with weights drawn from a seed
resnet_cifar20.npz          the CIFAR network, in plain PyTorch below, likewise

Every file also holds the versions it was made with. The test draws images and weights with the
functions here, so that none need to be stored.
"""
import json
import pathlib
import platform
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent


def images(n: int, size: int) -> np.ndarray:
    """Return images (n, size, size, 3) in [0, 255]: smooth blobs of colour with some noise."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (n, 8, 8, 3))
    at = np.linspace(0, 7, size)
    low, part = np.minimum(at.astype(int), 6), at - np.minimum(at.astype(int), 6)
    # (n, size, 8, 3)
    rows = coarse[:, low] * (1 - part)[:, None, None] + coarse[:, low + 1] * part[:, None, None]
    # (n, size, size, 3)
    blobs = rows[:, :, low] * (1 - part)[:, None] + rows[:, :, low + 1] * part[:, None]
    return np.clip(blobs + rng.normal(0, 20, blobs.shape), 0, 255).astype(np.float32)


def weights(shapes: dict[str, tuple]) -> dict[str, np.ndarray]:
    """Return {PyTorch's name: values}, drawn name by name in sorted order.

    Their size keeps activations in range.
    """
    rng, arrays = np.random.default_rng(1), {}
    for name, shape in sorted(shapes.items()):
        draw = rng.standard_normal(shape, dtype=np.float32)
        if name.endswith("running_var"):
            draw = 1 + draw**2 / 4
        elif len(shape) > 1:
            draw = draw * np.float32(np.prod(shape[1:])) ** -0.5
        else:  # norms and biases
            draw = draw / 4 + (1 if name.endswith("weight") else 0)
        arrays[name] = draw.astype(np.float32)
    return arrays


def main(lite_weights):
    import torch
    versions = {"python": platform.python_version(), "torch": torch.__version__,
                "numpy": np.__version__}
    # Torchvision's wheel is for CUDA: its compiled operators do not load beside PyTorch for the
    # CPU. They are no part of these models. Once declared, they let its Python be imported.
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    from efficientnet_lite_pytorch import EfficientNet
    import safetensors.torch
    import torchvision

    def write(name, network, stored: dict, inputs: np.ndarray, **extra):
        missing, unexpected = network.load_state_dict(stored, strict=False)
        counters = all(key.endswith("num_batches_tracked") for key in missing)
        assert not unexpected and counters, (missing, unexpected)
        with torch.no_grad():
            logits = network.eval()(torch.from_numpy(inputs.transpose(0, 3, 1, 2).copy())).numpy()
        np.savez(HERE / f"{name}.npz", logits=logits, versions=json.dumps({**versions, **extra}))
        print(name, logits.shape, logits.min(), logits.max(), logits.argmax(-1), extra)

    def random(network):
        shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()
                  if value.ndim}
        return {key: torch.from_numpy(value) for key, value in weights(shapes).items()}

    write("efficientnet_lite0", EfficientNet.from_name("efficientnet-lite0"),
          safetensors.torch.load_file(lite_weights), (images(3, 224) - 127) / 128,
          efficientnet_lite_pytorch="0.1.0")
    for depth in (18, 50):
        network = getattr(torchvision.models, f"resnet{depth}")(num_classes=10)
        write(f"resnet{depth}", network, random(network), images(2, 96) / 128 - 1,
              torchvision=torchvision.__version__)
    network = cifar_resnet(torch, depth=20)
    write("resnet_cifar20", network, random(network), images(2, 32) / 128 - 1)


def cifar_resnet(torch, depth: int):
    """Return the network of akamaster/pytorch_resnet_cifar10, with its names.

    Its repository is no package.
    """
    nn, pad = torch.nn, torch.nn.functional.pad

    class Block(nn.Module):
        def __init__(self, inputs, planes, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(planes)
            self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(planes)
            self.stride, self.side = stride, (planes - inputs) // 2

        def forward(self, x):
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(y + pad(x[:, :, ::self.stride, ::self.stride],
                                      (0, 0, 0, 0, self.side, self.side)))

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(16)
            self.linear = nn.Linear(64, 10)

            def stage(inputs, planes, stride):
                rest = [Block(planes, planes, 1) for _ in range(depth // 6 - 1)]
                return nn.Sequential(Block(inputs, planes, stride), *rest)
            self.layer1 = stage(16, 16, 1)
            self.layer2 = stage(16, 32, 2)
            self.layer3 = stage(32, 64, 2)

        def forward(self, x):
            x = self.layer3(self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x))))))
            return self.linear(x.mean((2, 3)))
    return Network()


if __name__ == "__main__":
    main(*sys.argv[1:])
