"""Flow matching on CIFAR-10, for one GPU.

    karpjax train --config=configs/flow_cifar10.py --workdir=runs/flow_cifar10
    karpjax train --config=configs/flow_cifar10.py:dit --workdir=runs/flow_cifar10_dit

A U-Net of 128 channels, the sizes of DDPM's (Ho et al. 2020, appendix B: 35.7 million parameters).
Batch, rate, clipping and moving average are those with which torchcfm reports an FID of 3.5 after
400,000 steps (its examples/images/cifar10). Not trained here.
"""
import karpjax

MODELS = {
    "": dict(name="unet", width=128, multiples=(1, 2, 2, 2), blocks=2, attention=(2,), dropout=0.1),
    "dit": dict(name="dit", patch=2, layers=12, width=384, heads=6)}


def get_config(model=""):
    if model not in MODELS:
        raise karpjax.UserError(f"flow_cifar10.py:{model}: expected nothing, the U-Net, or dit")
    return karpjax.config(
        task="flow",
        steps=400_000,
        model=MODELS[model],
        data=dict(name="cifar10", train="train[:98%]", validation="train[98%:]", test="test",
                  batch_size=128, mean=[127.5], std=[127.5]),
        augment=[dict(name="flip")],
        target="velocity",
        no_class=0.1,
        times=(0.0, 1.0),
        # of samples of the test pictures' classes, by other networks: tasks/flow_scores.py
        scores=dict(features="", inception="", judge="", samples=1, steps=20, guidance=1.0,
                    method="heun"),
        precision="bf16",
        optimizer=dict(name="adam", clip=1.0, learning_rate=dict(
            name="linear_schedule", init_value=0.0, end_value=2e-4, transition_steps=5000)),
        ema_decay=0.9999,
        log_every=100, eval_every=20_000, save_every=5000,
        best="",
    )
