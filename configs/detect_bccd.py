"""Blood cells: BCCD's 205, 87 and 72 pictures of 640 x 480, red and white cells and platelets.

    python -m karpjax.prepare --format=coco --from=DIR --name=bccd    # instances_train.json, train/
    python -m karpjax.train --config=configs/detect_bccd.py --workdir=runs/bccd \\
        --config.init_from=efficientnet_lite0.safetensors

FCOS on EfficientNet-Lite0 with its published ImageNet weights, at 256 x 320: cells keep their form.
The recipe is the usual one for few pictures: BatchNorm keeps its statistics, the backbone learns a
tenth as fast, a moving average is evaluated. Published, on other splits and from COCO's weights:
AP50 of 92.4 (YOLOv8n) and 94.7 (NBCDC-YOLOv8). Ours: experiments/detection. Not measured yet.
"""
import karpjax
from karpjax.weights.archs import LITE


def get_config():
    return karpjax.config(
        task="detect",
        steps=6000,
        model=dict(name="fcos", backbone=dict(name="efficientnet_lite0"), strides=(8, 16, 32),
                   width=96, depth=2),
        data=dict(name="bccd", data_dir="", train="train", validation="val", test="test",
                  batch_size=8, size=(256, 320), objects=32, **LITE),
        augment=[dict(name="scale_jitter", size=(256, 320), scale=(0.8, 1.5), flip=0.5)],
        init_from="",
        frozen_statistics=True,
        optimizer=dict(name="adamw", weight_decay=1e-4, clip=1.0,
                       lr_scale=(("backbone/.*", 0.1),), learning_rate=dict(
            name="warmup_cosine_decay_schedule", init_value=0.0, peak_value=1e-3,
            warmup_steps=200)),
        ema_decay=0.998,
        log_every=20, eval_every=500, save_every=500,
        best="max validation/AP",
    )
