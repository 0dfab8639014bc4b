"""The same networks, loss and optimizer in PyTorch, as its users write them.

    python torch_worker.py NETWORK BATCH [channels_last]
"""
import pathlib
import sys

import torch
from torch import nn
import torch.nn.functional as F

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))
from experiments.speed.harness import serve  # noqa: E402


def conv_norm(inputs, outputs, stride=1):
    return [nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs)]


def cnn(width=32):
    """Return karpjax/models/cnn.py in PyTorch."""
    layers = [*conv_norm(3, width), nn.ReLU(), *conv_norm(width, 2 * width, 2), nn.ReLU(),
              *conv_norm(2 * width, 4 * width),
              nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10)]
    return nn.Sequential(*layers)


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.body = nn.Sequential(*conv_norm(inputs, outputs, stride), nn.ReLU(),
                                  *conv_norm(outputs, outputs))
        self.stride, self.side = stride, (outputs - inputs) // 2

    def forward(self, x):
        shortcut = F.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, self.side, self.side))
        return F.relu(self.body(x) + shortcut)


def resnet20():
    """Return karpjax/models/resnet_cifar.py in PyTorch."""
    layers, inputs = [*conv_norm(3, 16), nn.ReLU()], 16
    for width in (16, 32, 64):
        for i in range(3):
            layers.append(Block(inputs, width, 2 if width > 16 and i == 0 else 1))
            inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class Scaled(nn.Linear):
    def forward(self, x):
        return super().forward(x) / x.shape[1]


def airbench(widths=(64, 256, 256)):
    """Return karpjax/models/airbench.py in PyTorch."""
    whiten = nn.Conv2d(3, 24, 2)
    whiten.weight.requires_grad = False
    layers, inputs = [whiten, nn.GELU()], 24
    for width in widths:
        norms = [nn.BatchNorm2d(width, eps=1e-12, momentum=0.4) for _ in range(2)]
        for norm in norms:
            norm.weight.requires_grad = False
        layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.MaxPool2d(2),
                   norms[0], nn.GELU(),
                   nn.Conv2d(width, width, 3, padding=1, bias=False), norms[1], nn.GELU()]
        inputs = width
    return nn.Sequential(*layers, nn.MaxPool2d(3), nn.Flatten(), Scaled(inputs, 10, bias=False))


NETWORKS = {"cnn": cnn, "resnet20": resnet20, "airbench": airbench}


def main(network: str, batch_size: str, layout: str = ""):
    torch.manual_seed(0)
    model = NETWORKS[network]().train()
    images, labels = torch.randn(int(batch_size), 3, 32,
                                 32), torch.randint(0, 10, (int(batch_size),))
    if layout == "channels_last":
        model = model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01,
                                momentum=0.9)

    def run_steps(n):
        for _ in range(n):
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
        assert torch.isfinite(loss)
    serve(run_steps, f"torch {torch.__version__}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main(*sys.argv[1:])
