"""torchvision's FCOS on EfficientNet-Lite0: PyTorch's side of the comparison.

    python torch_fcos.py FOLDER

FOLDER has weights.npz, batches.npy, truth.npz and size.json, written by peer.py. The worker trains
on request (experiments/speed/harness.py). A request for -1 steps writes FOLDER/torch.json, the
losses. Pictures come prepared, so that torchvision's own scaling is left out.
"""
import json
import os
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
    WIDTHS, Lite0, adamw, train_with_fixed_statistics)
from experiments.speed.harness import serve  # noqa: E402


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
    torch.set_num_threads(os.cpu_count())
    size = json.loads((folder / "size.json").read_text())
    model = make_model(size)
    state = {name: torch.from_numpy(array) for name, array in
             np.load(folder / "weights.npz").items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all("num_batches_tracked" in name for name in missing), missing
    train_with_fixed_statistics(model)
    optimizer = adamw(model, "backbone.body", size["weight_decay"])
    batches = np.load(folder / "batches.npy", mmap_mode="r")                 # (steps, B, H, W, 3)
    truth, losses = dict(np.load(folder / "truth.npz")), []

    def step():
        i = len(losses)
        images = torch.from_numpy(batches[i].astype(np.float32)).permute(0, 3, 1, 2)
        targets = [{"boxes": torch.from_numpy(boxes[valid > 0]),
                    "labels": torch.from_numpy(labels[valid > 0]).long()}
                   for boxes, labels, valid in zip(*(truth[name][i] for name in (
                       "boxes", "labels", "valid")), strict=True)]
        for group in optimizer.param_groups:
            group["lr"] = float(truth["rates"][i]) * group["factor"]
        loss = sum(losses_of(model, images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), size["clip"])
        optimizer.step()
        losses.append(loss.item())

    def run(steps):
        for _ in range(max(0, steps)):
            step()
        if steps < 0:
            (folder / "torch.json").write_text(json.dumps({"losses": losses}))
    serve(run, f"torch {torch.__version__}, torchvision {torchvision.__version__}, "
               f"{torch.get_num_threads()} threads")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
