"""New pictures like your own: flow matching on a folder of train/CLASS/*.jpg, from scratch.

    karpjax train --config=configs/flow_folder.py:32 --config.data.dir=DIR --workdir=runs/mine
    karpjax generate --workdir=runs/mine --n=36 --label=0 --guidance=2 --to=samples.png

Pictures are scaled to the side after the colon, 32 without it, a multiple of 8. The DiT cuts 8 x 8
patches out of one. A folder of one class is enough. A few hundred pictures are learned by heart:
nearest.png in the workdir shows it. From a flow of other pictures of that side fewer steps do:
--config.init_from=runs/other, with --config.init_skip='("label/.*",)' if its number of classes is
another. Not measured yet; the recipe is that of flow_fashion.py.
"""
import karpjax


def get_config(side: str = "32"):
    if not side.isdigit() or int(side) % 8 or not int(side):
        raise karpjax.UserError("configs/flow_folder.py:SIDE: expected the pixels of a side, a "
                                f"multiple of 8, found {side!r}")
    size = int(side)
    return karpjax.config(
        task="flow",
        steps=5000,
        model=dict(name="dit", patch=size // 8, layers=6, width=192, heads=6),
        data=dict(dir="", train="train[:90%]", validation="train[90%:]", test="",
                  batch_size=64, resize=(size, size), mean=[127.5], std=[127.5]),
        augment=[dict(name="flip")],         # leave it out where left and right differ, as in text
        target="picture",
        no_class=0.1,
        times=(0.0, 1.0),
        # of samples of the test pictures' classes, by other networks: tasks/flow_scores.py
        scores=dict(features="", inception="", judge="", samples=1, steps=20, guidance=1.0,
                    method="heun"),
        init_from="",
        init_skip=(),
        optimizer=dict(name="adamw", weight_decay=0.0, b2=0.99, clip=1.0, learning_rate=dict(
            name="warmup_cosine_decay_schedule", init_value=0.0, peak_value=1e-3,
            warmup_steps=200)),
        ema_decay=0.999,
        log_every=50, eval_every=1000, save_every=250,
        best="min validation/loss",
    )
