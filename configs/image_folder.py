"""Pictures of your own of 28 to 64 pixels, from scratch: a folder of train/CLASS/*.png.

    python -m karpjax.train --config=configs/image_folder.py --config.data.dir=DIR \\
        --workdir=runs/mine
"""
import karpjax

EPOCHS, TRAINED = 8, 54_000
BATCH = 128


def get_config(side: str = "32"):
    if not side.isdigit() or int(side) < 16:
        raise karpjax.UserError("configs/image_folder.py:SIDE: expected the pixels of a side, 16 "
                                f"or more, found {side!r}")
    size = int(side)
    return karpjax.config(
        task="classify",
        steps=EPOCHS * TRAINED // BATCH,
        model=dict(name="resnet_cifar", depth=8),
        data=dict(dir="", train="train[:90%]", validation="train[90%:]", test="test",
                  batch_size=BATCH, resize=(size, size), mean=[127.0], std=[64.0]),
        augment=[dict(name="pad_crop", pixels=max(1, size // 14))],
        label_smoothing=0.1,
        optimizer=dict(name="sgd", momentum=0.9, nesterov=True, weight_decay=5e-4,
                       learning_rate=dict(name="cosine_onecycle_schedule", peak_value=0.2)),
        log_every=50, eval_every=400, save_every=400,
        best="",
    )
