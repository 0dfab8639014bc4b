"""Digits on clutter, detected: scenes made on the fly, which need no file and no download.

    python -m karpjax.train --config=configs/detect_scenes.py --workdir=runs/detect_scenes

FCOS on a ResNet-20 of its own. Not measured yet; the aim is an AP of 0.6 in 10 minutes.
"""
import karpjax


def get_config():
    return karpjax.config(
        task="detect",
        steps=2000,
        model=dict(name="fcos", backbone=dict(name="resnet_cifar", depth=20), strides=(4, 8),
                   width=64, depth=2),
        data=dict(name="scenes", train=20_000, validation=200, test=500, batch_size=16,
                  size=(64, 64), objects=5),
        augment=[],
        frozen_statistics=False,
        score=0.05, overlap=0.6,
        optimizer=dict(name="adamw", weight_decay=1e-4, clip=1.0, learning_rate=dict(
            name="warmup_cosine_decay_schedule", init_value=0.0, peak_value=1e-3,
            warmup_steps=100)),
        ema_decay=0.99,
        log_every=20, eval_every=500, save_every=500,
        best="max validation/AP",
    )
