"""torchvision's LR-ASPP head on EfficientNet-Lite0: PyTorch's side of the comparison.

    python torch_lraspp.py FOLDER

FOLDER has weights.npz, image.npy, mask.npy and size.json, written by peer.py. The worker trains on
request (experiments/speed/harness.py). A request for -1 steps writes FOLDER/torch.json, the losses.
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
from torch.nn import functional as F  # noqa: E402
from torchvision.models.segmentation.lraspp import LRASPPHead  # noqa: E402

from experiments.detection.torch_lite0 import (  # noqa: E402
    WIDTHS, Lite0, adamw, train_with_fixed_statistics)
from experiments.speed.harness import serve  # noqa: E402

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
    torch.set_num_threads(os.cpu_count())
    size = json.loads((folder / "size.json").read_text())
    model = LRASPP(size["classes"])
    state = {name: torch.from_numpy(array) for name, array in
             np.load(folder / "weights.npz").items()}
    missing, unexpected = model.backbone.load_state_dict(state, strict=False)
    assert not unexpected and all("num_batches_tracked" in name for name in missing), missing
    model = train_with_fixed_statistics(model)
    optimizer, losses = adamw(model, "backbone", size["weight_decay"]), []
    images, masks = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("image", "mask"))

    def step():
        i = len(losses)
        x = torch.from_numpy(images[i].astype(np.float32)).permute(0, 3, 1, 2)
        target = torch.from_numpy(masks[i].astype(np.int64))                 # (B, H, W)
        for group in optimizer.param_groups:
            group["lr"] = size["rates"][i] * group["factor"]
        loss = F.cross_entropy(model(x), target, ignore_index=255)
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
