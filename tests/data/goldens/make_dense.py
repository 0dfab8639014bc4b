"""Made the goldens of torchvision's detector and segmenters, for tests/test_dense_weights.py.

Run it once, in an environment of its own:

    pip install torch==2.13.0 numpy
    pip install --no-deps torchvision==0.28.0
    python tests/data/goldens/make_dense.py

dense.npz has outputs of fcos_resnet50_fpn, fcn_resnet50 and deeplabv3_resnet50 with weights drawn
from a seed (make_vision.py), the detector's losses, its detections in pictures of three sizes, and
what batched_nms keeps of random boxes. The test draws pictures, weights and boxes with the
functions here, so that none need to be stored.
"""
import json
import pathlib
import platform
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from data.goldens.make_vision import images, weights  # noqa: E402

CLASSES, SIZE = 5, (96, 128)
SIZES = ((96, 128), (128, 80), (64, 128))  # (H, W) of pictures to detect in: the longer side is 128
SETS = 1000


def truth() -> list[dict]:
    """Return the boxes and labels of two pictures, the second without any."""
    boxes = np.array([[5, 8, 60, 70], [50, 10, 127, 90], [30.5, 40, 44, 51], [0, 0, 20, 33],
                      [52, 12, 120, 88]], np.float32)
    return [{"boxes": boxes, "labels": np.array([1, 4, 0, 2, 3])},
            {"boxes": np.zeros((0, 4), np.float32), "labels": np.zeros(0, np.int64)}]


def detector_weights(shapes: dict) -> dict:
    """Return weights whose detector finds a few things: its last layers are larger."""
    drawn = weights(shapes)
    for name, factor in (("cls_logits.weight", 3.0), ("bbox_reg.weight", 2.0)):
        drawn = {key: value * np.float32(factor) if key.endswith(name) else value
                 for key, value in drawn.items()}
    return drawn


def sets_of_boxes():
    """Yield (boxes (N, 4), scores (N,), labels (N,), threshold) of random sets, with ties."""
    rng = np.random.default_rng(2)
    for _ in range(SETS):
        n = int(rng.integers(1, 40))
        corner, sides = rng.uniform(0, 60, (n, 2)), rng.uniform(1, 40, (n, 2))
        boxes = np.concatenate([corner, corner + sides], axis=1).round().astype(np.float32)
        boxes[rng.integers(n)] = boxes[rng.integers(n)]  # two that are equal
        yield (boxes, rng.integers(0, 8, n).astype(np.float32) / 8 + np.float32(0.1),
               rng.integers(0, 3, n), float(rng.choice([0.3, 0.5, 0.6])))


def main():
    import torch
    import torchvision
    from torchvision.models import detection, segmentation
    from torchvision.ops import batched_nms
    made = {"versions": json.dumps({"python": platform.python_version(), "numpy": np.__version__,
                                    "torch": torch.__version__,
                                    "torchvision": torchvision.__version__})}

    def filled(network, draw):
        shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()
                  if value.ndim}
        stored = {key: torch.from_numpy(value) for key, value in draw(shapes).items()}
        missing, unexpected = network.load_state_dict(stored, strict=False)
        assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing)
        return network.eval()

    def pictures(size):
        array = images(2, 128)[:, :size[0], :size[1]] / 128 - 1
        return torch.from_numpy(array.transpose(0, 3, 1, 2).copy())

    with torch.no_grad():
        network = filled(detection.fcos_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=CLASSES, min_size=128, max_size=128,
            image_mean=[0, 0, 0], image_std=[1, 1, 1]), detector_weights)
        inputs = pictures(SIZE)
        features = list(network.backbone(inputs).values())
        outputs = network.head(features)
        for name in ("cls_logits", "bbox_regression", "bbox_ctrness"):
            made[name] = outputs[name].numpy()
        listed = detection.image_list.ImageList(inputs, [SIZE] * 2)
        anchors = network.anchor_generator(listed, features)
        counts = [x.size(2) * x.size(3) for x in features]
        targets = [{name: torch.from_numpy(value) for name, value in each.items()}
                   for each in truth()]
        for name, batch in (("both", targets), ("none", [targets[1]] * 2)):
            losses = network.compute_loss(batch, outputs, anchors, counts)
            made[f"losses_{name}"] = np.array([float(losses[key]) for key in (
                "classification", "bbox_regression", "bbox_ctrness")])
        network.transform.size_divisible = 128
        for i, size in enumerate(SIZES):
            (found,) = network([pictures(size)[0]])
            for key, value in found.items():
                made[f"{key}_{i}"] = value.numpy()
            print(size, {key: value.shape for key, value in found.items()},
                  found["scores"][:5], found["scores"][-3:])
        for name in ("fcn_resnet50", "deeplabv3_resnet50"):
            network = filled(getattr(segmentation, name)(
                weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True), weights)
            result = network(pictures(SIZE))
            for key, ours in (("out", name), ("aux", f"{name}_aux")):
                made[ours] = result[key].numpy()[:, :, ::6, ::6]
        x = torch.from_numpy(images(1, 24).transpose(0, 3, 1, 2).copy())
        for size in ((37, 24), (96, 80), (11, 13)):
            made[f"bilinear_{size[0]}"] = torch.nn.functional.interpolate(
                x, size=size, mode="bilinear", align_corners=False).numpy()
        kept = [batched_nms(*map(torch.from_numpy, each[:3]), each[3]).numpy()
                for each in sets_of_boxes()]
        made["nms"] = np.concatenate(kept).astype(np.uint8)
        made["nms_counts"] = np.array([len(each) for each in kept], np.uint8)
    np.savez_compressed(HERE / "dense.npz", **made)
    print({name: value.shape for name, value in made.items() if hasattr(value, "shape")})


if __name__ == "__main__":
    main()
