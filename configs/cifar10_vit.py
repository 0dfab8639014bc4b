"""A small ViT (Dosovitskiy et al. 2021) on CIFAR-10, from scratch or from cifar10_mae.py's weights.

    python -m karpjax.train --config=configs/cifar10_vit.py --workdir=runs/scratch
    python -m karpjax.train --config=configs/cifar10_vit.py --workdir=runs/tuned \\
        --config.init_from=runs/mae --config.optimizer.layer_decay=0.75

    --config.optimizer.freeze='("(?!head/).*",)'             # a linear probe

Results: experiments/mae.
"""
import karpjax

BATCH = 256
EPOCHS = 5


def get_config():
    return karpjax.config(
        task="classify",
        steps=EPOCHS * 45_000 // BATCH,
        model=dict(name="vit", patch=4, layers=6, width=128, heads=4, pool="mean", drop_path=0.1),
        data=dict(name="cifar10", train="train[:90%]", validation="train[90%:]", test="test",
                  batch_size=BATCH,
                  mean=[125.307, 122.961, 113.8575], std=[62.985, 62.0925, 66.708]),
        augment=[dict(name="flip"), dict(name="pad_crop", pixels=4)],
        label_smoothing=0.1,
        init_from="",
        init_skip=("head/.*", "decoder.*", "mask"),          # a MAE has a decoder and no head
        optimizer=dict(name="adamw", weight_decay=0.05, b2=0.98, layer_decay=1.0, freeze=(),
                       learning_rate=dict(
            name="warmup_cosine_decay_schedule", init_value=0.0, peak_value=1e-3,
            warmup_steps=180)),
        log_every=10, eval_every=180, save_every=180,
        best="max validation/accuracy",
    )
