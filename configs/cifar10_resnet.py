"""A ResNet on CIFAR-10, by the recipe of He et al. 2016, section 4.2.

    python -m karpjax.train --config=configs/cifar10_resnet.py --workdir=runs/resnet20
    python -m karpjax.train --config=configs/cifar10_resnet.py:56 --workdir=runs/resnet56

The paper is "Deep Residual Learning for Image Recognition". CIFAR-10 must be prepared, with TFDS or
from its files: see python -m karpjax.prepare. The paper's test accuracies, from 45,000 images as
here: 91.25 % (20 layers), 92.49 (32), 92.83 (44), 93.03 (56), 93.57 (110; 93.39 over 5 runs). No
run of this file has been made yet. Published weights of this network, converted (python -m
karpjax.convert), score 91.73 % (20) and 93.39 % (56): experiments/published_weights.
"""
import karpjax


def get_config(depth: str = "20"):
    if not depth.isdigit():
        raise karpjax.UserError("configs/cifar10_resnet.py:DEPTH: expected 20, 32, 44, 56 or 110, "
                                f"found {depth!r}")
    return karpjax.config(
        task="classify",
        steps=64_000,                     # of 128 images: 182 epochs of 45,000
        model=dict(name="resnet_cifar", depth=int(depth)),
        # Mean and std are ImageNet's, as for the published weights.
        data=dict(name="cifar10", train="train[:90%]", validation="train[90%:]", test="test",
                  batch_size=128, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
        augment=[dict(name="pad_crop", pixels=4), dict(name="flip")],
        # Divided by 10 at 32,000 and at 48,000. The paper warms 110 layers up at 0.01 until the
        # training error is below 80 %.
        optimizer=dict(name="sgd", momentum=0.9, weight_decay=1e-4, decay_all=True,
                       learning_rate=dict(
            name="exponential_decay", init_value=0.1, decay_rate=0.1, transition_begin=16_000,
            transition_steps=16_000, staircase=True)),
        log_every=100, eval_every=2000, save_every=2000,
        best="max validation/accuracy",
    )
