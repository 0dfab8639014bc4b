"""Streets: CamVid's 367, 101 and 233 pictures of 480 x 360, 11 classes (Brostow et al. 2009).

    python -m karpjax.prepare --format=masks --from=DIR --name=camvid --classes=sky,building,pole,\\
road,pavement,tree,sign,fence,car,pedestrian,bicyclist             # train/, train_masks/, ...
    python -m karpjax.train --config=configs/segment_camvid.py --workdir=runs/camvid \\
        --config.init_from=efficientnet_lite0.safetensors

Semantic FPN on EfficientNet-Lite0 with its published ImageNet weights. Training sees crops of 240 x
320, evaluation whole pictures of 360 x 480. Published on this split: SegNet 46 to 60 mIoU by
schedule, FC-DenseNet103 66.9. Ours: experiments/segmentation. Not measured yet.
"""
import karpjax
from karpjax.weights.archs import LITE


def get_config():
    return karpjax.config(
        task="segment",
        steps=6000,
        model=dict(name="semantic_fpn", backbone=dict(name="efficientnet_lite0"), width=96),
        data=dict(name="camvid", data_dir="", train="train", validation="val", test="test",
                  batch_size=8, size=(360, 480), **LITE),
        augment=[dict(name="scale_jitter", size=(240, 320), scale=(1.0, 2.5), flip=0.5)],
        init_from="",
        frozen_statistics=True,
        optimizer=dict(name="adamw", weight_decay=1e-4, clip=1.0,
                       lr_scale=(("backbone/.*", 0.1),), learning_rate=dict(
            name="warmup_cosine_decay_schedule", init_value=0.0, peak_value=1e-3,
            warmup_steps=200)),
        ema_decay=0.998,
        log_every=20, eval_every=500, save_every=500,
        best="max validation/mIoU",
    )
