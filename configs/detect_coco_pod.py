"""COCO on a pod slice: FCOS on ResNet-50, 640 x 640, 36 passes of train2017 on 16 chips.

    karpjax slices --config=configs/detect_coco_pod.py --slices=v5e-16     # memory and time first
    python -m karpjax.prepare --format=coco --from=DIR --name=coco    # annotations/, train2017/
    karpjax launch ...                                                     # README, pods

torchvision's FCOS reaches 39.2 AP with 12 passes of 800 x 1333 from ImageNet weights, which
init_from takes (resnet50.pth). Compiled ahead of time and never run here: no figure is ours.
"""
import karpjax
from karpjax.weights.archs import IMAGENET


def get_config():
    return karpjax.config(
        task="detect",
        steps=66_000,                          # 118,287 pictures, 64 a step, 36 times
        model=dict(name="fcos", backbone=dict(name="resnet", depth=50), **karpjax.models.FCOS_COCO),
        data=dict(name="coco", data_dir="", train="train", validation="val", batch_size=64,
                  size=(640, 640), objects=96, on_device="no", **IMAGENET),
        augment=[dict(name="scale_jitter", size=(640, 640), scale=(0.5, 1.5), flip=0.5)],
        init_from="",
        frozen_statistics=True,
        optimizer=dict(name="sgd", momentum=0.9, weight_decay=1e-4, clip=10.0, learning_rate=dict(
            name="warmup_cosine_decay_schedule", init_value=0.0, peak_value=0.04,
            warmup_steps=1000)),
        precision="bf16",
        log_every=100, eval_every=3000, save_every=3000, keep_every=0,
        best="max validation/AP",
    )
