"""MAE (He et al. 2022) on CIFAR-10: a ViT of 6 layers, 128 wide, on patches of 4 x 4.

    python -m karpjax.train --config=configs/cifar10_mae.py --workdir=runs/mae
    python -m karpjax.train --config=configs/cifar10_vit.py --workdir=runs/tuned \\
        --config.init_from=runs/mae --config.optimizer.layer_decay=0.75

It is small enough for two cores. The labels are not read. The set must be prepared: python -m
karpjax.prepare --help. Its gain for cifar10_vit.py, and its time: experiments/mae. Published for
larger ones: ViT-Ti on patches of 2, from 74.13 % to 89.77 % after 2,000 epochs (IcarusWizard/MAE).
"""
import karpjax

BATCH = 512
EPOCHS = 20


def get_config():
    return karpjax.config(
        task="masked_image",
        steps=EPOCHS * 45_000 // BATCH,
        model=dict(name="mae", patch=4, layers=6, width=128, heads=4, decoder_layers=2,
                   decoder_width=64, decoder_heads=4),
        data=dict(name="cifar10", train="train[:90%]", validation="train[90%:]", test="",
                  batch_size=BATCH,
                  mean=[125.307, 122.961, 113.8575], std=[62.985, 62.0925, 66.708]),
        augment=[dict(name="flip"), dict(name="pad_crop", pixels=4)],
        mask_rate=0.75,
        optimizer=dict(name="adamw", weight_decay=0.05, b2=0.95,
                       freeze=("position", "decoder_position"), learning_rate=dict(
            name="warmup_cosine_decay_schedule", init_value=0.0, peak_value=1.5e-3,
            warmup_steps=2 * 45_000 // BATCH)),
        log_every=10, eval_every=90 * 5, save_every=90,
        best="",
    )
