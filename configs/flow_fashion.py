"""Flow matching on Fashion-MNIST: small pictures of clothes, made from noise, a class at will.

    karpjax prepare --format=idx --from=/usr/share/datasets/fashion-mnist --name=fashion_mnist
    karpjax train --config=configs/flow_fashion.py --workdir=runs/flow_fashion
    karpjax generate --workdir=runs/flow_fashion --n=64 --label=7 --guidance=2 --to=sneakers.png

A DiT of 6 layers, 192 wide, on patches of 4 x 4 (3.1 million parameters, 0.84 GFLOP a picture and
step). Not measured yet.

    --config.init_from=runs/flow_fashion         # go on from another flow
"""
import karpjax


def get_config():
    return karpjax.config(
        task="flow",
        steps=5000,
        model=dict(name="dit", patch=4, layers=6, width=192, heads=6),
        data=dict(name="fashion_mnist", train="train[:90%]", validation="train[90%:]", test="test",
                  batch_size=128, mean=[127.5], std=[127.5]),
        augment=[dict(name="flip")],
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
