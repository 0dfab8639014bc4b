"""torchvision's LR-ASPP head on EfficientNet-Lite0: PyTorch's side of the comparison.

    python torch_lraspp.py FOLDER

FOLDER is written by ../detection/on_lite0.py, and gets torch.json, the losses
(experiments/torch_side.py).
"""
import json
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torchvision  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torchvision.models.segmentation.lraspp import LRASPPHead  # noqa: E402

from experiments.detection.torch_lite0 import (  # noqa: E402
    WIDTHS, Lite0, train_with_fixed_statistics)
from experiments.torch_side import adamw, load, serve_training  # noqa: E402

LOW, HIGH = 8, 32  # strides of the maps that the head reads


class LRASPP(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        self.backbone = Lite0()
        self.classifier = LRASPPHead(WIDTHS[LOW], WIDTHS[HIGH], classes, inter_channels=128)

    def forward(self, x):                                                    # (B, 3, H, W)
        maps = self.backbone(x)
        logits = self.classifier({"low": maps[LOW], "high": maps[HIGH]})
        return F.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)


def main(folder: pathlib.Path) -> None:
    size = json.loads((folder / "size.json").read_text())
    model = LRASPP(size["classes"])
    load(model.backbone, folder / "weights.npz")
    train_with_fixed_statistics(model)
    images, masks = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("image", "mask"))

    def loss_of(i):
        x = torch.from_numpy(images[i].astype(np.float32)).permute(0, 3, 1, 2)
        target = torch.from_numpy(masks[i].astype(np.int64))                 # (B, H, W)
        return F.cross_entropy(model(x), target, ignore_index=255)
    serve_training(folder, model, adamw(model, size["weight_decay"], slow="backbone"), loss_of,
                   size["rates"], size["clip"], f"torchvision {torchvision.__version__}, ")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
