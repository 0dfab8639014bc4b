"""torchvision's FCOS on EfficientNet-Lite0: PyTorch's side of the comparison.

    python torch_fcos.py FOLDER

FOLDER is written by on_lite0.py, and gets torch.json, the losses (experiments/torch_side.py).
Pictures come prepared, so that torchvision's own scaling is left out.
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
from torchvision.models.detection.anchor_utils import AnchorGenerator  # noqa: E402
from torchvision.models.detection.fcos import FCOS, FCOSHead  # noqa: E402
from torchvision.models.detection.image_list import ImageList  # noqa: E402
from torchvision.ops import FeaturePyramidNetwork  # noqa: E402

from experiments.detection.torch_lite0 import (  # noqa: E402
    WIDTHS, Lite0, train_with_fixed_statistics)
from experiments.torch_side import adamw, load, serve_training  # noqa: E402


class Backbone(nn.Module):
    def __init__(self, strides: list[int], width: int):
        super().__init__()
        self.body, self.strides, self.out_channels = Lite0(), strides, width
        self.fpn = FeaturePyramidNetwork([WIDTHS[stride] for stride in strides], width)

    def forward(self, x):
        maps = self.body(x)
        return self.fpn({str(stride): maps[stride] for stride in self.strides})


def make_model(size: dict) -> FCOS:
    """Return the network of our sizes, without its transform."""
    sides = tuple((stride,) for stride in size["strides"])
    anchors = AnchorGenerator(sides, ((1.0,),) * len(sides))
    head = FCOSHead(size["width"], 1, size["classes"], num_convs=size["depth"])
    return FCOS(Backbone(size["strides"], size["width"]), size["classes"], anchor_generator=anchors,
                head=head)


def losses_of(model: FCOS, images, targets: list[dict]) -> dict:
    """Return the three losses of prepared pictures (B, 3, H, W)."""
    features = list(model.backbone(images).values())
    outputs = model.head(features)
    sizes = [tuple(images.shape[-2:])] * len(images)
    anchors = model.anchor_generator(ImageList(images, sizes), features)
    counts = [x.shape[2] * x.shape[3] for x in features]
    return model.compute_loss(targets, outputs, anchors, counts)


def main(folder: pathlib.Path) -> None:
    size = json.loads((folder / "size.json").read_text())
    model = make_model(size)
    load(model, folder / "weights.npz")
    train_with_fixed_statistics(model)
    images, boxes, labels, valid = (np.load(folder / f"{name}.npy", mmap_mode="r")
                                    for name in ("image", "boxes", "labels", "valid"))

    def loss_of(i):
        x = torch.from_numpy(images[i].astype(np.float32)).permute(0, 3, 1, 2)
        targets = [{"boxes": torch.from_numpy(boxes[i, j][there]),
                    "labels": torch.from_numpy(labels[i, j][there]).long()}
                   for j, there in enumerate(valid[i] > 0)]
        return sum(losses_of(model, x, targets).values())
    serve_training(folder, model, adamw(model, size["weight_decay"], slow="backbone.body"), loss_of,
                   size["rates"], size["clip"], f"torchvision {torchvision.__version__}, ")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
