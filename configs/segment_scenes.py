"""Digits on clutter, segmented: scenes made on the fly, which need no file and no download.

    python -m karpjax.train --config=configs/segment_scenes.py --workdir=runs/segment_scenes

Semantic FPN on a ResNet-20 of its own. Not measured yet; the aim is 0.8 mIoU in 5 minutes.
"""
import karpjax


def get_config():
    return karpjax.config(
        task="segment",
        steps=1000,
        model=dict(name="semantic_fpn", backbone=dict(name="resnet_cifar", depth=20),
                   strides=(2, 4, 8), width=64),
        data=dict(name="scenes", train=20_000, validation=200, test=500, batch_size=16,
                  size=(64, 64), objects=5),
        augment=[],
        frozen_statistics=False,
        optimizer=dict(name="adamw", weight_decay=1e-4, clip=1.0, learning_rate=dict(
            name="warmup_cosine_decay_schedule", init_value=0.0, peak_value=1e-3,
            warmup_steps=100)),
        ema_decay=0.99,
        log_every=20, eval_every=500, save_every=500,
        best="max validation/mIoU",
    )
